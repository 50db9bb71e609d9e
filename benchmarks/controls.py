"""Controls that prune without labels: magnitude, Wanda and OBS, each in its strongest honest form.

All prune to the same count as finepruning does: zeros over *all* Conv and Linear weights. What is
left is mended not at all, by batch normalisation re-estimated (REFLOW), or by our repair. None is
refitted to the dense network's outputs: that is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from adapt import Statistics, folded, recalibrate, statistics
from torch import Tensor, nn

from finepruning import Config
from finepruning.research import (
    Engine,
    Evidence,
    Fit,
    FitOptions,
    Layer,
    Moments,
    Observation,
    Solution,
    budget,
    count_items,
    find_layers,
    fitted_bias,
    gain,
    global_threshold,
    like,
    observe,
    precise,
    prune,
    read_batches,
    repaired,
    saliency,
    spread,
    top,
)
from finepruning.research import plan as plan_layers

SPARED = 0.01
"""Where layers (or rows, or OBS with its uniform plan) all lose the same share, the first and the
last layer stay whole if they hold no more than this share of all weights, and the others lose the
more. On development users that was worth up to 9 points (CIFAR: both are spared; ResNet-50: the
last holds 8 %, and is better pruned)."""
DAMP, BLOCK = 0.01, 128
"""Of OBS, as published: the share of the mean diagonal that is added to H, and the columns whose
mask is chosen together."""


@dataclass
class Outcome:
    """A pruned network, and what it took."""

    model: nn.Module
    """In evaluation mode."""
    sparsity: float
    """Zeros, counted, over all weights of Conv and Linear layers."""
    forward_passes: float
    """Multiply-accumulates of all that was done, solves included, over those of one dense forward
    pass over the same samples."""
    dense_pass: bool
    """Whether the dense network ran over the samples, so that its logits come for nothing."""
    observed: bool
    """Whether that was :attr:`Observed.observation`, which controls share and none runs itself."""


class Observed:
    """The dense network on one person's data: measured when first asked for, shared by controls."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Tensor], config: Config | None = None
    ) -> None:
        self.model, self.batches, self.config = model, batches, config or Config()
        self.device = next(model.parameters()).device

    @cached_property
    def observation(self) -> Observation:
        """The evidence of every layer, from one forward pass."""
        engine = Engine(self.model, self.device)
        with torch.no_grad():
            return observe(
                engine,
                find_layers(engine.model),
                (),
                read_batches(self.batches),
                options=self.config.observe,
                seed=self.config.seed,
                batch_count=count_items(self.batches),
                step=_quiet,
            )

    def norms(self) -> Statistics:
        """What the BatchNorms see: a forward pass that whoever asks runs, and so pays for."""
        return statistics(self.model, self.batches)


Score = Callable[[Tensor, Evidence], Tensor]
"""What each of the weights ``W`` ``(G, O, D)`` is worth, from the evidence of their layer."""


def magnitude(
    model: nn.Module,
    batches: Sequence[Tensor],
    sparsity: float,
    *,
    across: str = "network",
    mend: str = "",
    seen: Observed | None = None,
) -> Outcome:
    """Keep the largest ``|w|``, compared ``across`` the ``network`` or within each ``layer``.

    Source: Han et al. 2015, arXiv 1506.02626.
    """
    seen = seen or Observed(model, batches)
    return _by_score(seen, sparsity, lambda W, _: W.abs(), across, mend, False)


def wanda(
    model: nn.Module,
    batches: Sequence[Tensor],
    sparsity: float,
    *,
    across: str = "row",
    plan: str = "uniform",
    mend: str = "",
    seen: Observed | None = None,
) -> Outcome:
    """Keep the largest ``|w_od| sqrt(E x_d^2)``, compared ``across`` ``row`` (each output, as
    published), ``layer`` or ``network``.

    What each layer keeps is ``uniform``, as published, or finepruning's ``measured`` spread; across
    the network, one threshold says. A convolution's inputs are its im2col columns. Source: Sun et
    al. 2023, arXiv 2306.11695.
    """

    def score(W: Tensor, evidence: Evidence) -> Tensor:
        return saliency(W, like(evidence.inputs.energy, W)).sqrt()

    seen = seen or Observed(model, batches)
    return _by_score(seen, sparsity, score, across, mend, True, plan)


