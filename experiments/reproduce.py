"""`cil-jax reproduce` from a checkout: `python -m experiments.reproduce`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
