"""`cil-jax accelerator` from a checkout: `python -m experiments.accelerator`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["accelerator", *sys.argv[1:]])
