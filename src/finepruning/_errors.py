"""The package's one exception type."""

from __future__ import annotations


class FinepruningError(ValueError):
    """Something the user can mend: the message says what, where, and the fix, in one line."""
