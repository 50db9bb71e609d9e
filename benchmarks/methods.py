"""The methods that are compared. Each takes a case and a sparsity, and gives named answers.

A name that ends in "+ read-out" is the method before it with our read-out on top: a shift of its
outputs, found from the unlabelled samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import adapt
import controls
from case import READ_OUT, Answers, Case, logits, measured
from measure import Answer

import finepruning

# --- Methods that prune


@dataclass(frozen=True)
class Personalize:
    """finepruning as it is shipped, its read-out included, but for the check at its end: all
    methods are compared at the sparsity that is named. The published rule has no read-out, and gets
    ours on top."""

    effort: str
    name: str
    norms: float | None = None
    """The share that batch norms follow the person; None: as the effort has it."""

    def __call__(self, case: Case, sparsity: float) -> Answers:
        x = case.unlabelled
        config = finepruning.Config(
            sparsity=sparsity, effort=self.effort, norms=self.norms, task="classes", check=False
        )
        with measured() as cost:
            result = finepruning.personalize(case.model, x, config=config, progress=False)
        report, parts = result.report, result.report.seconds
        with tempfile.TemporaryDirectory() as folder:
            result.save(Path(folder, "me"))
            size = sum(f.stat().st_size for f in Path(folder, "me").iterdir())
        answer = Answer(
            logits(result.model, case.user.test),
            report.sparsity,
            seconds=cost.seconds,
            solve_seconds=parts["solve"],
            dense_seconds=parts["dense_forward"],
            forward_passes=report.forward_passes,
            peak_mb=(report.peak_memory or 0) / 1e6,
            artifact_bytes=size,
        )
        if self.effort == "paper":
            return case.with_read_out(self.name, answer, dense_pass=True)
        return {self.name: answer}


@dataclass(frozen=True)
class Control:
    """A pruning control, with the options of its function in :mod:`controls`."""

    name: str
    prune: Callable[..., controls.Outcome]
    options: dict[str, str]

    def __call__(self, case: Case, sparsity: float) -> Answers:
        seen = case.seen
        with measured() as cost:
            found = self.prune(case.model, case.batches, sparsity, seen=seen, **self.options)
        seconds, peak = cost.seconds, cost.peak_mb
        if found.observed:
            seconds += case.observing.seconds
            peak = max(case.observing.peak_mb, case.observing.held_mb + peak)
        outputs = logits(found.model, case.user.test)
        answer = Answer(outputs, found.sparsity, seconds, found.forward_passes, peak)
        return case.with_read_out(self.name, answer, found.dense_pass)


# --- Methods that leave all weights, or change them without a zero


def dense(case: Case, sparsity: float) -> Answers:
    """The network as it came."""
    answer = Answer(case.outputs, seconds=0.0, forward_passes=0.0, peak_mb=0.0)
    return case.with_read_out("dense", answer)


def lame(case: Case, sparsity: float) -> Answers:
    """The test outputs made to agree among neighbours, before and behind our read-out."""
    features = case.dense(case.user.pool, case.user.tested)[1]
    neighbours = adapt.LAME_SPEECH if case.speech else None
    found = {}
    for name, outputs in (("", case.outputs), (READ_OUT, case.outputs + case.shift())):
        with measured() as cost:
            answer = adapt.lame(outputs, features, neighbours)
        seconds, passes, peak = cost.seconds, 0.0, cost.peak_mb
        if name:  # the read-out's
            seconds, passes = seconds + case.dense_seconds, 1.0
            peak = max(peak, case.dense.peak_mb)
        found["dense + LAME" + name] = Answer(answer, 0.0, seconds, passes, peak)
    return found


@dataclass(frozen=True)
class Tent:
    """Entropy minimised on the unlabelled samples."""

    name: str
    batch_statistics: bool

    def __call__(self, case: Case, sparsity: float) -> Answers:
        batches, steps = case.batches, adapt.TENT_SPEECH if case.speech else adapt.TENT_STEPS
        with measured() as cost:
            model = adapt.tent(
                case.model, batches, steps=steps, batch_statistics=self.batch_statistics
            )
        shown = sum(len(batch) for batch in islice(cycle(batches), steps))
        passes = adapt.TENT_PASSES * shown / case.user.n + self.batch_statistics
        outputs = logits(model, case.user.test)
        answer = Answer(outputs, 0.0, cost.seconds, passes, cost.peak_mb)
        return case.with_read_out(self.name, answer)


TUNED = {n: f"fine-tuned with labels, {n} epoch{'s' * (n > 1)}" for n in (1, 5, 20)}


def fine_tune(case: Case, sparsity: float) -> Answers:
    """The upper bound: told the labels that nobody else sees, with backpropagation."""
    found, seconds, peak = {}, 0.0, 0.0
    lr = adapt.TUNE_SPEECH if case.speech else adapt.TUNE_LR
    tuning = adapt.fine_tune(case.model, case.unlabelled, case.user.truth, tuple(TUNED), lr)
    for epochs, name in TUNED.items():
        with measured() as cost:
            _, model = next(tuning)
        seconds, peak = seconds + cost.seconds, max(peak, cost.peak_mb)
        outputs = logits(model, case.user.test)
        found[name] = Answer(outputs, 0.0, seconds, adapt.TUNE_PASSES * epochs, peak)
    return found


# --- All of them


@dataclass(frozen=True)
class Method:
    """How to call a method, which rows it gives, and whether it prunes at all."""

    run: Callable[[Case, float], Answers]
    rows: tuple[str, ...]
    prunes: bool = True
    unfolded: bool = False
    """Only for BatchNorms that hold statistics. Where these are folded into weight and bias, a
    batch's own would be those of the data instead of mean 0, variance 1, and to re-estimate
    can only mean relative to the dense network."""


def _control(
    name: str, prune: Callable[..., controls.Outcome], unfolded: bool = False, **options: str
) -> Method:
    return Method(Control(name, prune, options), (name, name + READ_OUT), unfolded=unfolded)


def _personalize(effort: str, name: str, norms: float | None = None) -> Method:
    rows = (name, name + READ_OUT) if effort == "paper" else (name,)
    return Method(Personalize(effort, name, norms), rows, unfolded=norms is not None)


_magnitude, _wanda, _obs = controls.magnitude, controls.wanda, controls.obs

METHODS: dict[str, Method] = {
    "dense": Method(dense, ("dense", "dense" + READ_OUT), False),
    "best": _personalize("best", "finepruning best"),
    "fast": _personalize("fast", "finepruning fast"),
    "best-norms-follow": _personalize("best", "finepruning best, batch norms follow", 0.25),
    "paper": _personalize("paper", "finepruning paper"),
    "magnitude": _control("magnitude, global", _magnitude),
    "magnitude-bn": _control("magnitude, global + BN re-estimated", _magnitude, mend="bn"),
    "magnitude-bn-relative": _control(
        "magnitude, global + BN re-estimated, relative", _magnitude, True, mend="bn-relative"
    ),
    "magnitude-repair": _control("magnitude, global + repair", _magnitude, mend="repair"),
    "layer": _control("magnitude, per layer", _magnitude, across="layer"),
    "layer-repair": _control(
        "magnitude, per layer + repair", _magnitude, across="layer", mend="repair"
    ),
    "wanda": _control("Wanda", _wanda),
    "wanda-repair": _control("Wanda + repair", _wanda, mend="repair"),
    "wanda-plan": _control("Wanda, our plan", _wanda, across="layer", plan="measured"),
    "wanda-plan-repair": _control(
        "Wanda, our plan + repair", _wanda, across="layer", plan="measured", mend="repair"
    ),
    "obs-uniform": _control("OBS, uniform", _obs, plan="uniform"),
    "obs": _control("OBS, our plan", _obs),
    "obs-repair": _control("OBS, our plan + repair", _obs, mend="repair"),
    "lame": Method(lame, ("dense + LAME", "dense + LAME" + READ_OUT), False),
    "tent": Method(Tent("dense + Tent", False), ("dense + Tent", "dense + Tent" + READ_OUT), False),
    "tent-bn": Method(
        Tent("dense + Tent, batch statistics", True),
        ("dense + Tent, batch statistics", "dense + Tent, batch statistics" + READ_OUT),
        prunes=False,
        unfolded=True,
    ),
    "tune": Method(fine_tune, tuple(TUNED.values()), False),
}
