"""`cil-jax lwf` from a checkout: `python -m experiments.lwf`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["lwf", *sys.argv[1:]])
