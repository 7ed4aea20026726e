"""Train any method: one of the package by its name, or one of your own by its file and class.

  python -m experiments.train --list
  python -m experiments.train --method icarl --preset paper
  python -m experiments.train --method my_method.py:Mine --dataset digits --task-size 2

A class of your own is a subclass of cil_jax.methods.Method; --backbone takes one of your own, too.
"""

from cil_jax.app.command_line import main_of_any_method

if __name__ == "__main__":
    main_of_any_method(__doc__)
