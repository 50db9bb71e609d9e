"""The people of the panel: who holds which samples of a cache, and on which others they are tested.

A person's unlabelled samples and tests never overlap, whatever device they are from. Smaller sets of
unlabelled samples are parts of the larger ones. All is drawn by fixed seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIZES = (16, 32, 64, 128, 250)
ENOUGH = 0.75
"""With so much of a size a person has it: there are 25 photos of a breed."""
MOST_TESTS = 1000
LEAST_TESTS = 10
"""Tests of each class where there are as many: rare ones weigh less for it."""
EVERY = 50
"""Tests of a class that is new."""
CLEAN, PHOTOS = "as they are", "photos"

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]
Shares = dict[int, float]
"""How often each of a person's classes comes up."""


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


@dataclass(frozen=True)
class Kind:
    """A kind of person."""

    name: str
    pools: tuple[str, ...]
    shares: Callable[[Generator, Counts], Shares | None]
    """Which classes, how often, from how many samples there are of each; None: too few."""
    natural: bool = False
    """Samples of these classes are drawn as they come, whatever their shares."""
    own_person: bool = False
    """Samples of one person of the data, instead of anybody's."""
    new: bool = False
    """The last class comes up in the tests only."""
    capped: bool = False
    """A class of which there are too few samples for its share gets what there is."""


Counts = dict[int, int]
"""How many samples there are of each class, unlabelled."""


# --- Which classes, and how often


def few(count: int, ratio: float = 1.0) -> Callable[[Generator, Counts], Shares | None]:
    """So many classes, each ``ratio`` times as often as the next."""

    def shares(rng: Generator, there: Counts) -> Shares | None:
        usable = [k for k, n in there.items() if n >= 8]
        if len(usable) < count:
            return None
        chosen = rng.choice(usable, count, replace=False).tolist()
        return _normal({k: ratio**-rank for rank, k in enumerate(chosen)})

    return shares


def rare(rng: Generator, there: Counts) -> Shares | None:
    """Up to five classes, one of them at 2 %."""
    usable = [k for k, n in there.items() if n >= 5]
    if len(usable) < 3:
        return None
    *usual, seldom = rng.choice(usable, min(5, len(usable)), replace=False).tolist()
    return {**dict.fromkeys(usual, 0.98 / len(usual)), seldom: 0.02}


def tail(rng: Generator, there: Counts) -> Shares | None:
    """All classes, the first 32 times as often as the last."""
    order = rng.permutation([*there]).tolist()
    return _normal({k: 32 ** (-rank / (len(order) - 1)) for rank, k in enumerate(order)})


def wide(count: int) -> Callable[[Generator, Counts], Shares | None]:
    """So many classes alike: of half of them many samples, of half few."""

    def shares(rng: Generator, there: Counts) -> Shares | None:
        many = [k for k, n in there.items() if n >= 8]
        some = [k for k, n in there.items() if 2 <= n < 8]
        first = rng.permutation(many)[: count // 2]
        chosen = [*first, *rng.permutation(some)[: count - len(first)]]
        return dict.fromkeys(map(int, chosen), 1 / count) if len(chosen) == count else None

    return shares


def between(low: int, high: int) -> Callable[[Generator, Counts], Shares | None]:
    """All classes from ``low`` to ``high``, as they come."""

    def shares(rng: Generator, there: Counts) -> Shares | None:
        return _normal({k: float(n) for k, n in there.items() if low <= k <= high})

    return shares


def as_they_come(rng: Generator, there: Counts) -> Shares | None:
    """All classes, as often as there are samples of them."""
    return _normal({k: float(n) for k, n in there.items()})


def _normal(shares: Shares) -> Shares:
    total = sum(shares.values())
    return {k: v / total for k, v in shares.items()}


# --- The kinds

FEW: tuple[tuple[str, Callable[[Generator, Counts], Shares | None]], ...] = (
    ("3 equal", few(3)),
    ("5 equal", few(5)),
    ("3 as 9:3:1", few(3, 3)),
    ("5 as 16:8:4:2:1", few(5, 2)),
    ("2 as 9:1", few(2, 9)),
    ("one at 2 %", rare),
    ("long tail", tail),
    ("one class", few(1)),
)


def kinds(data: Data) -> list[Kind]:
    """The kinds of people that a network's data allows."""
    devices = [p for p in data.pools if p not in (CLEAN, PHOTOS)]
    mine = {"own_person": bool((data.person >= 0).any())}
    devices = [p for p in data.pools if p not in (CLEAN, PHOTOS)]
    clean = (CLEAN,)
    found = [Kind(name, clean, shares, **mine) for name, shares in FEW]
    found.append(Kind("a new class", clean, few(5), new=True, **mine))
    if mine["own_person"]:
        found += [
            Kind("as they live", clean, as_they_come, natural=True, **mine),
            Kind("as they live, a new class", clean, as_they_come, natural=True, new=True, **mine),
        ]
    for device in devices:
        found += [
            Kind(f"as they come, {device}", (device,), as_they_come, natural=True, **mine),
            Kind(f"3 equal, {device}", (device,), few(3), **mine),
        ]
    if data.classes < 100:
        return [*found, Kind("everybody", clean, as_they_come, natural=True)]
    found += [
        Kind("ten breeds", clean, as_they_come, natural=True),
        Kind("9 of 10 breeds, a new class", clean, few(10), new=True),
    ]
    if PHOTOS in data.pools:
        photos, both = (PHOTOS,), (CLEAN, PHOTOS)
        found += [
            Kind("20 of 1000", both, wide(20), capped=True),
            Kind("50 of 1000", both, wide(50), capped=True),
            Kind("all breeds", photos, between(151, 268), natural=True),
            Kind("all animals", photos, between(0, 397), natural=True),
            Kind("everybody", photos, as_they_come, natural=True),
        ]
    return found


# --- The people


def people(
    data: Data, count: int = 10, sizes: tuple[int, ...] = SIZES, names: list[str] | None = None
) -> Iterator[Case]:
    """All cases of a network: ``count`` people of each kind, each with every size that suffices."""
    for kind in kinds(data):
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
    there = {k: len(v) for k, v in own.items() if len(tests.get(k, ()))}
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
        shares = _normal({k: v for k, v in shares.items() if k != new})
    tested, weights = _natural(shares, tests, rng) if kind.natural else _tested(shares, tests)
    if new is not None:
        extra = tests[new][:EVERY]
        tested = np.concatenate([tested, extra])
        weights = np.concatenate([weights, np.zeros(len(extra))])
    name = f"{seed}" if who is None else f"{seed} ({who})"
    order = rng.permutation(np.concatenate([own[k] for k in shares]))
    for n in sizes:
        mine = order[:n] if kind.natural else _held(shares, own, n, kind.capped)
        if len(mine) >= ENOUGH * n:
            mixed = np.random.default_rng(seed).permutation(mine)
            yield Case(data, kind.name, name, n, mixed, tested, weights, new)


def halves(
    data: Data, members: Numbers, rng: Generator
) -> tuple[dict[int, Numbers], dict[int, Numbers]]:
    """The samples of each class that may be held unlabelled, and those that may be tests.

    No sample is in both, and none is in both in disguise: a sample that another device took again
    has the same number and the same side, because a case has samples of one device only.
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
    return {k: v for k, v in own.items() if len(v)}, {k: v for k, v in tests.items() if len(v)}


def _natural(
    shares: Shares, tests: dict[int, Numbers], rng: Generator
) -> tuple[Numbers, Floats]:
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
