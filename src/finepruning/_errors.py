"""The package's one exception type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FinepruningError(ValueError):
    """Something the user can mend: the message says what, where, and the fix, in one line."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever another library raises within becomes ours, in one line that begins with ``what``.

    >>> with told("bank: cannot be reached"):
    ...     raise OSError("no\\nroute")
    Traceback (most recent call last):
    finepruning._errors.FinepruningError: bank: cannot be reached (OSError: no route)
    """
    try:
        yield
    except FinepruningError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise FinepruningError(f"{what} ({why})") from error
