"""finepruning: make a pretrained network personal from unlabelled data, forward passes only.

>>> import finepruning
>>> result = finepruning.personalize(model, batches, sparsity=0.7)  # doctest: +SKIP
>>> result.save("me/")  # doctest: +SKIP
>>> model = finepruning.load("me/", base)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .report.account import LayerReport, Report
    from ._artifact import load, read_report
    from ._config import Config
    from ._errors import FinepruningError
    from ._evaluate import Evaluation, evaluate, wilson
    from ._personalize import Result, personalize

_ROOMS = {
    "LayerReport": "report.account",
    "Report": "report.account",
    "load": "_artifact",
    "read_report": "_artifact",
    "Config": "_config",
    "FinepruningError": "_errors",
    "Evaluation": "_evaluate",
    "evaluate": "_evaluate",
    "wilson": "_evaluate",
    "Result": "_personalize",
    "personalize": "_personalize",
}

__all__ = [
    "Config",
    "Evaluation",
    "FinepruningError",
    "LayerReport",
    "Report",
    "Result",
    "__version__",
    "evaluate",
    "load",
    "personalize",
    "read_report",
    "wilson",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``finepruning --help`` needs no PyTorch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'finepruning' has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
