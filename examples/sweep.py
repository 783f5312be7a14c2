"""Policies, parameters, scenarios and seeds crossed, in processes of their own."""

import memcoord

if __name__ == "__main__":
    grid = {
        "sweep": {"policies": ["greedy", "smart-alloc"], "scenarios": ["usemem"], "seeds": 1},
        "parameters": {"smart-alloc": {"P": [1, 4]}},
        "set": {"scale": [0.1]},
    }
    # A second call would go on with what is in the directory; without workers, one per CPU.
    found = memcoord.sweep(grid, out="small.sweep", workers=1)
    print(*found.verdict, sep="\n")
    print(found.table["policy"], found.table["worst_slowdown"])
