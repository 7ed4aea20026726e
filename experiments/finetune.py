"""`cil-jax finetune` from a checkout: `python -m experiments.finetune`."""

import sys

from cil_jax.commands import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
