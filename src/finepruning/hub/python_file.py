"""The user's own Python files: run, and asked for one function."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from .libraries import one_line


def load_function(spec: str, option: str) -> Callable[..., Any]:
    """The function that ``FILE.py:function`` names; ``option`` is what errors are blamed on."""
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py"):
        raise FinepruningError(f"{option} {spec}: give FILE.py:function")
    return _with_file(Path(file), name, option, lambda function: function)


def run_function(file: Path, name: str, option: str) -> Any:
    return _with_file(file, name, option, lambda function: function())


def _with_file(
    file: Path, function: str, option: str, use: Callable[[Callable[..., Any]], Any]
) -> Any:
    """Run a Python file of the user's and hand ``use`` the function in it."""
    if not file.is_file():
        raise FinepruningError(f"{option} {file}:{function}: no such file as {file}")
    # A private name: the file's own could shadow a package. Registered, as dataclasses ask for it.
    spec = importlib.util.spec_from_file_location(f"_finepruning_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As under `python FILE.py`: what lies beside the file can be imported, and stays importable
    # for what the model does later.
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules[spec.name] = module
    # What it reads of a command line is not ours.
    ours, sys.argv = sys.argv, [str(file)]
    try:
        spec.loader.exec_module(module)
        if not callable(make := getattr(module, function, None)):
            raise FinepruningError(
                f"{option} {file}:{function}: no function {function!r} in {file}"
            )
        return use(make)
    except FinepruningError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        where = f"{file}:{lines[-1]}" if lines else str(file)
        raise FinepruningError(
            f"{option} {file}:{function}: {type(error).__name__} at {where}: {one_line(error)}"
        ) from error
    finally:
        sys.argv = ours