def obs(
    model: nn.Module,
    batches: Sequence[Tensor],
    sparsity: float,
    *,
    plan: str = "measured",
    mend: str = "",
    seen: Observed | None = None,
) -> Outcome:
    """Remove weights and let the others of their row make up for it (:func:`obs_prune`).

    In lock-step: each layer is fitted to inputs that carry the damage done upstream. ``plan`` is
    ``uniform``, as published, or ``measured``, finepruning's own spread over the layers.
    """

    def fit(W: Tensor, evidence: Evidence, keep: int, options: FitOptions) -> Solution:
        # The outputs wanted are not looked at: moments of none of them.
        pairs = ((X, Y[..., :0], *weight) for X, Y, *weight in evidence.pairs())
        moments = evidence.joint or Moments.of(pairs, evidence.gram)
        shared = None if evidence.joint else moments.gram
        mean, H = moments.x_mean, moments.H
        W = obs_prune(W, H + mean[:, :, None] * mean[:, None, :], keep)
        G, rows, D = W.shape
        macs = moments.macs + obs_macs(G, rows, D)
        if mend != "repair":
            return Solution(W, macs=macs, gram=shared)
        dense, now = evidence.outputs, ((W @ H) * W).sum(-1)
        W = W * like(gain(now, dense.variance, options.gain_limit), W)[..., None]
        bias = fitted_bias(W, mean, like(dense.mean, W))
        return Solution(W, bias, macs=macs + G * rows * D**2, gram=shared)

    seen = seen or Observed(model, batches)
    work = _Work(seen, sparsity)
    keep = work.planned(plan)
    work.observed = plan == "measured" or mend == "repair"
    work.prune(keep, fit)
    return work.finish(mend)


def obs_prune(W: Tensor, H: Tensor, keep: int, damp: float = DAMP, block: int = BLOCK) -> Tensor:
    """``keep`` of the weights ``W`` ``(G, O, D)``, making up for those removed; ``H = E x x^T``.

    Removing ``w_d`` costs at least ``w_d^2 / [H^-1]_dd`` and moves its row by ``-w_d [H^-1]_d /
    [H^-1]_dd``, with the inverse over the inputs from ``d`` on: columns go from left to right, and
    those behind stay as they are. All these inverses are in one triangle, ``H^-1 = U^T U``. The
    mask is chosen for ``block`` columns at a time, by that cost. Source: Frantar and Alistarh 2023,
    arXiv 2301.00774; Hassibi and Stork 1992.
    """
    D = W.shape[2]
    mean = H.diagonal(0, 1, 2).mean(1)
    ridge = torch.where(mean > 0, damp * mean, 1.0)  # a group that sees nothing but zeros
    H = H + ridge[:, None, None] * torch.eye(D, dtype=H.dtype, device=H.device)
    # H = R R^T with R upper triangular is a Cholesky factor from the other end; U is its inverse.
    L = torch.linalg.cholesky(H.flip(1, 2))
    one = torch.eye(D, dtype=H.dtype, device=H.device).expand_as(H)
    U = torch.linalg.solve_triangular(L, one, upper=False).flip(1, 2)
    W, kept = W.clone(), 0
    for start in range(0, D, block):
        stop = min(start + block, D)
        here = slice(start, stop)
        cost = (W[:, :, here] / U.diagonal(0, 1, 2)[:, None, here]) ** 2
        count = round(keep * stop / D) - kept
        mask, kept = top(cost, count), kept + count
        errors = torch.zeros_like(cost)
        for d in range(start, stop):
            error = W[:, :, d] * ~mask[:, :, d - start] / U[:, d, d, None]
            W[:, :, d:stop] -= error[:, :, None] * U[:, None, d, d:stop]
            errors[:, :, d - start] = error
        W[:, :, here] *= mask
        W[:, :, stop:] -= errors @ U[:, here, stop:]
    return W


def obs_macs(G: int, rows: int, D: int, block: int = BLOCK) -> float:
    """Multiply-accumulates of :func:`obs_prune`, but for the Gram matrix.

    The Cholesky factor takes ``D^3 / 6``, a triangular solve with ``D`` right sides ``D^3 / 2``;
    then every column moves itself and all behind it in its block, and every block those behind it.
    """
    whole, rest = divmod(D, block)
    columns = (whole * block * (block + 1) + rest * (rest + 1)) / 2
    behind = (D * D - whole * block * block - rest * rest) / 2
    return G * (D**3 / 6 + D**3 / 2 + rows * (columns + behind))


