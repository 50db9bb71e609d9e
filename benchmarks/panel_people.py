"""The people of the panel: who holds which samples of a cache, and is tested on which others.

A person's unlabelled samples and tests never overlap, and are from one device. Smaller sets of
unlabelled samples are parts of the larger ones. All is drawn by fixed seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from panel_kinds import Kind, Shares, kinds, normal

SIZES = (16, 32, 64, 128, 250)
ENOUGH = 0.75
"""With so much of a size a person has it: there are 25 photos of a breed."""
PLENTY = 40
"""With so many samples of each class, a person's own suffice for people of a few classes; with
fewer, as where a word was said ten times, these are made up of everybody's."""
MOST_TESTS = 1000
LEAST_TESTS = 10
"""Tests of each class where there are as many: rare ones weigh less for it."""
EVERY = 50
"""Tests of a class that is new."""
Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Data:
    """A network's cache: what the dense network says of its samples."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._file = np.load(path)

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        return self._file["logits"]

    @cached_property
    def features(self) -> NDArray[np.float16]:
        return self._file["features"]

    @cached_property
    def labels(self) -> Numbers:
        return self._file["labels"].astype(np.int64)

    @cached_property
    def person(self) -> Numbers:
        return self._file["person"]

    @cached_property
    def pools(self) -> list[str]:
        return self._file["pools"].tolist()

    @cached_property
    def pool(self) -> Numbers:
        return self._file["pool"]

    @cached_property
    def source(self) -> Numbers:
        return self._file["source"]

    @cached_property
    def half(self) -> Numbers:
        return self._file["half"]

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        return self._file["weight"]

    @cached_property
    def bias(self) -> NDArray[np.float32]:
        return self._file["bias"]

    @cached_property
    def prior(self) -> Floats | None:
        """Frequencies in training, where they are known."""
        given = self._file["prior"]
        return given if len(given) else None

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    def of(self, *pools: str, person: int | None = None) -> Numbers:
        """The samples of some pools, and of one person."""
        there = np.isin(self.pool, [self.pools.index(p) for p in pools if p in self.pools])
        if person is not None:
            there &= self.person == person
        return np.flatnonzero(there)


@dataclass(frozen=True, eq=False)
class Case:
    """A person: unlabelled samples, and tests, as rows of their network's cache."""

    data: Data
    kind: str
    person: str
    n: int
    """The size asked for; ``len(own)`` may be a little less."""
    own: Numbers
    tests: Numbers
    weights: Floats
    """Of the tests, so that each class weighs as much as it comes up; 0 for a class that is new."""
    new: int | None = None
    """A class that comes up in the tests only."""

    @property
    def network(self) -> str:
        return self.data.name

    @property
    def classes(self) -> Numbers:
        """The person's classes, without one that is new."""
        return np.unique(self.data.labels[self.tests[self.weights > 0]])


# --- The people


def kinds_of(data: Data) -> list[Kind]:
    """The kinds of people that a network's data allows."""
    whose = data.person[data.pool == 0]
    pairs = np.unique(np.stack([whose, data.labels[data.pool == 0]]), axis=1).shape[1]
    somebody = bool((whose >= 0).any())
    plenty = somebody and len(whose) >= PLENTY * pairs
    return kinds(data.pools, data.classes, somebody, plenty)


def people(
    data: Data, count: int = 10, sizes: tuple[int, ...] = SIZES, names: list[str] | None = None
) -> Iterator[Case]:
    """All cases of a network: ``count`` people of each kind, each with every size that suffices."""
    for kind in kinds_of(data):
        if names is not None and kind.name not in names:
            continue
        for seed in range(count):
            yield from person(data, kind, seed, sizes)


