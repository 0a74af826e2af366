"""What the store refuses, each as one clear line.

The names say what the sweep or the rows are; all but the base class do without an `Error` suffix.
"""
# ruff: noqa: N818


class StoreError(Exception):
    """Something about a home or a sweep that the user or the caller must know, in one line."""


class UnknownSweep(StoreError):
    """The home holds no sweep of that name."""


class SweepBusy(StoreError):
    """Another live driver holds the sweep's lease."""


class Fenced(StoreError):
    """A newer driver has taken the sweep over: this writer can never commit again."""


class Damaged(StoreError):
    """A stored file is missing, or is not what was committed."""


class BadRows(StoreError):
    """Rows that do not fit the schema, or that break a rule between the tables."""


class DuplicateRows(BadRows):
    """Rows whose key is committed already."""
