"""`cil-jax scenario` from a checkout: `python -m experiments.scenario`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["scenario", *sys.argv[1:]])
