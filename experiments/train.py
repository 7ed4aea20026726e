"""`cil-jax train` from a checkout: `python -m experiments.train`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
