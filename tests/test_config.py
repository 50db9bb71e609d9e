"""The record of choices: all constants on it, checked, nested, and the same after JSON."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import finepruning
from finepruning import Config, FinepruningError, personalize
from finepruning._config import DIALS, PRESETS
from finepruning.core.fit import THOROUGH, FitOptions, Schedule
from finepruning.core.neighbours import NeighbourOptions
from finepruning.core.options import problem
from finepruning.core.plan import PlanOptions
from finepruning.steps.norms import NormOptions

Path_ = tuple[str, ...]


def leaves(record: Any = None, where: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Each value of the record that is no record itself: its path and how it is declared."""
    record = Config() if record is None else record
    for declared in dataclasses.fields(record):
        value, path = getattr(record, declared.name), (*where, declared.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, path)
        else:
            yield path, declared


LEAVES = dict(leaves())
GIVEN = {("task", name) for name in ("classes", "names", "prior")}
"""What the user knows of the outputs: lists, looked at in tests/steps/test_answer.py."""
NUMBERS = {path: field for path, field in LEAVES.items() if "low" in field.metadata}
by_path = ".".join


def nested(path: Path_, value: Any) -> dict[str, Any]:
    """``{"fit": {"quick": {"last": 3}}}`` of ``("fit", "quick", "last")`` and 3."""
    return {path[0]: nested(path[1:], value) if path[1:] else value}


def at(record: Any, path: Path_) -> Any:
    return at(getattr(record, path[0]), path[1:]) if path else record


def allowed(path: Path_) -> st.SearchStrategy[Any]:
    """Any value that may stand there."""
    field = LEAVES[path]
    rules = field.metadata
    if path == ("effort",):
        return st.sampled_from(sorted(PRESETS))
    if path == ("sparsity",):
        return st.just("auto") | st.floats(0, 1, exclude_max=True)
    if "choices" in rules:
        return st.sampled_from(rules["choices"])
    if "flag" in rules:
        return st.booleans()
    if "share" in rules:
        return st.none()  # tests/steps/test_structure.py gives one: not any goes with any other
    low, high = max(rules["low"], rules["above"]), rules["high"]
    assert math.isfinite(low)
    if isinstance(field.default, int):
        return st.integers(math.floor(low) + (low == rules["above"]), min(high, 2**70))
    return st.floats(low, min(high, 1e300), exclude_min=low == rules["above"])


# --- Every constant


@pytest.mark.parametrize("path", LEAVES, ids=by_path)
def test_every_value_is_declared_with_what_it_may_be(path: Path_) -> None:
    if path not in {("effort",), ("sparsity",)} | GIVEN:
        assert LEAVES[path].metadata
    if path in NUMBERS:
        rules = LEAVES[path].metadata
        assert math.isfinite(max(rules["low"], rules["above"]))
    assert not isinstance(at(Config(), path), int) or isinstance(LEAVES[path].default, int)


def wrong_numbers(path: Path_) -> Iterator[tuple[Any, str]]:
    """Values that may not stand there, and what is said of them."""
    low, high, above = (NUMBERS[path].metadata[rule] for rule in ("low", "high", "above"))
    whole = isinstance(NUMBERS[path].default, int)
    if math.isfinite(above):
        yield int(above), f"must be above {above:g}"
    if math.isfinite(low):
        yield math.ceil(low) - 1 if whole else low - 0.1, f"must be at least {low:g}"
    if math.isfinite(high):
        yield math.floor(high) + 1, f"must be at most {high:g}"
    kind = "must be a whole number" if whole else "must be a number"
    yield from ((value, kind) for value in ("3", None, True, [1]))
    if whole:
        yield 1.5, kind
    for value in (math.nan, math.inf, -math.inf):
        yield value, kind if whole else "must be finite"


@pytest.mark.parametrize("path", NUMBERS, ids=by_path)
def test_refused_outside_its_bounds_and_named(path: Path_) -> None:
    for value, said in wrong_numbers(path):
        with pytest.raises(FinepruningError) as error:
            Config(**nested(path, value))
        assert str(error.value) == f"{by_path(path)}={value!r}: {said}"


@pytest.mark.parametrize("path", NUMBERS, ids=by_path)
def test_set_to_its_bounds_by_a_mapping(path: Path_) -> None:
    rules = NUMBERS[path].metadata
    whole = isinstance(NUMBERS[path].default, int)
    for bound in (rules["low"], rules["high"]):
        if math.isfinite(bound):
            value = int(bound) if whole else bound
            config = Config(**nested(path, value))
            assert at(config, path) == value
            others = {p for p in LEAVES if at(config, p) != at(Config(), p)}
            assert others <= {path}


SHARE = "must be 'auto', or a number from 0 up to, not including, 1, such as 0.7"


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"fit": {"ridge": 0}}, "fit.ridge=0: must be above 0"),
        ({"fit": {"method": "cut"}}, "fit.method='cut': choose one of compensate, rescale, gains"),
        ({"readout": {"enabled": 1}}, "readout.enabled=1: must be True or False"),
        ({"fit": {"quick": {"last": 0}}}, "fit.quick.last=0: must be at least 1"),
        ({"neighbours": 101}, "neighbours.weight=101: must be at most 100"),
        ({"fit": FitOptions(ridge=-1.0)}, "fit.ridge=-1.0: must be above 0"),
        ({"fit": FitOptions(quick=3)}, "fit.quick=3: must be of class Schedule"),  # type: ignore[arg-type]
        ({"fit": FitOptions(quick=PlanOptions())},  # type: ignore[arg-type]
         f"fit.quick={PlanOptions()!r}: must be of class Schedule"),
        ({"sparsity": 1}, f"sparsity=1: {SHARE}"),
        ({"sparsity": 70}, f"sparsity=70: {SHARE}"),
        ({"sparsity": -0.1}, f"sparsity=-0.1: {SHARE}"),
        ({"seed": 2**63}, f"seed={2**63}: must be at most 9.22337e+18"),
        *(({"effort": e}, f"effort={e!r}: choose one of best, fast, paper")
          for e in ("", "Best", "slow", None, ["best"])),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong_and_what_to_do(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(FinepruningError) as error:
        Config(**given_)
    assert str(error.value) == said


DEFAULTS = {
    "sparsity": "auto",
    "effort": "best",
    "seed": 0,
    "task": {
        "kind": "auto", "classes": None, "names": None, "prior": None,
        "shown": {
            "outputs": 10, "common": 0.8, "steady": 0.12, "above": 0.1, "stands_out": 1.15,
        },
    },
    "observe": {
        "beside": 1.5,
        "at_once": 64e6,
        "positions": 8000, "inputs_every": 8, "memory": 1.5e9, "batches": 128, "transcript": 128,
        "rank": 64,
    },
    "norms": {"share": 0.0, "moved": 0.035},
    "readout": {
        "enabled": True, "coolest": 0.5, "hottest": 2.5, "temperatures": 8, "clear": 0.37,
        "slope": 3.2, "growth": 0.25, "root": 0.75, "doubt": 0.4, "full": 1.3,
        "gentlest": 1.25, "rounds": 10, "steps": 30, "few": 512, "most": 2048,
    },
    "plan": {"tempering": 0.3, "narrow": 16, "spared": 1 / 3},
    "neighbours": {
        "weight": 0.5, "most": 10, "disagree": 0.8, "agree": 0.9, "block": 512, "steps": 100,
        "tolerance": 1e-4,
    },
    "fit": {
        "method": "compensate", "ridge": 0.3, "floor": 1e-6,
        "quick": {"stages": 1, "first": 0, "each": 0, "last": 5},
        "thorough": {"stages": 8, "first": 2, "each": 4, "last": 8},
        "repair": 0.5, "gain_limit": 3.0, "path": 2, "rounds": 2, "columns": 8,
    },
    "structure": {
        "macs": None, "params": None, "latency": None, "narrow": 16, "shut": 1e-2,
        "mirror": 0.5, "rectify": 2,
        "channels": {
            "rule": "elimination", "hold": 0.01, "at_once": 12, "steps": 32, "least": 0.05,
            "multiple": 8,
        },
    },
    "check": {
        "enabled": True, "share": 0.125, "most": 16, "margin": 0.01, "sure": 1.645,
        "recall": 0.35, "recognised": 0.5, "samples": 2.0, "belief": 2048,
    },
    "choice": {
        "tolerance": 0.12, "share": 0.25, "most": 64, "fewest": 4, "thin": 4, "sure": 1.645,
        "unseen": 1.0,
    },
    "drift": {
        "false_alarms": 0.05, "device": 1e-3, "fewest": 4, "most": 512, "shuffles": 999,
        "held": 4.0, "least": 1e-3,
    },
    "update": {"remember": 256, "doubt": 16.0},
    "warn": {"few": 16},
    "paper": {"steps": 7, "positions": 8000},
}  # fmt: skip
"""What the benchmarks chose: to change one is to choose anew."""


def test_the_defaults_are_those_of_the_benchmarks() -> None:
    assert Config().to_dict() == DEFAULTS


@pytest.mark.parametrize("sparsity", [0, 0.0, 0.5, 0.999, "auto"])
def test_accepted(sparsity: float | str) -> None:
    assert Config(sparsity=sparsity).sparsity == sparsity


# --- Parts


def test_a_mapping_says_what_differs() -> None:
    config = Config(fit={"quick": {"last": 3}, "ridge": 0.1}, effort="fast")
    assert config.fit == FitOptions("rescale", 0.1, quick=Schedule(last=3))
    assert config.fit.thorough == THOROUGH
    whole = FitOptions(repair=1.0)
    assert Config(fit=whole).fit is whole
    assert Config(fit={"quick": Schedule(last=9)}).fit.quick.last == 9
    assert Config(fit={}).fit == FitOptions()


def test_a_part_by_its_main_value() -> None:
    assert Config(norms=0.5).norms == NormOptions(share=0.5)
    assert Config(task="values").task.kind == "values"
    assert Config(check=False).check.enabled is False
    assert Config(readout=False).readout.enabled is False
    assert Config(neighbours=0).neighbours == NeighbourOptions(weight=0)
    assert Config(plan=0.5).plan == PlanOptions(tempering=0.5)
    for part, dial in DIALS.items():
        off = {"readout": False, "check": False, "task": "values", "norms": 0.5}.get(part, 0)
        assert Config(**{part: off}) == Config(**{part: {dial: off}}) != Config()
    for value in (True, "0.5", math.nan):
        with pytest.raises(FinepruningError, match=r"norms(\.share)?="):
            Config(norms=value)
    with pytest.raises(FinepruningError, match=r"readout\.enabled=1: must be True or False"):
        Config(readout=1)


@pytest.mark.parametrize("part", ["observe", "fit", "paper"])
def test_a_part_without_a_main_value(part: str) -> None:
    names = ", ".join(f.name for f in dataclasses.fields(getattr(Config(), part)))
    with pytest.raises(FinepruningError) as error:
        Config(**{part: 3})
    assert str(error.value) == (
        f"{part}=3: give a mapping of what differs from the preset, of {names}"
    )
    with pytest.raises(FinepruningError, match=r"fit\.quick=3: give a mapping .* stages, first"):
        Config(fit={"quick": 3})


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(FinepruningError) as error:
        Config(plan={"temper": 0.5})
    assert str(error.value) == "plan: no 'temper'; there are tempering, narrow, spared"
    with pytest.raises(FinepruningError, match=r"^fit\.quick: no 'end'; there are stages, first,"):
        Config(fit={"quick": {"end": 3}})
    with pytest.raises(FinepruningError, match=r"^config: no 'ridge'; there are sparsity, effort,"):
        Config.from_dict({"ridge": 0.3})
    with pytest.raises(TypeError, match="ridge"):
        Config(ridge=0.3)  # type: ignore[call-arg]


def test_an_effort_is_a_preset_of_all_parts() -> None:
    best, fast, paper = (Config(effort=effort) for effort in ("best", "fast", "paper"))
    assert best == Config()
    assert best.fit.method == "compensate"
    assert fast.fit.method == paper.fit.method == "rescale"
    assert (best.observe.positions, fast.observe.positions) == (8000, 1000)
    assert (best.observe.inputs_every, fast.observe.inputs_every) == (8, 1)
    assert best.neighbours.weight > fast.neighbours.weight == 0
    assert best.norms == fast.norms
    assert fast.readout.enabled
    assert fast.check.enabled
    assert not paper.check.enabled
    assert not paper.readout.enabled
    for effort, parts in PRESETS.items():
        assert parts.keys() == {f.name for f in dataclasses.fields(Config)} - {
            "sparsity", "effort", "seed",
        }  # fmt: skip
        assert all(getattr(Config(effort=effort), name) is part for name, part in parts.items())
    # What is given differs from the preset of that effort, not from the default.
    assert Config(effort="fast", observe={"batches": 3}).observe.positions == 1000


# --- A value


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().sparsity = 0.5  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().fit.quick.last = 3  # type: ignore[misc]


def test_a_key_of_dictionaries() -> None:
    known = {Config(fit={"ridge": 0.1}): 1, Config(effort="fast"): 2}
    assert known[Config(fit=FitOptions(ridge=0.1))] == 1
    assert Config(effort="paper") not in known
    assert dataclasses.replace(Config(), seed=3) == Config(seed=3)


def through_json(config: Config) -> Config:
    return Config.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False)))


@pytest.mark.parametrize("effort", PRESETS)
def test_json_gives_each_preset_back(effort: str) -> None:
    config = Config(effort=effort)
    assert through_json(config) == config
    assert config.to_dict()["fit"]["quick"]["last"] == 5
    assert Config.from_dict({"effort": effort}) == config


@settings(max_examples=60)
@given(st.data())
def test_json_gives_any_record_back(data: st.DataObject) -> None:
    values: dict[str, Any] = {}
    for path in data.draw(
        st.lists(st.sampled_from(sorted(LEAVES.keys() - GIVEN)), max_size=8, unique=True)
    ):
        inner = values
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = data.draw(allowed(path), by_path(path))
    config = Config(**values)
    again = through_json(config)
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_dict() == config.to_dict()


# --- In a personalisation


@pytest.mark.parametrize(
    ("name", "value"), [("sparsity", 0.5), ("effort", "fast"), ("readout", False), ("seed", 1)]
)
def test_a_choice_and_a_config_are_refused_together(name: str, value: Any) -> None:
    said = f"^{name}={value!r} and a config: give one or the other.*Config\\({name}={value!r}"
    with pytest.raises(FinepruningError, match=said):
        personalize(nn.Linear(4, 4), torch.randn(8, 4), config=Config(), **{name: value})
    with pytest.raises(FinepruningError, match=r"config: a dict; give a finepruning\.Config"):
        personalize(nn.Linear(4, 4), torch.randn(8, 4), config={"sparsity": 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", PRESETS)
def test_the_record_is_saved_with_the_artifact(effort: str, tmp_path: Path) -> None:
    config = Config(effort=effort, sparsity=0.3, seed=5, fit={"quick": {"last": 3}})
    result = personalize(nn.Linear(20, 8), torch.randn(64, 20), config=config, progress=False)
    result.save(tmp_path / "me")
    report = finepruning.read_report(tmp_path / "me")
    assert Config.from_dict(report["config"]) == config


# --- No constant of the method lies beside the record

ELSEWHERE = {
    "steps.choose.(MIDDLE, LOW, HIGH)": "which sparsities there are to choose from",
    "core.arrays.(EXACT, MORE, PASSES)": "how directions are found, not which",
    "core.arrays.TINY": "keeps quotients finite; no result depends on it",
    "core.evidence.LARGE": "how outputs are kept, not what they mean",
    "network.engine.TRIM_FROM": "when memory is given back, not what comes out",
    "core.moments.PART": "how sums are computed, not what comes out",
    "core.arrays.BLOCK": "how a product is computed, not what comes out",
    "core.channels.LARGE": "to which groups ChannelOptions.multiple applies: speed, not accuracy",
    "network.timing.ROUNDS": "of a timing: only how sure it is",
    "core.channels.COMPACT": "how a path is computed, not what it is",
    "network.channels.NEAR": "rounding",
    "network.dependency.INDICES": "how long a group is looked for, not which is found",
    "network.dependency.STEPS": "as INDICES",
    "steps.structure.WIDE": "how a path is computed, not what it is",
    "core.drift.FEWEST": "of fewer samples a covariance has no squares",
    "steps.watch.MEANS": "samples that are looked at for drift, of which fewer do",
    "steps.watch.SOME": "how a covariance is made compact, not what it is",
    "core.readout.CLOSED": "what stands for never; any large number does",
    "steps.trace.ENDS": "what may stand behind the last layer",
    "steps.trace.MOST": "how much is tried, not what comes out",
    "steps.trace.SLIGHT": "rounding",
    "steps.trace.ALIKE": "rounding",
    "network.shifts.MOST": "how much is tried, not what comes out",
    "network.closer.FEW": "samples that show what a network is",
    "network.closer.WIDEST": "what a layer is",
    "steps.trace.READ": "the same, backwards",
    "steps.trace.SUITS": "the same, by its values",
    "steps.answer.PUBLISHED": "outputs of published image classifiers",
    "steps.answer.MOST": "samples that halves are compared on, which is only reported",
    "core.fit.QUICK": "the default of FitOptions.quick",
    "core.fit.THOROUGH": "the default of FitOptions.thorough",
    "network.replica.SMALL": "which tensors are copied without a question: memory, not results",
    "network.replica._POLICY": "a key that is no object's identity",
    "network.positions.PREFIXES": "how many tokens networks put before a grid: their layout",
}
"""Numbers at the top of a module of the method, and why they are no choice of it."""

SOURCE = Path(finepruning.__file__).parent
METHOD = [
    *(p for room in ("core", "steps", "network") for p in (SOURCE / room).glob("*.py")),
    SOURCE / "data" / "tokens.py",
]


def numbers_at_the_top(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kinds = {type(n.value) for n in ast.walk(node.value) if isinstance(n, ast.Constant)}
            if kinds & {int, float}:
                for target in targets:
                    room = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
                    yield f"{room}.{ast.unparse(target)}"


def test_every_constant_of_the_method_is_on_the_record() -> None:
    found = {name for path in METHOD for name in numbers_at_the_top(path)}
    assert found == ELSEWHERE.keys()


def test_every_record_of_options_is_part_of_the_config() -> None:
    """Whatever is declared with bounds can be set, and is saved."""
    declared = set()
    for path in METHOD:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and re.search(
                "number\\(|choice\\(", ast.unparse(node)
            ):
                declared.add(node.name)

    def records(record: Any) -> Iterator[str]:
        yield type(record).__name__
        for f in dataclasses.fields(record):
            if dataclasses.is_dataclass(value := getattr(record, f.name)):
                yield from records(value)

    assert declared == {*records(Config())} - {"Config"}


def test_defaults_may_be_what_they_are() -> None:
    for effort in PRESETS:
        for path in LEAVES:
            assert not problem(at(Config(effort=effort), path[:-1]), path[-1])
