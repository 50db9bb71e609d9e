"""Check: the finished network against the dense one, on samples held back from the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.check import CheckOptions, against, by_rank, expected
from ..core.readout import Readout
from ..data.batches import logits_of
from ..network.engine import Engine
from .observe import Observation


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
    gain: float | None = None
    """Accuracy expected beside the dense network's."""
    recall: float | None = None
    worst: int | None = None
    """Of the class that loses most, the share of its expected recall that stays; and which."""
    readout: bool = True
    """Whether the read-out is, on the dense weights if need be."""


def check(
    engine: Engine, seen: Observation, answer: Readout | None, options: CheckOptions
) -> Check:
    """Compare the engine's finished network with what was wanted on the samples held back."""
    if not options.enabled:
        return Check(0, True, "not asked for")
    if seen.logits is None:
        return Check(0, True, seen.trace.readout_refused)
    if not seen.held:
        few = f"{seen.samples} samples are too few to tell whether it helps"
        return Check(0, False, few, readout=_alone(seen, answer, options, few=True))
    said = torch.cat([_said(p.output, seen.trace.end) for p in engine.stream(seen.held)])
    found, dense = said.double().numpy(), seen.logits.double().numpy()
    wanted = dense[[*seen.held_rows]] + (0.0 if answer is None else answer.shift)
    errors = found - wanted
    if answer is not None or "softmax" in seen.trace.end:
        errors -= errors.mean(1, keepdims=True)  # added to all outputs alike, it changes no answer
    variance = dense.var(0).sum()
    error = float((errors**2).mean(0).sum() / max(variance, 1e-300))
    if not np.isfinite(found).all():
        return Check(
            len(errors), False, "its outputs are not finite", readout=_alone(seen, answer, options)
        )
    if answer is None:
        passed = error < 1 or not variance
        reason = "" if passed else "it misses all that varies"
        return Check(len(errors), passed, reason, error, readout=False)
    e = expected(dense, answer, by_rank(wanted, found), options)
    reason = against(e, options)
    alone = not reason or _alone(seen, answer, options)
    return Check(len(errors), not reason, reason, error, e.gain, e.recall, e.worst, alone)


def _alone(
    seen: Observation, answer: Readout | None, options: CheckOptions, few: bool = False
) -> bool:
    """Whether the read-out is worth having on the dense weights. What the user says of the classes
    holds in any case."""
    if answer is None or seen.logits is None:
        return False
    if not answer.prior.all():
        return True
    dense = seen.logits.double().numpy()
    return not few and not against(
        expected(dense, answer, np.zeros_like(dense[:1]), options), options
    )


def _said(output: object, end: str) -> Tensor:
    logits = logits_of(output).float().cpu()
    if end == "softmax":
        return logits.clamp(min=1e-30).log()
    return logits.clamp(1e-6, 1 - 1e-6).logit() if end == "sigmoid" else logits
