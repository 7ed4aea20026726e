"""Replay: finetune on new images and exemplars together, without distillation.

The full experiment is CIFAR-100 in 10 tasks of 10 classes, ResNet-32, 200 epochs for the first task
and 70 for each other one, 2000 exemplars:

  python -m experiments.replay --accelerator gpu
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("replay", "pycil", __doc__)
