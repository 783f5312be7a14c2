"""Policies, parameters, scenarios and seeds crossed, in processes of their own."""

import memcoord

if __name__ == "__main__":
    grid = {
        "sweep": {"policies": ["greedy", "smart-alloc"], "scenarios": ["usemem"], "seeds": 1},
        "parameters": {"smart-alloc": {"P": [1, 4]}},
        "set": {"scale": [0.1]},
    }
    found = memcoord.sweep(grid, out="small.sweep")  # a second call would go on with it
    print(*found.verdict, sep="\n")
    print(found.table["policy"], found.table["worst_slowdown"])
