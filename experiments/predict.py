"""`cil-jax predict` from a checkout: `python -m experiments.predict`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
