"""How the constants of the method are declared: each with its default and the values it may have.

The records of options lie beside the functions that use them; :class:`finepruning.Config` puts
them together, checks them by what is declared here, and saves them with the artifact.
"""

from __future__ import annotations

import math
import sys
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any


def number(
    default: float, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf
) -> Any:
    """A dataclass field for a number: at least ``low`` and more than ``above``, at most ``high``.

    A default that is an ``int`` takes whole numbers only.
    """
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def flag(default: bool) -> Any:
    """A dataclass field for yes or no."""
    return field(default=default, metadata={"flag": True})


def share(default: float | None) -> Any:
    """A dataclass field for a number above 0, at most 1, or None: there is none."""
    return field(default=default, metadata={"share": True})


def choice(default: str, *others: str) -> Any:
    """A dataclass field for one of some words."""
    return field(default=default, metadata={"choices": (default, *others)})


def problem(record: Any, name: str) -> str:
    """What is wrong with the value of one field of ``record``; empty: nothing.

    >>> from finepruning.core.plan import PlanOptions
    >>> problem(PlanOptions(tempering=2.0), "tempering")
    'must be at most 1'
    """
    declared: Field[Any] = next(f for f in fields(record) if f.name == name)
    value, rules = getattr(record, name), declared.metadata
    if "choices" in rules:
        return "" if value in rules["choices"] else f"choose one of {', '.join(rules['choices'])}"
    if "flag" in rules:
        return "" if isinstance(value, bool) else "must be True or False"
    if "share" in rules:
        sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        return "" if value is None or sound else "must be above 0, and at most 1, such as 0.5"
    if is_dataclass(declared.default) and type(value) is not type(declared.default):
        return f"must be of class {type(declared.default).__name__}"
    if "low" not in rules:
        return ""
    whole = declared.default is not MISSING and isinstance(declared.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return "must be a whole number" if whole else "must be a number"
    if not abs(value) <= sys.float_info.max:  # NaN, infinite, or an int beyond any float
        return "must be finite"
    if value <= rules["above"]:
        return f"must be above {rules['above']:g}"
    if value < rules["low"]:
        return f"must be at least {rules['low']:g}"
    return f"must be at most {rules['high']:g}" if value > rules["high"] else ""
