"""Finetuning: cross-entropy on each new task and nothing against forgetting. The lower bound.

  python -m experiments.finetune --accelerator gpu

is the full job: CIFAR-100, 10 tasks of 10 classes, ResNet-32, 70 epochs a task.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("finetune", "seed", __doc__)
