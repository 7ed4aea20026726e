"""iCaRL (Rebuffi et al. 2017): exemplars, distillation, and the nearest mean of exemplars.

The full experiment is CIFAR-100 in 10 tasks of 10 classes, ResNet-32, 70 epochs per task, 2000
exemplars:

  python -m experiments.icarl --accelerator gpu
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("icarl", "paper", __doc__)
