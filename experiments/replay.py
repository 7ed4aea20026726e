"""`cil-jax replay` from a checkout: `python -m experiments.replay`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