def person(data: Data, kind: Kind, seed: int, sizes: tuple[int, ...] = SIZES) -> Iterator[Case]:
    """One person, with every size that the data suffices for."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{data.name} {kind.name}".encode())])
    who = None
    if kind.own_person:
        all_people = np.unique(data.person[data.person >= 0])
        who = int(all_people[seed % len(all_people)])
    own, tests = halves(data, data.of(*kind.pools, person=who), rng)
    if kind.natural:  # a class may be seen in one of the two only
        there = {k: len(own[k]) + len(tests[k]) for k in own}
    else:
        there = {k: len(own[k]) for k in own if len(own[k]) and len(tests[k])}
    shares = kind.shares(rng, there)
    if not shares:
        return
    new = None
    if kind.new:
        usable = [k for k in shares if len(tests[k]) >= LEAST_TESTS]
        if len(usable) < 2:
            return
        # Where classes come as they live, the rarest.
        new = min(usable, key=lambda k: shares[k]) if kind.natural else usable[-1]
        shares = normal({k: v for k, v in shares.items() if k != new})
    tested, weights = _natural(shares, tests, rng) if kind.natural else _tested(shares, tests)
    if new is not None:
        extra = tests[new][:EVERY]
        tested = np.concatenate([tested, extra])
        weights = np.concatenate([weights, np.zeros(len(extra))])
    name = f"{seed}" if who is None else f"{seed} ({who})"
    order = rng.permutation(np.concatenate([own[k] for k in shares]))
    for n in sizes:
        mine = order[:n] if kind.natural else _held(shares, own, n, kind.capped)
        if len(mine) >= ENOUGH * n and len(tested):
            mixed = np.random.default_rng(seed).permutation(mine)
            yield Case(data, kind.name, name, n, mixed, tested, weights, new)


def halves(
    data: Data, members: Numbers, rng: Generator
) -> tuple[dict[int, Numbers], dict[int, Numbers]]:
    """The samples of each class that may be held unlabelled, and those that may be tests.

    No sample is in both, nor the same one as another device has it: a case has one device only.
    """
    own: dict[int, Numbers] = {}
    tests: dict[int, Numbers] = {}
    for k in np.unique(data.labels[members]).tolist():
        of = rng.permutation(members[data.labels[members] == k])
        side = data.half[of]
        free = of[side == -1]
        # Of an odd number, one more is on either side by chance.
        cut = (len(free) + int(rng.integers(2))) // 2
        own[k] = np.concatenate([of[side == 0], free[:cut]])
        tests[k] = np.concatenate([of[side == 1], free[cut:]])
    return own, tests


def _natural(shares: Shares, tests: dict[int, Numbers], rng: Generator) -> tuple[Numbers, Floats]:
    """Tests as they come, all of the same weight."""
    chosen = rng.permutation(np.concatenate([tests[k] for k in shares]))[:MOST_TESTS]
    return chosen, np.full(len(chosen), 1 / len(chosen))


def _tested(shares: Shares, tests: dict[int, Numbers]) -> tuple[Numbers, Floats]:
    """As many tests as keep the shares, but some of every class; and their weights."""
    total = min(MOST_TESTS, *(int(len(tests[k]) / share) + 1 for k, share in shares.items()))
    chosen, weights = [], []
    for k, share in shares.items():
        count = min(len(tests[k]), max(LEAST_TESTS, round(total * share)))
        chosen.append(tests[k][:count])
        weights.append(np.full(count, share / count))
    w = np.concatenate(weights)
    return np.concatenate(chosen), w / w.sum()


def _held(shares: Shares, own: dict[int, Numbers], n: int, capped: bool) -> Numbers:
    """About ``n`` unlabelled samples in these shares; none where the data does not suffice."""
    held = apportioned(shares, n)
    if capped:
        # What is lacking of one class is made up for by the others.
        held = {k: min(len(own[k]), count) for k, count in held.items()}
        while (lack := n - sum(held.values())) > 0 and (
            more := [k for k in held if len(own[k]) > held[k]]
        ):
            for k in more[:lack]:
                held[k] += 1
    else:
        # All classes shrink alike.
        scale = min(1.0, *(len(own[k]) / count for k, count in held.items() if count))
        held = apportioned(shares, int(n * scale))
        held = {k: min(len(own[k]), count) for k, count in held.items()}
    return np.concatenate([own[k][:count] for k, count in held.items()])


def apportioned(shares: Shares, n: int) -> dict[int, int]:
    """How many of ``n`` samples each class gets (Sainte-Lague: more samples take none away).

    >>> apportioned({0: 0.9, 1: 0.1}, 16)
    {0: 14, 1: 2}
    """
    counts = dict.fromkeys(shares, 0)
    for _ in range(n):
        counts[max(shares, key=lambda k: shares[k] / (2 * counts[k] + 1))] += 1
    return counts
