"""`cil-jax prepare` from a checkout: `python -m experiments.prepare`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
