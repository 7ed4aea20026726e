"""`cil-jax fixed` from a checkout: `python -m experiments.fixed`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["fixed", *sys.argv[1:]])
