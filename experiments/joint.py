"""Joint training: train a new network on all classes seen so far. This is the upper bound.

The full experiment is all 100 classes of CIFAR-100 in one task, ResNet-32, 70 epochs:

  python -m experiments.joint --task-size 100 --accelerator gpu

With smaller tasks, a new network is trained for each task, on the data of all tasks so far.
"""

from cil_jax.app.command_line import main

if __name__ == "__main__":
    main("joint", "paper", __doc__)
