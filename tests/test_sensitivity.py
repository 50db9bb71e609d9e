"""Every constant of the method matters: whoever changes one, here or in the package, hears of it.

Small cases, chosen so that each constant shows in one of them. On all of them the package does what
the reference does (``test_conforms``); and on the case named in ``SHOWS``, the reference itself
comes out otherwise once the constant is a fifth smaller or a quarter larger
(``test_constant_shows``). So no constant of the package can be changed unnoticed. Nothing of the
package is altered for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reference
from conforming import Case, conform

TOLERANCE = 1e-8
"""Up to which package and reference are equal on these cases. A constant that is changed shows by
ten times as much at least."""


@cache
def prepared(name: str) -> tuple[Case, dict[str, Any]]:
    """A case, and the options that it is to be personalised with."""
    torch.manual_seed(0)
    return CASES[name]()


# ---- Fit -----------------------------------------------------------------------------------------


def convolved(positions: int, seed: int = 0, **options: Any) -> tuple[Case, dict[str, Any]]:
    """Convolutions with 18 inputs: a thorough fit's 47 products cost as much as the layer's own
    forward pass over 24 samples at 35.25 positions each."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv1d(6, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(6), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip
    x = torch.randn(24, 6, positions).cumsum(2).double()  # neighbouring positions are alike
    x[:, 0] *= 0.1
    return Case(model, x, head="6"), {"readout": False, **options}


# ---- Plan ----------------------------------------------------------------------------------------


def narrow(sparsity: float) -> tuple[Case, dict[str, Any]]:
    """Layers whose outputs see 14, 20, 40 and 18 inputs each: 280 of 1,890 weights in the first."""
    widths, parts = (14, 20, 40, 18, 5), list[nn.Module]()
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*parts[:-1])
    options = {"sparsity": sparsity, "readout": False, "effort": "fast"}
    return Case(model, torch.randn(24, 14).double(), head="6"), options


# ---- Batch norms ---------------------------------------------------------------------------------


def normalised(shift: float, heat: float = 1.0, **options: Any) -> tuple[Case, dict[str, Any]]:
    """Seven batch norms that know inputs around 0, and a person's that are around ``shift``."""
    blocks: list[nn.Module] = []
    for _ in range(7):
        blocks += [nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.ReLU()]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5))
    case = Case(model, torch.randn(24, 4, 5).double() + shift, head="23")
    for m in case.model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.momentum = None  # the mean over all that it has seen, which is nothing yet
            m.reset_running_stats()
    with torch.no_grad():
        case.model.train()(torch.randn(400, 4, 5).double())
        case.model[-1].weight *= heat
    return case, {"readout": False, **options}


# ---- Neighbours ----------------------------------------------------------------------------------


def gathered(
    n: int, heaps: int, spread: float, sure: float = 4.0, **options: Any
) -> tuple[Case, dict[str, Any]]:
    """A last layer alone, whose inputs lie in heaps on a circle and tell the classes."""
    angle = 2 * torch.pi * torch.arange(heaps) / heaps
    centres = torch.stack([angle.cos(), angle.sin()], 1).double()
    x = centres[torch.arange(n) % heaps] + spread * torch.randn(n, 2).double()
    case = Case(nn.Sequential(nn.Linear(2, heaps)), x, head="0", samples=n, batch=n)
    with torch.no_grad():
        case.model[0].weight.copy_(sure * centres)
        nn.init.zeros_(case.model[0].bias)
    return case, {"sparsity": 0.0, **options}


# ---- Read-out ------------------------------------------------------------------------------------


def answered(
    seed: int,
    n: int,
    K: int,
    classes: int,
    margin: float,
    noise: float,
    alike: float = 0.0,
    skew: float = 1.0,
) -> tuple[Case, dict[str, Any]]:
    """A last layer that hands on its inputs, which are logits: so the bias is the read-out's shift.

    Each of the person's classes comes up ``skew`` times as often as the one before it; the last of
    the ``K`` looks like the first two. These were found by looking through many at random for ones
    in which constants show.
    """
    random = np.random.default_rng(seed)
    share = skew ** np.arange(classes)
    truth = random.choice(classes, n, p=share / share.sum())
    logits = random.normal(size=(n, K)) * noise
    logits[np.arange(n), truth] += margin
    logits[:, K - 1] += alike * (truth < 2)
    model = nn.Sequential(nn.Linear(K, K))
    case = Case(model, torch.from_numpy(logits).float().double(), head="0", samples=n, batch=n)
    with torch.no_grad():
        case.model[0].weight.copy_(torch.eye(K))
        nn.init.zeros_(case.model[0].bias)
    return case, {"sparsity": 0.0, "effort": "fast"}


CASES: dict[str, Callable[[], tuple[Case, dict[str, Any]]]] = {
    "fit-just-thorough": lambda: convolved(36),
    "fit-just-quick": lambda: convolved(35),
    "fit-first-steps": lambda: convolved(36, seed=3, sparsity=0.85),
    "fit-sparse": lambda: convolved(36, sparsity=0.95, effort="fast"),
    "fit-published-a": lambda: convolved(36, seed=2, effort="paper"),
    "fit-published-b": lambda: convolved(36, seed=3, effort="paper"),
    "plan-narrow": lambda: narrow(0.3),
    "plan-just-few": lambda: narrow(0.506),
    "plan-just-not-few": lambda: narrow(0.61),
    "norms-just-moved": lambda: normalised(0.24, heat=20),
    "norms-just-not-moved": lambda: normalised(0.21, heat=20),
    "neighbours-all-alike": lambda: gathered(60, 3, 0.1),
    "neighbours-mostly-alike": lambda: gathered(60, 4, 0.8),
    "neighbours-500": lambda: gathered(500, 2, 0.1),
    "neighbours-520": lambda: gathered(520, 2, 0.1),
    "neighbours-slow": lambda: gathered(22, 2, 0.01, sure=1e-3, neighbours=0.2),
    "neighbours-settling": lambda: gathered(22, 2, 0.01, sure=0.01, neighbours=0.18),
    "readout": lambda: answered(0, 12, 10, 3, 5.0, 2.0, 3.0),
    "readout-far": lambda: answered(0, 24, 20, 2, 8.0, 0.5),
    "readout-many": lambda: answered(0, 600, 4, 2, 4.0, 1.0, skew=0.3),
    "readout-very-many": lambda: answered(0, 2600, 6, 2, 4.0, 1.0, skew=0.3),
}

