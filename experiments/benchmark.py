"""`cil-jax benchmark` from a checkout: `python -m experiments.benchmark`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
