"""The libraries that models come from: they may be missing, and their errors are long."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from .._errors import FinepruningError


def import_library(library: str, where: str, hint: str = "") -> ModuleType | Any:
    try:
        return importlib.import_module(library)
    except Exception as error:  # a torchvision built for another PyTorch raises RuntimeError
        raise FinepruningError(
            f"{where}: needs {library}, which cannot be imported here ({one_line(error)});"
            f" pip install {library}{hint}"
        ) from error


def one_line(error: BaseException) -> str:
    """The first two lines of an error's message as one; libraries often put the gist second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
