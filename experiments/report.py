"""`cil-jax report` from a checkout: `python -m experiments.report`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
