"""The error that users can fix, and its message for an unknown name or a missing package."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence


class UserError(Exception):
    """An error that the user can fix.

    Args:
      message: one line that says what is wrong and what to do.
      details: further lines, one per problem, if there are several.

    Attributes:
      lines: the message and the details.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        self.lines = (message, *details)
        super().__init__("\n  ".join(self.lines))


class MissingExtra(UserError):
    """An optional package is not installed."""


@contextlib.contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """A context in which optional packages are imported.

    Args:
      extra: the extra of cil_jax that installs them, such as "plots".
      purpose: what needs them, such as "figures".

    Raises:
      MissingExtra: which package is missing, and how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtra(
            f"{purpose} need {package}, which is not installed: pip install 'cil_jax[{extra}]'"
        ) from error


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known name, and all choices.

    Args:
      name: the unknown name.
      known: the names that exist. They are listed if there are at most 12.

    Returns:
      A text to append to the message, such as ": choose from sgd, adam".
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f": did you mean {close[0]!r}?" if close else ""
    if len(known) > 12:
        return guess or "; see --help for the known ones"
    choices = ", ".join(known)
    return f"{guess} The choices are {choices}" if guess else f": choose from {choices}"
