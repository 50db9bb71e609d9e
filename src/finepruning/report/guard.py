"""A report that was read from a file may hold anything: what that breaks is said in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .._errors import FinepruningError

P = ParamSpec("P")
R = TypeVar("R")


def guarded(show: Callable[P, R]) -> Callable[P, R]:
    """``show``, raising :class:`FinepruningError` where the report it is given is damaged."""

    @functools.wraps(show)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return show(*args, **kwargs)
        except FinepruningError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise FinepruningError(
                f"report: damaged ({' '.join(why.split())[:200]}); personalise anew"
            ) from error

    return shown
