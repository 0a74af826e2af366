"""Bad input in one line: what was given, what was wanted, the nearest valid name, how to fix it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable

# More names than this are not listed in a message: architectures alone are over a thousand.
LISTED = 16


class InputError(Exception):
    """What the user gave cannot be used; the message is one line, and the CLI exits with 2.

    Line breaks and control characters of the message (a study file may hold any text) become
    spaces, so that one problem is one line wherever it is printed.
    """

    def __init__(self, message: str) -> None:
        shown = "".join(c if c.isprintable() else " " for c in message)
        super().__init__(" ".join(shown.split()))


class FieldError(ValueError):
    """A problem at a path below the value that is being validated; pydantic carries it outwards.

    Attributes:
        message: what is wrong there, in one line.
        path: keys and indices from the validated value to the culprit.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def nearest(given: object, valid: Iterable[str]) -> str | None:
    """Return the valid name that `given` most resembles, or None if none resembles it."""
    names = list(valid)
    text = str(given)
    found = difflib.get_close_matches(text, names, n=1)
    if not found:
        lower = {name.lower(): name for name in names}
        found = [lower[n] for n in difflib.get_close_matches(text.lower(), lower, n=1)]
    return found[0] if found else None


def suggest(given: object, valid: Iterable[str]) -> str:
    """Say which name may have been meant and which are valid, as the end of a message.

    >>> suggest("epochz", ["epochs", "lr"])
    "; did you mean 'epochs'? (valid: epochs, lr)"
    """
    names = list(valid)
    near = nearest(given, names)
    hint = f"; did you mean {near!r}?" if near else ""
    if not names:
        return f"{hint} (there are none)"
    listed = ", ".join(names[:LISTED])
    more = f", ... {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{hint} (valid: {listed}{more})"


def shown(value: object, width: int = 60) -> str:
    """Write a value of a study file as the file would, cut to `width` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def joined(path: Iterable[str | int]) -> str:
    """Write a path of keys and indices: ``('claims', 2, 'kind')`` -> ``claims[2].kind``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def located(path: Iterable[str | int], message: str) -> str:
    """Put a path before a message."""
    where = joined(path)
    return f"{where}: {message}" if where else message
