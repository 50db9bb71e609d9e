"""When a person's life changes: what is noticed, and what an update mends.

    python benchmarks/change.py class [--networks resnet20,...] [--people 4]
    python benchmarks/change.py device
    python benchmarks/change.py twenty

``class``: a class comes up that the person did not have; ``device``: the same classes by another
camera, microphone or sensor; ``twenty``: twenty updates in a row on a person whose classes change.
Rows go to ``results/change-...csv``; those that are there are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import logits
from measure import append_row, read_rows, result_file
from numpy.typing import NDArray
from panel_judge import aligned
from panel_kinds import CLEAN, PHOTOS
from panel_networks import NETWORKS
from panel_people import Data, kinds_of, person
from panel_train import CHECKPOINTS
from panel_whole import Inputs, fewer_tests
from torch import nn

import finepruning
from finepruning.research import BATCH_SIZE

Numbers = NDArray[np.int64]
OWN, NEW, STEPS = 128, 16, 20
CLASS_NETWORKS = "resnet20,dscnn-small,transformer,digits,beats,lite0"
DEVICE_NETWORKS = "resnet20,dscnn-small,transformer,digits,beats,wearable"


@dataclass
class Change:
    """One person and one change. Shares of tests; p-values of the two tests of the monitor."""

    network: str
    kind: str
    person: str
    sparsity: float
    alarms: int
    windows: int
    """How many windows of ordinary new samples were taken for a change."""
    flagged: int
    cause: str
    middle: float
    late: float
    """How far the middle and the last third of the layers have moved."""
    old_before: float
    old_after: float
    """Accuracy on the classes that were there; of another device, on the earlier one."""
    dense: float
    """Of the dense network, on what is new,"""
    before: float
    after: float
    """of the personal one before and after the update."""
    anew: float
    """Of one that was personalised anew from the new samples alone."""
    after_sparsity: float


@dataclass
class Step:
    """One of many updates in a row."""

    network: str
    person: int
    step: int
    samples: int
    dense: float
    updated: float
    anew: float
    """Personalised anew from the samples of this step alone."""
    first: float
    """Never updated."""
    sparsity: float
    kept_bytes: int


class Bench:
    """A network with the inputs of its cache."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.data = name, Data(folder / f"{name}.npz")
        self.model = NETWORKS[name].load()
        self._inputs = Inputs(NETWORKS[name], self.data)

    def batches(self, rows: Numbers) -> list[torch.Tensor]:
        return [*torch.split(self._inputs(rows), BATCH_SIZE)]

    def right(self, model: nn.Module, rows: Numbers) -> float:
        """Share of right answers."""
        found = logits(model, self._inputs(rows)).argmax(1).numpy()
        return float((found == self.data.labels[rows]).mean())

    def personal(self, rows: Numbers, **options: Any) -> finepruning.Result:
        return finepruning.personalize(
            self.model, self.batches(rows), task="classes", progress=False, **options
        )

    def updated(self, me: finepruning.Result, rows: Numbers) -> finepruning.Result:
        return finepruning.update(me, self.model, self.batches(rows), progress=False)

    def watch(self, me: finepruning.Result, rows: Numbers) -> finepruning.Drift:
        return finepruning.monitor(me.model, me).see(self.batches(rows))

    def changed(
        self,
        kind: str,
        who: str,
        own: Numbers,
        ordinary: Sequence[Numbers],
        new: Numbers,
        old_tests: Numbers,
        tests: Numbers,
    ) -> Change:
        """A person of ``own`` samples, windows of ``ordinary`` others, and ``new`` ones."""
        me = self.personal(own)
        alarms = sum(self.watch(me, rows).changed for rows in ordinary)
        drift = self.watch(me, new)
        then = self.updated(me, new)
        anew = self.personal(new)
        return Change(
            self.name, kind, who, me.report.sparsity, alarms, len(ordinary), int(drift.changed),
            drift.cause, drift.moved_middle, drift.moved_late,
            self.right(me.model, old_tests), self.right(then.model, old_tests),
            self.right(self.model, tests), self.right(me.model, tests),
            self.right(then.model, tests), self.right(anew.model, tests), then.report.sparsity,
        )  # fmt: skip


