"""`cil-jax why` from a checkout: `python -m experiments.why`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["why", *sys.argv[1:]])
