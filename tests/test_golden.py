"""Golden numbers: what the whole method makes of real images, so that no change goes unnoticed.

The network is the demo's, the images are scikit-learn's digits that it was not trained on, in the
demo's hands. Counts of right answers may differ by a few samples, as other machines round
otherwise. The mean log-likelihood of the truth is to be met closely: it moves with nearly every
constant of the method.

Where a change of the method is meant, these numbers change with it. Then run

    python tests/test_golden.py

and put the table that it prints below as ``GOLDEN``; and say in the commit by how much the
accuracies went up or down. Where no change is meant, the change is wrong.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unchecked import personalize

DEMO = Path(__file__).parents[1] / "demo"


@dataclass(frozen=True)
class Person:
    """Whose images they are."""

    digits: tuple[int, ...]
    hand: str
    """How they write: a function of demo/people.py."""
    photos: int
    """Unlabelled images that they give."""
    skew: float = 1.0
    """How often each digit comes up among these, beside the one before it."""


PEOPLE = {
    "four": Person((3, 5, 8, 9), "slanted", 96),
    "unequal": Person((0, 6, 7, 1, 2), "felt_pen", 96, skew=0.6),
    "few": Person((1, 4, 7), "felt_pen", 24),
}

# Right answers over all outputs, and told the person's digits; mean log-likelihood of the truth.
GOLDEN = {
    ("four", "dense"): (271, 311, -0.59516),
    ("four", "fast"): (258, 306, -0.64643),
    ("four", "best"): (269, 311, -0.56726),
    ("four", "best, told"): (310, 310, -0.11437),
    ("unequal", "dense"): (379, 425, -0.52226),
    ("unequal", "fast"): (356, 410, -0.65737),
    ("unequal", "best"): (388, 425, -0.52886),
    ("unequal", "best, told"): (421, 421, -0.20714),
    ("few", "dense"): (241, 249, -0.60339),
    ("few", "fast"): (248, 261, -0.53009),
    ("few", "best"): (248, 255, -0.52401),
    ("few", "best, told"): (255, 255, -0.32124),
}
EFFORTS = ("dense", "fast", "best", "best, told")
"""``told``: which digits are theirs."""
SAMPLES, NATS = 3, 1e-3
"""How far from these is near enough."""


def samples(person: Person) -> tuple[Tensor, Tensor, Tensor]:
    """Unlabelled inputs of a person, then inputs that are held out and their labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        people, digits = (importlib.import_module(name) for name in ("people", "digits"))
    _, _, images, labels = people.split()
    random = np.random.default_rng(0)
    order = random.permutation(np.flatnonzero(np.isin(labels, person.digits)))
    hand = getattr(people, person.hand)
    x = torch.stack(
        [digits.preprocess(hand(people.scan(image), random)) for image in images[order]]
    )
    share = np.array([person.skew ** person.digits.index(label) for label in labels[order]])
    chosen = random.choice(len(x), person.photos, replace=False, p=share / share.sum())
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    return x[chosen], x[rest], torch.from_numpy(labels[order][rest])


def network() -> nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        return importlib.import_module("digits").digits()[0]


def measure(model: nn.Module, x: Tensor, labels: Tensor, told: list[int]) -> Any:
    with torch.inference_mode():
        logits = model(x).double()
    among = torch.tensor(told)[logits[:, told].argmax(1)]
    truth = logits.log_softmax(1)[torch.arange(len(x)), labels].mean()
    right = (logits.argmax(1) == labels).sum()
    return int(right), int((among == labels).sum()), round(float(truth), 5)


@cache
def found(name: str, effort: str) -> tuple[int, int, float]:
    """What comes out for a person; ``effort`` may also be ``dense``."""
    person, model = PEOPLE[name], network()
    x, new, labels = samples(person)
    if effort != "dense":
        batches = x.split(32)  # of a size that is neither cut nor joined
        effort, _, told = effort.partition(",")
        task = {"kind": "classes", "classes": person.digits if told else None}
        model = personalize(model, batches, effort=effort, task=task).model
    return measure(model, new, labels, sorted(person.digits))


def table() -> str:
    """The golden numbers as they are to be put above."""
    rows = [(name, effort) for name in PEOPLE for effort in EFFORTS]
    return "\n".join(f"    {row}: {found(*row)},".replace("'", '"') for row in rows)


@pytest.mark.parametrize(("name", "effort"), GOLDEN)
def test_golden(name: str, effort: str) -> None:
    pytest.importorskip("sklearn")
    right, told, truth = GOLDEN[name, effort]
    now = found(name, effort)
    what_to_do = f"now {now}; if that is meant, see the top of {Path(__file__).name}"
    assert now[0] == pytest.approx(right, abs=SAMPLES), what_to_do
    assert now[1] == pytest.approx(told, abs=SAMPLES), what_to_do
    assert now[2] == pytest.approx(truth, abs=NATS), what_to_do


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"GOLDEN = {{\n{table()}\n}}\n")
