"""`cil-jax exemplars` from a checkout: `python -m experiments.exemplars`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["exemplars", *sys.argv[1:]])
