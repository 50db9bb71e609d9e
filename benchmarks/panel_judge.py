"""How a read-out is judged: person by person, class by class, and over the whole panel.

    from panel_judge import judge, tables
    rows = judge("mine", read, folder)      # read(logits, features, known) -> shift (K,)
    print(tables(rows))

``read`` may also return a function of the logits and features of the tests, which gives other
logits. Accuracy is over all outputs; every class of a person weighs as much as it comes up.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import append_row, read_rows
from numpy.typing import NDArray
from panel_people import SIZES, Case, Data, people
from panel_readouts import Adapted, Known, Reader

Floats = NDArray[np.float64]
HARM = 0.01
"""More accuracy than this lost is harm."""
RECOGNISED, FELL, SEEN, ENOUGH_TESTS = 0.5, 0.2, 2, 5
"""A class is recognised if the dense network names more than half of its tests right, there are so
many unlabelled samples of it, and tests enough to tell; it is lost if more than a fifth of its
recall goes."""
SPEECH = ("dscnn", "dscnn-small", "transformer")


@dataclass
class Score:
    """One person, one size, one method. Shares of the tests, and nats a test."""

    network: str
    kind: str
    person: str
    n: int
    method: str
    classes: int
    tests: int
    dense: float
    after: float
    told_dense: float
    told_after: float
    loss_dense: float
    loss_after: float
    recognised: int
    """Classes that could have been lost."""
    lost: int
    which: str
    """The lost ones: class, unlabelled samples, recall before and after."""
    new_dense: float
    new_after: float
    """Recall of a class that comes up in the tests only; NaN where there is none."""
    seconds: float

    @property
    def gain(self) -> float:
        return self.after - self.dense


def score(case: Case, method: str, after: Floats, seconds: float = math.nan) -> Score:
    """What became of the dense network's answers: ``after`` are the logits of the tests."""
    before = case.data.logits[case.tests].astype(np.float64)
    truth, w = case.data.labels[case.tests], case.weights
    own_labels = case.data.labels[case.own]
    classes = case.classes
    right = [x.argmax(1) == truth for x in (before, after)]
    told = [classes[x[:, classes].argmax(1)] == truth for x in (before, after)]
    loss = [-log_softmax(x)[np.arange(len(truth)), truth] for x in (before, after)]
    recognised, lost = 0, []
    for k in classes.tolist():
        of, seen = truth == k, int((own_labels == k).sum())
        was, now = (float(r[of].mean()) for r in right)
        if seen < SEEN or of.sum() < ENOUGH_TESTS or was <= RECOGNISED:
            continue
        recognised += 1
        # Rounding is no loss: 4 of 5 is a fifth, and not more.
        if now < (1 - FELL) * was - 1e-9:
            lost.append(f"{k} ({seen}): {was:.2f} -> {now:.2f}")
    new = [math.nan, math.nan]
    if case.new is not None:
        new = [float(r[truth == case.new].mean()) for r in right]
    mean = [float(w @ v) for v in (*right, *told, *loss)]
    return Score(
        case.network, case.kind, case.person, case.n, method, len(classes), int((w > 0).sum()),
        *mean, recognised, len(lost), "; ".join(lost), *new, seconds,
    )  # fmt: skip


def known_of(data: Data) -> Known:
    """What a read-out may know of a network."""
    return Known(data.weight, data.bias, data.prior, data.name in SPEECH)


def adapted(case: Case, read: Reader, known: Known) -> tuple[Floats, float]:
    """The tests' logits as ``read`` would have them, and the seconds that it took to read."""
    data = case.data
    own = data.logits[case.own].astype(np.float64)
    features = data.features[case.own].astype(np.float32)
    started = time.perf_counter()
    found = read(own, features, known)
    seconds = time.perf_counter() - started
    tests = data.logits[case.tests].astype(np.float64)
    if callable(found):
        apply: Adapted = found
        return apply(tests, data.features[case.tests].astype(np.float32)), seconds
    return tests + found, seconds


def judge(
    method: str,
    read: Reader,
    folder: Path,
    networks: Sequence[str] | None = None,
    count: int | None = None,
    sizes: tuple[int, ...] = SIZES,
    kinds: list[str] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Score]:
    """Score ``read`` for all people of the networks whose caches lie in ``folder``.

    ``count``: people of each kind; by default ten, and five where there are 1000 classes.
    """
    rows: list[Score] = []
    paths = sorted(folder.glob("*.npz"))
    for path in [p for p in paths if networks is None or p.stem in networks]:
        data, before = Data(path), len(rows)
        known = known_of(data)
        started = time.perf_counter()
        for case in people(data, count or (5 if data.classes >= 100 else 10), sizes, kinds):
            rows.append(score(case, method, *adapted(case, read, known)))
        took = time.perf_counter() - started
        progress(f"{method}: {data.name}, {len(rows) - before} cases, {took:.1f} s")
    return rows


def log_softmax(x: Floats) -> Floats:
    """Log probabilities of rows of logits."""
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


# --- Over many people


@dataclass
class Summary:
    """What a group of scores amounts to."""

    cases: int
    dense: float
    gain: float
    worst: float
    harmed: float
    recognised: int
    lost: int
    new: float
    """Recall of new classes relative to the dense network's; NaN where there are none."""
    loss: float
    """Change of the log-loss."""


def summary(rows: Sequence[Score]) -> Summary:
    """Of one group: all cases weigh alike."""
    gains = np.array([r.gain for r in rows])
    new = [r for r in rows if not math.isnan(r.new_dense)]
    was = sum(r.new_dense for r in new)
    return Summary(
        len(rows),
        float(np.mean([r.dense for r in rows])),
        float(gains.mean()),
        float(gains.min()),
        float((gains < -HARM - 1e-9).mean()),
        sum(r.recognised for r in rows),
        sum(r.lost for r in rows),
        sum(r.new_after for r in new) / was if was else math.nan,
        float(np.mean([r.loss_after - r.loss_dense for r in rows])),
    )


def overall(rows: Sequence[Score]) -> Summary:
    """Over networks: means are means of the networks' means, so that none outweighs the others."""
    parts = [summary(group) for group in grouped(rows, lambda r: r.network).values()]
    news = [p.new for p in parts if not math.isnan(p.new)]
    return Summary(
        sum(p.cases for p in parts),
        float(np.mean([p.dense for p in parts])),
        float(np.mean([p.gain for p in parts])),
        min(p.worst for p in parts),
        float(np.mean([p.harmed for p in parts])),
        sum(p.recognised for p in parts),
        sum(p.lost for p in parts),
        float(np.mean(news)) if news else math.nan,
        float(np.mean([p.loss for p in parts])),
    )


def grouped(rows: Iterable[Score], key: Callable[[Score], str]) -> dict[str, list[Score]]:
    """Rows by a key, in the order in which the keys come."""
    found: dict[str, list[Score]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


HEAD = ("", "cases", "dense", "gain", "worst", "harmed", "lost", "new class", "log-loss")


def _line(name: str, s: Summary) -> list[str]:
    new = "-" if math.isnan(s.new) else f"{s.new:.2f}"
    return [
        name, str(s.cases), f"{100 * s.dense:.1f}", f"{100 * s.gain:+.1f}", f"{100 * s.worst:+.1f}",
        f"{100 * s.harmed:.1f} %", f"{s.lost}/{s.recognised}", new, f"{s.loss:+.3f}",
    ]  # fmt: skip


def tables(rows: Sequence[Score], full: bool = True) -> str:
    """The scores of one method as text: in all, leaving each network out, and by group."""
    names = [*grouped(rows, lambda r: r.network)]
    lines = [_line("all networks", overall(rows))]
    if len(names) > 1:
        for name in names:
            lines.append(_line(f"all but {name}", overall([r for r in rows if r.network != name])))
    for key in (lambda r: r.network, lambda r: f"n = {r.n}", lambda r: r.kind):
        lines.append([])
        lines += [_line(name, overall(group)) for name, group in grouped(rows, key).items()]
    if full:
        lines.append([])
        both = grouped(rows, lambda r: f"{r.network}: {r.kind}")
        lines += [_line(name, summary(group)) for name, group in both.items()]
    return f"{rows[0].method}\n{aligned([list(HEAD), *lines])}"


def comparison(methods: dict[str, Sequence[Score]]) -> str:
    """All methods over all networks, one line each."""
    lines = [_line(name, overall(rows)) for name, rows in methods.items()]
    return aligned([list(HEAD), *lines])


def aligned(lines: list[list[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines if line) for i in range(len(lines[0]))]

    def row(cells: list[str]) -> str:
        first, *rest = (f"{c:{'>' if i else '<'}{widths[i]}}" for i, c in enumerate(cells))
        return "  ".join((first, *rest))

    return "\n".join(row(line) if line else "" for line in lines)


# --- Files


def write(rows: Sequence[Score], folder: Path) -> Path:
    """Every score as CSV, and what they amount to as JSON beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"judged-{rows[0].method}.csv"
    path.unlink(missing_ok=True)
    for row in rows:
        append_row(path, row)
    found = {"all": vars(overall(rows))}
    for name in grouped(rows, lambda r: r.network):
        found[f"all but {name}"] = vars(overall([r for r in rows if r.network != name] or rows))
    for name, group in grouped(rows, lambda r: f"{r.network}: {r.kind}").items():
        found[name] = vars(summary(group))
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    return path


def read(path: Path) -> list[Score]:
    """The scores of a file."""
    return read_rows(path, Score)
