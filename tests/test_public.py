"""What the package offers: names that are imported when they are asked for, and rooms in order."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import finepruning
from finepruning import research

SOURCE = Path(finepruning.__file__).parent
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
    """What a module imports of the package, also where it does so lazily."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    here = module.split(".") if path.is_dir() else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):  # all are relative
            names = [alias.name for alias in node.names]
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "finepruning"], module
    return {name for name in found if name != "finepruning"}


def room(module: str) -> str:
    """The sub-package, or the file at the top, that a module lies in."""
    return module.split(".")[1]


ABOVE = {
    "_errors": set[str](),
    "_version": set[str](),
    "core": set[str](),
    "data": {"_errors"},
    "network": {"_errors", "data"},
    "steps": {"_errors", "core", "data", "network"},
    "artifact": {"_errors", "_version", "core", "network", "steps"},
    "_config": {"_errors", "core", "steps"},
    "report": {"_config", "_errors", "_version", "core", "data", "network", "steps"},
    "_prune": {"_config", "_errors", "core", "network", "steps"},
    "_result": {"artifact", "report", "steps"},
    "_run": {
        "_config", "_errors", "_prune", "_result", "artifact", "core", "data", "network", "report",
        "steps",
    },
    "_personalize": {"_config", "_errors", "_result", "_run"},
    "_many": {"_config", "_errors", "_personalize", "artifact", "data", "scoring"},
    "_update": {"_config", "_errors", "_personalize", "_result", "_run", "artifact"},
    "_monitor": {
        "_config", "_errors", "_personalize", "_result", "_run", "artifact", "core", "network",
        "steps",
    },
    "hub": {"_errors", "artifact", "data", "report"},
    "deploy": {"_errors", "_version", "artifact", "core", "data", "network"},
    "scoring": {"_errors", "data"},
    "research": {"artifact", "core", "data", "deploy", "hub", "network", "report", "steps"},
}  # fmt: skip
"""What each room may stand on. The command stands on what is public and on some of these."""

OPEN = ("data", "artifact", "deploy", "report", "hub", "scoring")
"""Rooms that the command may look into."""


@pytest.mark.parametrize("name", ABOVE)
def test_arrows_only_downwards(name: str) -> None:
    of_room = [module for module in MODULES if room(module) == name]
    assert of_room
    for module in of_room:
        stands_on = {room(other) for other in imported(module)} - {name}
        assert stands_on <= ABOVE[name], module


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in MODULES} == {*ABOVE, "cli"}


def test_no_module_stands_on_itself() -> None:
    """Not by way of others either, nor of lazy imports. A sub-package that names what lies in it
    is above its modules."""
    known = ["finepruning", *MODULES]
    arrows = {}
    for module in known:
        names = {max((k for k in known if f"{n}.".startswith(f"{k}.")), key=len)
                 for n in imported(module)}  # fmt: skip
        arrows[module] = names - {module}
    order = TopologicalSorter(arrows)
    order.prepare()  # raises CycleError, and names the cycle
    assert arrows["finepruning.cli.evaluate"] >= {"finepruning", "finepruning._errors"}
    assert arrows["finepruning"] >= {"finepruning._personalize", "finepruning.hub"}


def test_the_command_stands_on_what_is_public() -> None:
    public = {*finepruning.__all__, "_errors", "_version", "cli", *OPEN}
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


@pytest.mark.parametrize("name", ["finepruning", *MODULES])
def test_examples(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed
