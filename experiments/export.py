"""`cil-jax export` from a checkout: `python -m experiments.export`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
