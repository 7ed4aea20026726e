"""`cil-jax answers` from a checkout: `python -m experiments.answers`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["answers", *sys.argv[1:]])
