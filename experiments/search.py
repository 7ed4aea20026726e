"""`cil-jax search` from a checkout: `python -m experiments.search`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["search", *sys.argv[1:]])
