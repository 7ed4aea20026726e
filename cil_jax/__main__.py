"""`python -m cil_jax`, which is the command `cil-jax`."""

from cil_jax.commands import main

if __name__ == "__main__":
    main()
