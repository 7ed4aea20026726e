"""Checks of what a method's hooks return, while their programs are traced.

An array too many in the learner would go unnoticed until a checkpoint can't be restored, and a
wrong type would end in a message about the inside of the engine.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.errors import UserError
from cil_jax.learner import Learner, schema
from cil_jax.methods.base import Method
from cil_jax.methods.plan import Train
from cil_jax.network import Output


def same_learner(hook: Callable[..., Any], before: Learner, after: Any) -> Learner:
    """Checks that a hook has returned a learner with the arrays that it was given.

    Args:
      hook: what has returned it.
      before: the learner that the hook was given.
      after: what it has returned.

    Returns:
      The learner.

    Raises:
      UserError: what differs.
    """
    if not isinstance(after, Learner):
        kind = "nothing" if after is None else f"a {type(after).__name__}"
        raise UserError(f"{_name(hook)} must return the learner; it has returned {kind}")
    had, has = schema(before), schema(jax.eval_shape(lambda: after))  # also of Python numbers
    for path in [*had, *has]:
        if had.get(path) != has.get(path):
            raise UserError(
                f"{_name(hook)} must not change the arrays of the learner in number, shape or "
                f"type: learner{path} was {had.get(path, 'absent')} and is "
                f"{has.get(path, 'absent')}; what a method keeps is declared by its `own`"
            )
    return after


def loss_result(
    method: Method, training: Train, returned: Any, names: Iterable[str]
) -> tuple[Any, Any]:
    """Checks that a loss has returned (loss, (parts, output)).

    Args:
      method: whose loss it is.
      training: the training that it is for.
      returned: what it has returned.
      names: the names that its parts must have.

    Raises:
      UserError: what is wrong.
    """
    name = _name(training.loss or method.loss)
    must = f"{name} must return (loss, (parts, output))"
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    if not (is_pair and isinstance(returned[1], tuple) and len(returned[1]) == 2):
        raise UserError(f"{must}; it has returned {_kind(returned)}")
    loss, (parts, output) = returned
    if jnp.shape(loss):
        raise UserError(f"{must}, and the loss must be one number; it has shape {jnp.shape(loss)}")
    if not isinstance(output, Output):
        raise UserError(f"{must} with the network's output; the output is {_kind(output)}")
    has = set(parts) if isinstance(parts, Mapping) else None
    if has != set(names):
        known = "`parts` of the step" if training.parts is not None else "`parts` of the method"
        raise UserError(
            f"{must}, where {known} names {sorted(names)}; the parts are "
            f"{_kind(parts) if has is None else sorted(has)}"
        )
    return returned


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_kind, value))})"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _name(hook: Callable[..., Any]) -> str:
    """The name of a hook for messages, such as 'Mine.loss'."""
    owner = getattr(hook, "__self__", None)
    name = getattr(hook, "__name__", type(hook).__name__)
    return name if owner is None else f"{type(owner).__name__}.{name}"
