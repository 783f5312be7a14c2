"""Three policies on one scenario, in virtual time: a verdict and a figure."""

import memcoord

run = memcoord.simulate("main", ["greedy", "smart-alloc:P=2", "fallow"], scale=0.2, seeds=1)
print(*run.verdict, sep="\n")
run.plot("main.svg")  # and the data beside it, main.csv
