"""One way to say that a name is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, given: str, valid: Iterable[str], *, hint: str = "") -> str:
    """Say in one line that `given` is no valid `what`, and which valid name is nearest.

    Args:
        what: the kind of thing named (``arch``, ``dataset``).
        given: the name as it was given.
        valid: the valid names. All are listed when there are at most twelve.
        hint: what else would be accepted, or where the full list is.
    """
    names = sorted(valid)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    message = f"unknown {what} {given!r}"
    if near:
        message += f"; did you mean {near[0]!r}?"
    if len(names) <= 12:
        message += f" (valid: {', '.join(names)})"
    return message + (f"; {hint}" if hint else "")
