"""Finetuning: train on each new task and do nothing against forgetting. This is the lower bound.

The full experiment is CIFAR-100 in 10 tasks of 10 classes, ResNet-32, 70 epochs per task:

  python -m experiments.finetune --accelerator gpu
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("finetune", "seed", __doc__)
