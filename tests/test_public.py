"""What the package offers: names that are imported when they are asked for, and rooms in order."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import finepruning
from finepruning import research

SOURCE = Path(finepruning.__file__).parent
EDGE = ("data", "artifact", "report", "hub", "scoring", "cli")
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(SOURCE)], "finepruning.")
    if not module.name.endswith("__main__")
]


def test_every_name_is_there_and_typed() -> None:
    typed = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text()))
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert sorted(finepruning.__all__) == finepruning.__all__
    assert typed == finepruning._ROOMS.keys() == {*finepruning.__all__} - {"__version__"}
    for name in finepruning.__all__:
        assert getattr(finepruning, name) is getattr(finepruning, name)
        assert name in dir(finepruning)
    for name in research.__all__:
        assert hasattr(research, name)


def test_no_name_is_hidden_by_a_module_called_like_it() -> None:
    for name in MODULES:
        importlib.import_module(name)
    files = {path.stem for path in SOURCE.iterdir()}
    assert not files & {*finepruning.__all__}
    assert callable(finepruning.evaluate)
    assert callable(finepruning.load)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'finepruning' has no attribute 'prune_all'"):
        _ = finepruning.prune_all
    assert not hasattr(finepruning, "__wrapped__")
    with pytest.raises(ImportError, match="prune_all"):
        exec("from finepruning import prune_all")


def test_a_room_that_is_broken_is_no_missing_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(finepruning), "wilson", raising=False)
    monkeypatch.setitem(finepruning._ROOMS, "wilson", "_version")
    with pytest.raises(ImportError, match=r"finepruning\.wilson cannot be imported"):
        hasattr(finepruning, "wilson")


def test_nothing_heavy_before_there_is_work() -> None:
    code = "import sys, finepruning, finepruning.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "finepruning.cli.main" in loaded.split()
    assert not {"torch", "numpy", "PIL", "safetensors", "tqdm"} & set(loaded.split())


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports, also where it does so lazily."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    here = module.split(".") if path.is_dir() else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return {name for name in found if name != "finepruning"}


def room(module: str) -> str:
    """The sub-package, or the file at the top, that a module lies in."""
    return module.split(".")[1]


ABOVE = {
    "data": {"_errors"},
    "report": set[str](),
    "artifact": {"_errors"},
    "hub": {"_errors", "data"},
    "scoring": {"_errors", "data"},
}
"""What each room of the edge may stand on. The command stands on what is public and on these."""


@pytest.mark.parametrize("name", ABOVE)
def test_arrows_only_downwards(name: str) -> None:
    of_room = [module for module in MODULES if room(module) == name]
    assert of_room
    for module in of_room:
        stands_on = {room(other) for other in imported(module)} - {name}
        assert stands_on <= ABOVE[name], module


def test_the_command_stands_on_what_is_public() -> None:
    public = {*finepruning.__all__, "_errors", "_version", "cli", *ABOVE}
    for module in MODULES:
        rooms = {room(other) for other in imported(module)}
        if room(module) == "cli":
            assert rooms <= public, module
        elif module != "finepruning.cli":
            assert "cli" not in rooms, module


def test_rooms_say_what_they_are_for_and_modules_are_short() -> None:
    for module in MODULES:
        file = SOURCE.joinpath(*module.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), module
        assert len(file.read_text().splitlines()) <= 400, module


@pytest.mark.parametrize("name", [m for m in MODULES if room(m) in EDGE])
def test_examples(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed
