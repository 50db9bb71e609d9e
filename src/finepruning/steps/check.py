"""Check: the finished network against the dense one, on samples held back from the fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.check import CheckOptions, Expected, against, by_rank, expected, sparing
from ..core.choose import ChoiceOptions, at_most, changes, differences
from ..core.readout import Readout
from ..data.batches import logits_of
from ..network.engine import Engine
from .observation import Observation
from .observe import output_of
from .trace import READ


@dataclass(frozen=True)
class Check:
    """What held-back samples say of the finished network."""

    held: int
    """How many there were."""
    passed: bool
    """Whether the finished network is worth having."""
    reason: str
    """Why it is not worth having, or why nothing was checked."""
    error: float | None = None
    """Share of the variance of the outputs wanted that it misses there."""
    changed: float | None = None
    """Share of the answers that differ from those of the dense network with its read-out;"""
    at_most: float | None = None
    """how many that may be, since few samples say it vaguely."""
    gain: float | None = None
    """Accuracy expected beside the dense network's."""
    recall: float | None = None
    worst: int | None = None
    """Of the class that loses most, the share of its expected recall that stays; and which."""


def worth_having(seen: Observation, answer: Readout, options: CheckOptions) -> Readout | None:
    """The read-out as it is worth having on the dense weights; None: it is not, or there are too
    few samples to tell. What the user says of the classes holds in any case."""
    if seen.logits is None or not answer.prior.all():
        return answer
    if seen.known * options.share < 1:
        return None
    return sparing(seen.logits.double().numpy(), answer, options)


def check(
    engine: Engine,
    seen: Observation,
    task: str,
    answer: Readout | None,
    options: CheckOptions,
    choice: ChoiceOptions,
    chosen: bool,
) -> Check:
    """Compare the engine's network with what was wanted on the samples held back.

    ``answer`` is the read-out that the network has, None where its outputs are no classes.
    ``chosen``: its sparsity is one of several to choose from, and no more answers may change than
    ``choice`` says.
    """
    if not chosen and not options.enabled:
        return Check(0, True, "not asked for")
    if not chosen and seen.logits is None:
        return Check(0, True, seen.trace.readout_refused)
    held = sum(batch.size for batch in seen.held)
    if held < (choice.fewest if chosen else 1):
        return Check(held, False, f"{seen.samples} samples are too few to tell whether it helps")
    outputs = [p.output for p in engine.stream(seen.held)]
    if seen.logits is None:
        return _beside(seen, [*map(output_of, outputs)], task, choice)
    found = torch.cat([_said(output, seen.trace.end) for output in outputs]).double().numpy()
    dense = seen.logits.double().numpy()
    wanted = dense[[*seen.held_rows]] + (0.0 if answer is None else answer.shift)
    if not np.isfinite(found).all():
        return Check(len(found), False, "its outputs are not finite")
    errors = found - wanted
    if answer is not None or "softmax" in seen.trace.end:
        errors -= errors.mean(1, keepdims=True)  # added to all outputs alike, it changes no answer
    variance = dense.var(0).sum()
    error = float((errors**2).mean(0).sum() / max(variance, 1e-300))
    if answer is not None:
        e = expected(dense, answer, by_rank(wanted, found), options)
        flipped = wanted.argmax(1) != found.argmax(1)
        changed, spread = changes(e.changed, e.changed_error, flipped)
        most = at_most(changed, spread, seen.known, choice)
        reason = _against(e, most, options, choice, chosen)
        passed = not reason
        return Check(len(found), passed, reason, error, changed, most, e.gain, e.recall, e.worst)
    if not chosen:
        passed = error < 1 or not variance
        return Check(len(found), passed, "" if passed else "it misses all that varies", error)
    return replace(_apart(differences(wanted, found, task), choice), error=error)


def _against(
    e: Expected, most: float, options: CheckOptions, choice: ChoiceOptions, chosen: bool
) -> str:
    """Why a network of which so much is expected is not worth having; empty: it is."""
    if chosen and most > choice.tolerance:
        return _too_many(most, choice)
    if not options.enabled:
        return ""
    harmless = most <= options.margin and e.recall >= 1 - options.recall
    return "" if harmless else against(e, options)


def _beside(seen: Observation, found: list[Tensor], task: str, choice: ChoiceOptions) -> Check:
    """The check of outputs that are no logits, batch by batch."""
    apart: list[NDArray[np.float64]] = []
    for one, two in zip(seen.held_outputs, found, strict=True):
        if one.shape != two.shape or not one.numel() or one.ndim < 2:
            return Check(0, False, "its outputs cannot be compared: give a sparsity, such as 0.5")
        if not bool(two.isfinite().all()):
            return Check(len(two), False, "its outputs are not finite")
        apart.append(differences(one.double().numpy(), two.double().numpy(), task))
    return _apart(np.concatenate(apart), choice)


def _apart(apart: NDArray[np.float64], choice: ChoiceOptions) -> Check:
    """The check of samples whose outputs differ by ``apart`` ``(m,)``."""
    m, changed = len(apart), float(apart.mean())
    most = changed + choice.sure * float(apart.std()) / max(m - 1, 1) ** 0.5
    passed = most <= choice.tolerance
    return Check(m, passed, "" if passed else _too_many(most, choice), None, changed, most)


def _too_many(most: float, choice: ChoiceOptions) -> str:
    return f"of 100 answers {100 * most:.1f} may change, and {100 * choice.tolerance:g} are allowed"


def _said(output: object, end: str) -> Tensor:
    return READ[end](logits_of(output).float().cpu())
