"""Learning without Forgetting (Li and Hoiem 2016): distillation on new images, no old ones kept.

  python -m experiments.lwf --accelerator gpu

is the full job: CIFAR-100, 10 tasks of 10 classes, ResNet-32, 200 then 250 epochs.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("lwf", "pycil", __doc__)
