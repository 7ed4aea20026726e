"""Learning without Forgetting (Li and Hoiem 2016): distillation on new images, without exemplars.

The full experiment is CIFAR-100 in 10 tasks of 10 classes, ResNet-32, 200 epochs for the first task
and 250 for each other one:

  python -m experiments.lwf --accelerator gpu
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("lwf", "pycil", __doc__)