class _Work:
    """A copy of the network that is being pruned, and its account."""

    def __init__(self, seen: Observed, sparsity: float) -> None:
        self.seen, self.engine = seen, Engine(seen.model, seen.device)
        found = find_layers(self.engine.model)
        evidence = seen.observation.evidence
        uncalled = [layer.name for layer in found.layers if layer.name not in evidence]
        self.found = found.without(dict.fromkeys(uncalled, "never called"))
        self.keep = budget(self.found.weights, sparsity)
        self.observed, self.passes = False, 0.0

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.found.layers

    def weights(self) -> dict[str, Tensor]:
        """Those of every layer, ``(G, O, D)``."""
        return {layer.name: precise(layer.matrix()) for layer in self.layers}

    def even(self) -> dict[str, int]:
        """The same share of every layer, but for a small first and last one (:data:`SPARED`)."""
        sizes = {layer.name: layer.size for layer in self.layers}
        ends = (self.layers[0], self.layers[-1])
        whole = {e.name: e.size for e in ends if e.size <= SPARED * self.found.weights}
        others = {name: size for name, size in sizes.items() if name not in whole}
        return whole | spread(others, others, self.keep - sum(whole.values()), 0.0)

    def planned(self, plan: str) -> dict[str, int]:
        """``uniform``: :meth:`even`. ``measured``: finepruning's own plan."""
        if plan == "uniform":
            return self.even()
        seen = self.seen
        return plan_layers(
            self.weights(), seen.observation.evidence, {}, self.keep, seen.config.plan
        )

    def by_threshold(self, score: Score) -> dict[str, int]:
        """What one threshold over the whole network leaves of each layer."""
        evidence = self.seen.observation.evidence
        scores = {name: score(W, evidence[name]) for name, W in self.weights().items()}
        return global_threshold({name: s.cpu().numpy() for name, s in scores.items()}, self.keep)

    def prune(self, keep: Mapping[str, int], fit: Fit) -> None:
        """One pass of all samples in lock-step."""
        seen, options = self.seen.observation, self.seen.config.fit
        with torch.no_grad():
            done = prune(self.engine, self.found, seen, keep, {}, options, step=_quiet, fit=fit)
        forward = seen.trace.macs(self.layers) * seen.samples
        self.passes += sum(layer.macs for layer in done.layers.values()) / max(1, forward)
        self.passes += seen.calibration_samples / seen.samples

    def cut(self, keep: Mapping[str, int], fit: Fit) -> None:
        """No pass: a fit that looks at no inputs, layer by layer."""
        seen, options = self.seen.observation, self.seen.config.fit
        for layer in self.layers:
            name, W = layer.name, precise(layer.matrix())
            layer.write(fit(W, seen.evidence[name], keep[name], options).weights, None)

    def finish(self, mend: str) -> Outcome:
        """Re-estimate batch normalisation where asked to, and count."""
        self.engine.finish()
        model, dense_pass = self.engine.model, self.observed
        if mend.startswith("bn"):
            relative = mend == "bn-relative" or folded(self.seen.model)
            recalibrate(model, self.seen.batches, self.seen.norms() if relative else None)
            dense_pass |= relative  # one pass can observe and see what the BatchNorms see
            self.passes += 1
        zeros = sum(int((layer.weight == 0).sum()) for layer in self.layers)
        passes = dense_pass + self.passes
        return Outcome(model, zeros / self.found.weights, passes, dense_pass, self.observed)


def _by_score(
    seen: Observed,
    sparsity: float,
    score: Score,
    across: str,
    mend: str,
    uses_data: bool,
    plan: str = "uniform",
) -> Outcome:
    work = _Work(seen, sparsity)
    work.observed = uses_data or mend == "repair"
    keep = work.by_threshold(score) if across == "network" else work.planned(plan)

    def select(W: Tensor, evidence: Evidence, count: int, options: FitOptions) -> Solution:
        value = score(W, evidence)
        return Solution(W * top(_rank(value) if across == "row" else value, count))

    def mended(W: Tensor, evidence: Evidence, count: int, options: FitOptions) -> Solution:
        return repaired(select(W, evidence, count, options).weights, evidence, options)

    if mend == "repair":
        work.prune(keep, mended)
    else:
        work.cut(keep, select)
    return work.finish(mend)


def _rank(score: Tensor) -> Tensor:
    """Scores that compare within rows: the best of each row first, then the second of each..."""
    order = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1).to(score)
    return -order + 0.5 * score / (score.max() + 1e-30)  # of one rank, the larger first


def _quiet(_: int) -> None:
    """No progress bar."""
