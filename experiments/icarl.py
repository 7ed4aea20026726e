"""`cil-jax icarl` from a checkout: `python -m experiments.icarl`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["icarl", *sys.argv[1:]])
