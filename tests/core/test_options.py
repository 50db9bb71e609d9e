"""How constants are declared, and what is said of a value that is none of theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from finepruning.core.options import choice, flag, number, problem


@dataclass(frozen=True)
class Inner:
    value: float = number(1.0)


@dataclass(frozen=True)
class Options:
    """One of each kind."""

    between: float = number(0.5, 0, 1)
    above: float = number(0.5, above=0)
    most: float = number(0.5, high=2)
    whole: int = number(3, 1, 9)
    free: float = number(0.5)
    yes: bool = flag(True)
    word: str = choice("one", "two")
    inner: Inner = field(default=Inner())
    other: Any = None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("between", 0), ("between", 1), ("between", 0.3), ("above", 1e-300), ("above", 10**9),
        ("most", -1e9), ("most", 2), ("whole", 1), ("whole", 9), ("free", -7), ("yes", False),
        ("word", "one"), ("word", "two"), ("inner", Inner(2.0)), ("other", "anything"),
    ],
)  # fmt: skip
def test_accepted(name: str, value: Any) -> None:
    assert problem(Options(**{name: value}), name) == ""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("between", -0.1, "must be at least 0"), ("between", 1.1, "must be at most 1"),
        ("above", 0, "must be above 0"), ("above", -1, "must be above 0"),
        ("most", 2.5, "must be at most 2"), ("whole", 0, "must be at least 1"),
        ("whole", 10, "must be at most 9"), ("whole", 3.0, "must be a whole number"),
        ("whole", True, "must be a whole number"), ("between", False, "must be a number"),
        ("between", "0.5", "must be a number"), ("between", None, "must be a number"),
        ("between", [0.5], "must be a number"), ("free", math.nan, "must be finite"),
        ("free", -math.inf, "must be finite"), ("free", 10**400, "must be finite"),
        ("whole", 10**400, "must be finite"), ("yes", 1, "must be True or False"),
        ("yes", "no", "must be True or False"), ("word", "three", "choose one of one, two"),
        ("word", None, "choose one of one, two"), ("word", ["one"], "choose one of one, two"),
        ("inner", 3, "must be of class Inner"), ("inner", None, "must be of class Inner"),
        ("inner", Options(), "must be of class Inner"),
    ],
)  # fmt: skip
def test_refused(name: str, value: Any, said: str) -> None:
    assert problem(Options(**{name: value}), name) == said


def test_the_default_is_the_declared_one() -> None:
    assert Options() == Options(0.5, 0.5, 0.5, 3, 0.5, True, "one", Inner(1.0), None)
    assert all(not problem(Options(), name) for name in Options.__dataclass_fields__)