SHOWS = {
    "QUICK_FIRST": "fit-just-quick",
    "QUICK_LAST": "fit-just-quick",
    "THOROUGH_STAGES": "fit-just-thorough",
    "THOROUGH_FIRST": "fit-first-steps",
    "THOROUGH_EACH": "fit-just-thorough",
    "THOROUGH_LAST": "fit-just-thorough",
    "THOROUGH_SHARE": "fit-just-thorough fit-just-quick",
    "RIDGE_FLOOR": "fit-just-thorough",
    "REPAIR": "fit-just-thorough",
    "LIMIT": "fit-sparse",
    "PAPER_STEPS": "fit-published-a fit-published-b",
    "sparsity": "fit-just-thorough",
    "ridge": "fit-just-thorough",
    "planned": "fit-just-thorough",
    "NARROW": "plan-narrow",
    "SPARED": "plan-just-few plan-just-not-few",
    "MOVED": "norms-just-moved norms-just-not-moved",
    "THIRD": "norms-just-moved",
    "MOST_NEIGHBOURS": "neighbours-all-alike",
    "DISAGREE": "neighbours-mostly-alike",
    "AGREE": "neighbours-mostly-alike",
    "SET": "neighbours-500 neighbours-520",
    "SETTLE_STEPS": "neighbours-slow",
    "SETTLED": "neighbours-settling",
    "neighbours": "neighbours-mostly-alike",
    "COOLEST": "readout",
    "HOTTEST": "readout",
    "HEATS": "readout",
    "CLEAR": "readout",
    "SLOPE": "readout",
    "GROWTH": "readout",
    "ROOT": "readout",
    "LITTLE": "readout",
    "FULL": "readout",
    "GENTLEST": "readout-far",
    "ROUNDS": "readout",
    "EM_STEPS": "readout",
    "FEW_SAMPLES": "readout-many",
    "MOST_SAMPLES": "readout-very-many",
}
"""The cases that a constant shows in: in one of them for a smaller, in one for a larger value."""

NO_MATTER = {
    "QUICK_STAGES": "without steps between them, many stages remove what one does",
    "QUICK_EACH": "with one stage there is nothing between the first and the last",
    "CLOSED": "what stands for never",
    "norms": "0 stays 0 whatever it is multiplied by; tests/steps/test_norms.py follows",
    "TRACED_TOO": "a switch, see there",
}


def constants() -> dict[str, float]:
    """All numbers of the reference: the table at its top, and the defaults of its settings."""
    table = {k: v for k, v in vars(reference).items() if k.isupper() and isinstance(v, int | float)}
    defaults = {f.name: f.default for f in fields(reference.Settings)}
    return table | {k: v for k, v in defaults.items() if type(v) in (int, float)}


def changed(value: float, factor: float) -> float:
    """A fifth less or a quarter more; of whole numbers, one at least, and never below 0."""
    if isinstance(value, int):
        step = max(1, round(abs(value * factor - value)))
        return value + step if factor > 1 or not value else value - step
    return value * factor


def visible(outcome: reference.Outcome) -> np.ndarray:
    """Everything that ``conform`` compares, in one row of numbers."""
    weights = [np.append(w.W, w.b) for w in outcome.network.weights.values()]
    numbers: list[float] = [outcome.moved, outcome.shown, outcome.followed]
    if outcome.answer is not None:
        numbers += [outcome.answer.trust, outcome.answer.classes]
    if outcome.agreement is not None:
        numbers += [outcome.agreement.asked, outcome.agreement.weight]
    return np.concatenate([*weights, numbers])


@cache
def unchanged(name: str) -> np.ndarray:
    case, options = prepared(name)
    return visible(case.wanted(options))


@pytest.mark.parametrize("name", CASES)
def test_conforms(name: str) -> None:
    case, options = prepared(name)
    conform(case, case.batches(), options, TOLERANCE)


def test_every_constant_is_asked_for() -> None:
    assert SHOWS.keys() | NO_MATTER.keys() == constants().keys()
    assert {name for names in SHOWS.values() for name in names.split()} == CASES.keys()


@pytest.mark.parametrize("factor", [0.8, 1.25])
@pytest.mark.parametrize("constant", SHOWS)
def test_constant_shows(constant: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    value = changed(constants()[constant], factor)
    names = SHOWS[constant].split()
    before = {name: unchanged(name) for name in names}
    own: dict[str, Any] = {}
    if constant.isupper():
        monkeypatch.setattr(reference, constant, value)
    else:
        own[constant] = value
    difference = 0.0
    for name in names:
        case, options = prepared(name)
        assert constant not in options  # or else the package's default is not what is compared
        after = visible(case.wanted(options | own))
        difference = max(difference, np.abs(after - before[name]).max())
    assert difference > 10 * TOLERANCE
