"""The kinds of people in the panel: which classes they have, how often, and on which device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

CLEAN = "as they are"
"""The pool of samples from the usual device."""
PHOTOS = "photos"
"""The pool of which there are logits only, from the data folder: of photos that are not there."""

Shares = dict[int, float]
"""How often each of a person's classes comes up."""
Counts = dict[int, int]
"""How many samples there are of each class, unlabelled."""


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


# --- Which classes, and how often


def few(count: int, ratio: float = 1.0) -> Callable[[Generator, Counts], Shares | None]:
    """So many classes, each ``ratio`` times as often as the next."""

    def shares(rng: Generator, there: Counts) -> Shares | None:
        usable = [k for k, n in there.items() if n >= 8]
        if len(usable) < count:
            return None
        chosen = rng.choice(usable, count, replace=False).tolist()
        return normal({k: ratio**-rank for rank, k in enumerate(chosen)})

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
    return normal({k: 32 ** (-rank / (len(order) - 1)) for rank, k in enumerate(order)})


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
        return normal({k: float(n) for k, n in there.items() if low <= k <= high})

    return shares


def as_they_come(rng: Generator, there: Counts) -> Shares | None:
    """All classes, as often as there are samples of them."""
    return normal({k: float(n) for k, n in there.items()})


def normal(shares: Shares) -> Shares:
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


def kinds(pools: list[str], classes: int, somebody: bool, plenty: bool) -> list[Kind]:
    """The kinds that data of these pools and so many classes allows.

    ``somebody``: it is known whose every sample is; ``plenty``: there are enough of one person that
    some classes of theirs alone suffice.
    """
    mine = {"own_person": somebody}
    devices = [p for p in pools if p not in (CLEAN, PHOTOS)]
    clean = (CLEAN,)
    some = {"own_person": plenty}
    found = [Kind(name, clean, shares, **some) for name, shares in FEW]
    found.append(Kind("a new class", clean, few(5), new=True, **some))
    if somebody:
        found += [
            Kind("as they live", clean, as_they_come, natural=True, **mine),
            Kind("as they live, a new class", clean, as_they_come, natural=True, new=True, **mine),
        ]
    for device in devices:
        found += [
            Kind(f"as they come, {device}", (device,), as_they_come, natural=True, **mine),
            Kind(f"3 equal, {device}", (device,), few(3), **some),
        ]
    if classes < 100:
        return [*found, Kind("everybody", clean, as_they_come, natural=True)]
    found += [
        Kind("ten breeds", clean, as_they_come, natural=True),
        Kind("9 of 10 breeds, a new class", clean, few(10), new=True),
    ]
    if PHOTOS in pools:
        photos, both = (PHOTOS,), (CLEAN, PHOTOS)
        found += [
            Kind("20 of 1000", both, wide(20), capped=True),
            Kind("50 of 1000", both, wide(50), capped=True),
            Kind("all breeds", photos, between(151, 268), natural=True),
            Kind("all animals", photos, between(0, 397), natural=True),
            Kind("everybody", photos, as_they_come, natural=True),
        ]
    return found
