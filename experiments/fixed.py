"""Fixed representation (Rebuffi et al. 2017): freeze the features after the first task.

The full experiment is CIFAR-100 in 10 tasks of 10 classes, ResNet-32, 70 epochs per task:

  python -m experiments.fixed --accelerator gpu
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("fixed", "paper", __doc__)
