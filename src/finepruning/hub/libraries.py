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


def wanted(error: BaseException, weights: object) -> str:
    """What an error says; and, where it came of fetching the pretrained weights, what to do."""
    said = one_line(error)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and weights is None:
            return f"its pretrained weights cannot be fetched ({said}); give --weights FILE"
        chain = chain.__cause__ or chain.__context__
    return said


def one_line(error: BaseException) -> str:
    """The first two lines of an error's message as one; libraries often put the gist second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