def windows(random: np.random.Generator, rows: Numbers, sizes: Sequence[int]) -> list[Numbers]:
    """Windows of ordinary samples."""
    return [random.choice(rows, size, replace=False) for size in sizes if size <= len(rows)]


def new_classes(bench: Bench, people: int) -> Iterator[tuple[str, Callable[[], Change]]]:
    """People to whom a class comes up that they did not have."""
    data = bench.data
    for kind in kinds_of(data):
        if not kind.new or PHOTOS in kind.pools:
            continue
        for seed in range(people):
            for case in person(data, kind, seed, (OWN,)):
                who = None if "(" not in case.person else int(case.person.split("(")[1][:-1])
                pool = data.of(*kind.pools, person=who)
                tests = fewer_tests(case).tests
                strange = pool[(data.labels[pool] == case.new) & ~np.isin(pool, tests)]
                random = np.random.default_rng(seed)
                new = random.permutation(strange)[:NEW]
                old = case.tests[case.weights > 0]
                late = tests[data.labels[tests] == case.new]
                if len(new) < 4 or not len(late):
                    continue
                ordinary = windows(random, old, (16, 16, 64, 64))
                old_tests = tests[data.labels[tests] != case.new]

                yield (
                    f"{case.kind}|{case.person}",
                    partial(
                        bench.changed, case.kind, case.person, case.own, ordinary, new, old_tests,
                        late,
                    ),
                )  # fmt: skip


def devices(bench: Bench, people: int) -> Iterator[tuple[str, Callable[[], Change]]]:
    """People who get another device: no sample is seen by both."""
    data = bench.data
    for name in data.pools:
        if name in (CLEAN, PHOTOS):
            continue
        for seed in range(people):
            random = np.random.default_rng([seed, zlib.crc32(f"{data.name} {name}".encode())])
            everybody = np.unique(data.person[data.person >= 0])
            who = None if not len(everybody) else int(everybody[seed % len(everybody)])
            there = data.of(name, person=who)
            clean = data.of(CLEAN, person=who)
            both = np.intersect1d(data.source[there], data.source[clean])
            order = random.permutation(both)
            own, new, test = np.split(order[: OWN + 64 + 300], [OWN, OWN + 64])
            if len(test) < 30:
                continue

            rows = partial(_rows, data)
            old_tests = rows(clean, test)
            ordinary = windows(random, old_tests, (16, 16, 64, 64))

            yield (
                f"{name}|{_who(seed, who)}",
                partial(
                    bench.changed, name, _who(seed, who), rows(clean, own), ordinary,
                    rows(there, new), old_tests, rows(there, test),
                ),
            )  # fmt: skip


def _rows(data: Data, pool: Numbers, sources: Numbers) -> Numbers:
    """The rows of a pool that hold samples of these numbers."""
    by = {int(s): int(r) for s, r in zip(data.source[pool], pool, strict=True)}
    return np.array([by[int(s)] for s in sources])


def _who(seed: int, who: int | None) -> str:
    return f"{seed}" if who is None else f"{seed} ({who})"


