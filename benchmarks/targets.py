"""What was to be reached, and whether the rows say that it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from case import READ_OUT
from cost import CostRow
from groups import (
    CONTROLS,
    DENSE,
    HEADLINE,
    OURS,
    PRUNES,
    Group,
    Rows,
    by_network,
    difference,
    gathered,
    points,
)
from methods import TUNED
from users import NETWORKS


@dataclass(frozen=True)
class Target:
    """A target, what was reached, and whether that is enough (None: not measured)."""

    what: str
    reached: str = "not measured"
    met: bool | None = None


def targets(groups: list[Group], costs: list[CostRow]) -> Iterator[Target]:
    """All targets, with what the rows say of them."""
    one = {(group.data, group.network, group.kind): group for group in groups}

    def group(data: str, network: str, kind: str) -> Group:
        return one.get((data, network, kind)) or Group(data, network, kind)

    yield from ten_breeds(group("dogs", "resnet50", "ten breeds"))
    yield from some_breeds(group("breeds", "resnet50", "5 breeds"), 0.90)
    yield from some_breeds(group("breeds", "resnet50", "3 breeds"), 0.93)
    for network in NETWORKS["speech"]:
        yield from speakers(group("speech", network, "20 words"), 0.0)
        yield from speakers(group("speech", network, "digits"), 0.03)
    yield from no_harm(groups)
    yield from cheaper(gathered(groups))
    yield from short_solves(costs)


def ten_breeds(group: Group) -> Iterator[Target]:
    """How near the dense network that is told the classes, and how far above the controls."""
    for n, margin in ((250, 0.02), (128, 0.03)):
        yield _above(
            f"Ten dog breeds, {n} photos, {HEADLINE:.0%} sparse: at most {100 * margin:.0f} points"
            " below the dense network told the ten",
            *(group.at(n, HEADLINE, OURS), group.at(n, HEADLINE, DENSE), -margin),
            told=True,
        )
    for sparsity in (0.6, 0.7, 0.8, 0.9):
        # Without our repair none is stronger at the headline sparsity: measured there alone.
        mended = "" if sparsity == HEADLINE else "our repair and "
        yield _clearly_above(
            f"Ten dog breeds, 128 photos, {sparsity:.0%} sparse: above every control that prunes,"
            f" with {mended}the read-out, by more than the interval",
            group,
            128,
            sparsity,
            READ_OUT if sparsity == HEADLINE else " + repair" + READ_OUT,
        )
    yield _above(
        "Ten dog breeds, 128 photos, 80% sparse: at most 3 points below dense + read-out",
        *(group.at(128, 0.8, OURS), group.at(128, 0.8, DENSE + READ_OUT), -0.03),
    )


def some_breeds(group: Group, least: float) -> Iterator[Target]:
    """Owners of fewer breeds, with all their photos."""
    what = f"{group.kind}, all photos, {HEADLINE:.0%} sparse"
    ours = group.at(group.main, HEADLINE, OURS)
    if ours:
        mean = float(np.mean([row.accuracy for row in ours.values()]))
        yield Target(f"{what}: {least:.0%} right", f"{mean:.1%} ({len(ours)} users)", mean >= least)
    else:
        yield Target(f"{what}: {least:.0%} right")
    yield _unharmed(f"{what}: no user below dense", [(group, group.main)])


def speakers(group: Group, margin: float) -> Iterator[Target]:
    """The speakers: above the dense network, or by so much, told nothing."""
    n, at = group.main, group.headline
    least = f"at least {100 * margin:.0f} points above" if margin else "above"
    yield _above(
        f"Six speakers, {group.network}, {group.kind}, {at:.0%} sparse: {least} the dense network",
        *(group.at(n, at, OURS), group.at(n, at, DENSE)),
        margin or 1e-6,  # as good is not above
    )


def no_harm(groups: list[Group]) -> Iterator[Target]:
    """From 32 samples on, nobody is worse off than with the dense network."""
    for kinds in by_network(groups):
        at = kinds[0].headline
        sizes = [(group, n) for group in kinds for n, s in group.settings if s == at]
        yield _unharmed(
            f"{kinds[0].data}, {kinds[0].network}, {at:.0%} sparse: from 32 samples no user"
            " below dense",
            [(group, n) for group, n in sizes if n >= 32],
        )


def cheaper(groups: list[Group]) -> Iterator[Target]:
    """Beside fine-tuning with labels: at least its first epoch, at a tenth of what catches up."""
    for group in groups:
        what = (
            f"{group.data}, {group.network}, {group.kind}: no worse than the first epoch of"
            " fine-tuning with labels, at a tenth of the cost of the epochs that reach us"
        )
        n = group.main
        tuned = {epochs: group.at(n, group.headline, name) for epochs, name in TUNED.items()}
        ours = group.at(n, group.headline, OURS)
        users = [user for user in ours if all(user in rows for rows in tuned.values())]
        if not users:
            yield Target(what)
            continue

        def mean(rows: Rows, of: str, users: list[str] = users) -> float:
            return float(np.mean([getattr(rows[user], of) for user in users]))

        passes, right = mean(ours, "forward_passes"), mean(ours, "accuracy")
        reach = [e for e, rows in tuned.items() if mean(rows, "accuracy") >= right]
        first = mean(tuned[1], "accuracy")
        epochs = reach[0] if reach else max(tuned)
        bound = mean(tuned[epochs], "forward_passes")
        text = (
            f"{right:.1%} against {first:.1%}; {passes:.1f} forward passes against {bound:.0f}"
            f" ({epochs} epoch{'s' * (epochs > 1)}), {bound / passes:.1f} times as many"
        )
        if not reach:
            best = max(mean(rows, "accuracy") for rows in tuned.values())
            text += f", and fine-tuning never matches ({best:.1%} at best)"
        yield Target(what, text, right >= first and (not reach or passes <= bound / 10))


def short_solves(costs: list[CostRow]) -> Iterator[Target]:
    """The solves weigh no more than two forward passes of the dense network."""
    what = "ResNet-50: solves take no longer than two dense forward passes"
    rows = [row for row in costs if row.effort == "best"]
    for photos in sorted({row.photos for row in rows}, reverse=True):
        ratios = [row.solve_seconds / row.dense_seconds for row in rows if row.photos == photos]
        mean = float(np.mean(ratios))
        yield Target(f"{what}, {photos} photos", f"{mean:.1f} ({len(ratios)} rounds)", mean <= 2)
    if not rows:
        yield Target(what)


def _above(what: str, ours: Rows, theirs: Rows, margin: float, told: bool = False) -> Target:
    """Ours at least theirs (or theirs ``told`` the classes) plus a ``margin``, in the mean."""
    users = [user for user in ours if user in theirs]
    if not users:
        return Target(what)
    of = "told_accuracy" if told else "accuracy"
    a = float(np.mean([ours[user].accuracy for user in users]))
    b = float(np.mean([getattr(theirs[user], of) for user in users]))
    return Target(what, f"{a:.1%} against {b:.1%}: {points(a - b)} points", a - b >= margin - 1e-9)


ENOUGH = 3
"""Draws that a control is to be measured on before anything is said."""


def _clearly_above(what: str, group: Group, n: int, sparsity: float, ending: str) -> Target:
    """Ours above each control that prunes and has that ``ending``, by more than the interval of the
    difference. Only when all of them are measured can it be said."""
    ours = group.at(n, sparsity, OURS)
    declared = [m for m in group.applicable if m in CONTROLS and PRUNES[m] and m.endswith(ending)]
    leads, complete = [], 0
    for control in declared:
        mean, half, users = difference(ours, group.at(n, sparsity, control))
        if users > 1:
            on = "" if users == len(ours) else f" on {users} of {len(ours)}"
            leads.append((mean - half, points(mean, half) + on, control))
            complete += users >= min(ENOUGH, len(ours))
    if not leads:
        return Target(what)
    lead, text, control = min(leads)
    beaten = f"clearly beaten: {sum(clear > 0 for clear, _, _ in leads)}"
    least = f"; least clear: {text} to {control}"
    if complete < len(declared):
        return Target(what, f"{len(leads)} of {len(declared)} measured so far, {beaten}{least}")
    return Target(what, f"{beaten} of {len(declared)}{least}", lead > 0)


def harmed(group: Group, n: int, sparsity: float, method: str = OURS) -> dict[str, float]:
    """The users below the dense network over all outputs, and by how much, the worst first."""
    ours, dense = group.at(n, sparsity, method), group.at(n, sparsity, DENSE)
    lost = {u: r.accuracy - dense[u].accuracy for u, r in ours.items() if u in dense}
    return dict(sorted(((u, d) for u, d in lost.items() if d < 0), key=lambda item: item[1]))


def _unharmed(what: str, where: list[tuple[Group, int]]) -> Target:
    """No user below dense, for each group with each number of samples."""
    total = sum(
        len(group.at(n, group.headline, OURS).keys() & group.at(n, group.headline, DENSE).keys())
        for group, n in where
    )
    if not total:
        return Target(what)
    lost = [(d, u, n) for group, n in where for u, d in harmed(group, n, group.headline).items()]
    text = f"{len(lost)} of {total} below"
    if lost:
        worst, user, n = min(lost)
        text += f"; worst {points(worst)} points ({user}, {n} samples)"
    return Target(what, text, not lost)
