"""`cil-jax compare` from a checkout: `python -m experiments.compare`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
