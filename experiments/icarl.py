"""iCaRL (Rebuffi et al. 2017): exemplars, distillation, and the nearest mean of exemplars.

  python -m experiments.icarl --accelerator gpu

is the full job: CIFAR-100, 10 tasks of 10 classes, ResNet-32, 70 epochs a task, 2000 exemplars.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("icarl", "paper", __doc__)
