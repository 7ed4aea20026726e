"""Fixed representation (Rebuffi et al. 2017): features frozen after the first task.

  python -m experiments.fixed --accelerator gpu

is the full job: CIFAR-100, 10 tasks of 10 classes, ResNet-32, 70 epochs a task.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("fixed", "paper", __doc__)
