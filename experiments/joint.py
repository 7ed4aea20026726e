"""`cil-jax joint` from a checkout: `python -m experiments.joint`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["joint", *sys.argv[1:]])