def twenty(bench: Bench, seed: int, samples: int, steps: int = STEPS) -> Iterator[Step]:
    """A person of five classes, one of which is another after every second step."""
    data, random = bench.data, np.random.default_rng(seed)
    clean = data.of(CLEAN)
    order = random.permutation(np.unique(data.labels[clean]))
    by = {int(k): random.permutation(clean[data.labels[clean] == k]) for k in order}
    tests = {k: rows[:40] for k, rows in by.items()}
    free = {k: [*rows[40:]] for k, rows in by.items()}

    def drawn(step: int, count: int) -> tuple[Numbers, Numbers]:
        now = [int(order[(step // 2 + i) % len(order)]) for i in range(5)]
        own = [free[now[i % 5]].pop() for i in range(count)]
        return random.permutation(np.array(own)), np.concatenate([tests[k] for k in now])

    own, _ = drawn(0, OWN)
    first = me = bench.personal(own)
    for step in range(1, steps + 1):
        own, test = drawn(step, samples)
        me = bench.updated(me, own)
        anew = bench.personal(own)
        assert me.statistics is not None
        yield Step(
            bench.name, seed, step, samples, bench.right(bench.model, test),
            bench.right(me.model, test), bench.right(anew.model, test),
            bench.right(first.model, test), me.report.sparsity, me.statistics.nbytes,
        )  # fmt: skip


def change_lines(rows: Sequence[Change]) -> list[list[str]]:
    """A line for each network and kind of change."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for row in rows:
        groups.setdefault((row.network, row.kind), []).append(row)
    lines = []
    for (network, kind), some in groups.items():
        mean = {k: 100 * float(np.mean([getattr(r, k) for r in some])) for k in NUMBERS}
        causes = {c: sum(r.cause == c for r in some) for c in ("classes", "device", "other")}
        lines.append(
            [
                network, kind, str(len(some)),
                f"{sum(r.alarms for r in some)}/{sum(r.windows for r in some)}",
                f"{sum(r.flagged for r in some)}/{len(some)}",
                " ".join(f"{c} {n}" for c, n in causes.items() if n),
                *(f"{mean[k]:.1f}" for k in NUMBERS),
            ]
        )  # fmt: skip
    return lines


NUMBERS = ("old_before", "old_after", "dense", "before", "after", "anew")
HEAD = ("network", "change", "people", "false alarms", "flagged", "as", "old before", "old after",
        "new: dense", "before", "after", "anew")  # fmt: skip


def step_lines(rows: Sequence[Step]) -> list[list[str]]:
    """A line for every step, a mean over people."""
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        for step in sorted({row.step for row in rows}):
            some = [r for r in rows if r.network == network and r.step == step]
            mean = {
                k: float(np.mean([getattr(r, k) for r in some]))
                for k in ("dense", "first", "anew", "updated", "sparsity", "kept_bytes")
            }
            lines.append(
                [network, str(step), str(len(some))]
                + [f"{100 * mean[k]:.1f}" for k in ("dense", "first", "anew", "updated")]
                + [f"{mean['sparsity']:.0%}", f"{mean['kept_bytes'] / 1e3:.0f} kB"]
            )
    return lines


STEP_HEAD = ("network", "step", "people", "dense", "never updated", "anew", "updated", "sparsity",
             "kept")  # fmt: skip


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("class", "device", "twenty"))
    parser.add_argument("--networks")
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--samples", type=int, default=32, help="of each of twenty updates")
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS, help="where the cache is")
    parser.add_argument("--smoke", action="store_true", help="one network, one person")
    args = parser.parse_args()
    usual = {"class": CLASS_NETWORKS, "device": DEVICE_NETWORKS, "twenty": "resnet20"}[args.part]
    names, people, folder = (args.networks or usual).split(","), args.people, args.folder
    if args.smoke:
        names, people, folder = ["digits"], 1, folder / "smoke"
    path = result_file(f"change-{args.part}" + "-smoke" * args.smoke)
    if args.smoke:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    for name in names:
        if not (folder / f"{name}.npz").is_file() or NETWORKS[name].missing():
            print(f"skipped: {name}; python benchmarks/panel.py cache --networks {name}")
            continue
        bench = Bench(name, folder)
        if args.part == "twenty":
            done = {(r.network, r.person) for r in read_rows(path, Step)}
            for seed in [s for s in range(people) if (name, s) not in done]:
                for row in [*twenty(bench, seed, args.samples, 2 if args.smoke else STEPS)]:
                    append_row(path, row)
                    _say(row)
            continue
        cases = {"class": new_classes, "device": devices}[args.part](bench, people)
        there = {(r.network, f"{r.kind}|{r.person}") for r in read_rows(path, Change)}
        for key, run in cases:
            if (name, key) not in there:
                append_row(path, row := run())
                _say(row)
    if args.part == "twenty":
        print(aligned([[*STEP_HEAD], *step_lines(read_rows(path, Step))]))
    else:
        print(aligned([[*HEAD], *change_lines(read_rows(path, Change))]))


def _say(row: Any) -> None:
    print(*asdict(row).values(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
