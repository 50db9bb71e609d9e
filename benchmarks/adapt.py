"""Controls that adapt instead of prune: BatchNorm statistics, LAME, Tent, fine-tuning with labels.

Constants were tuned on development users (CIFAR users with seeds of 1000 and more; for LAME also
the two halves of dogs/unlabelled; for speech the four held-out training speakers), never on a test
set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from finepruning.research import Call, Engine, Norm, Place, logits_of, read_batches

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and unbiased variance ``(C,)``, in float64, of the inputs of each BatchNorm."""


# --- Batch normalisation
# ------------------------------------------------------------------------------------


def _norms(model: nn.Module) -> list[Norm]:
    """The normalisations of ``model`` that use running statistics."""
    named = model.named_modules()
    return [Norm(n, m) for n, m in named if isinstance(m, _BatchNorm) and m.track_running_stats]


def folded(model: nn.Module) -> bool:
    """Whether the checkpoint keeps its statistics in weight and bias (mean 0, variance 1)."""
    norms = [norm.module for norm in _norms(model)]
    return all(bool((m.running_mean == 0).all() and (m.running_var == 1).all()) for m in norms)


def statistics(model: nn.Module, batches: Sequence[Tensor]) -> Statistics:
    """What the BatchNorms of ``model`` see on all samples of ``batches``."""
    found: Statistics = {}
    _lock_step(model, batches, lambda norm, xs: found.update({norm.name: _mean_variance(xs)}))
    return found


def recalibrate(
    model: nn.Module, batches: Sequence[Tensor], dense: Statistics | None = None
) -> None:
    """Re-estimate the running statistics of ``model`` in place.

    All samples meet at each BatchNorm before it runs, behind layers that are normalised already:
    what training mode does with all samples in one batch. On a pruned network that is REFLOW
    (Saikumar and Varghese 2025, arXiv 2502.15790).

    With the ``dense`` network's statistics on the same samples, a channel gets the mean and the
    variance that it has *there* instead of 0 and 1::

        v = (var_pruned / var_dense) running_var
        m = mean_pruned - (mean_dense - running_mean) sqrt(v / running_var)

    The dense network itself is then not changed: the only sense that re-estimating can have where
    the checkpoint has its statistics folded into weight and bias.
    """

    given = {norm.name: norm.module for norm in _norms(model)}

    def visit(norm: Norm, inputs: Sequence[Tensor]) -> None:
        mean, var = _mean_variance(inputs)
        m = norm.module
        if dense is not None:
            dense_mean, dense_var = dense[norm.name]
            growth = (var + m.eps) / (dense_var + m.eps)
            mean = mean - (dense_mean - m.running_mean) * growth.sqrt()
            var = (m.running_var + m.eps) * growth - m.eps
        for one in (m, given[norm.name]):
            one.running_mean.copy_(mean)
            one.running_var.copy_(var)

    _lock_step(model, batches, visit)


def _mean_variance(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over all but the channels (dimension 1) of all ``inputs``."""
    parts = [torch.var_mean(x, [0, *range(2, x.ndim)], correction=0) for x in inputs]
    var, mean = (torch.stack(part).double() for part in zip(*parts, strict=True))
    n = torch.tensor([[x.numel() / x.shape[1]] for x in inputs]).to(mean)
    total = (n * mean).sum(0) / n.sum()
    return total, (n * (var + (mean - total) ** 2)).sum(0) / (n.sum() - 1).clamp(min=1)


def _lock_step(
    model: nn.Module, batches: Sequence[Tensor], visit: Callable[[Norm, list[Tensor]], None]
) -> None:
    """All ``batches`` through a copy of ``model``; ``visit`` gets a norm of the copy and what all
    of them bring to it, and they go on with the statistics that it then has."""
    engine = Engine(model, next(model.parameters()).device)
    places = [Place(norm.module, (norm,), _wire) for norm in _norms(engine.model)]
    engine.lock_step([*read_batches(batches)], places, lambda norm, xs: visit(norm, [*xs.values()]))
    engine.finish()


def _wire(twin: Any, norms: tuple[Norm, ...], call: Call) -> None:
    """A batch's own twin of a norm holds the statistics of before: compute with the copy's."""
    (norm,) = norms
    twin.forward = lambda x: call(norm, norm.module, x)


# --- LAME
# ------------------------------------------------------------------------------------


LAME_NEIGHBOURS, LAME_SHARE = 10, 20
"""Neighbours: at least the first, and one of so many test samples. Of 1 to 150 at weights of 1/4 to
2; the few of the paper's batches of 64 gain far less on a whole test set."""
LAME_SPEECH = 4
"""Of people who say each word a few times: with 10 neighbours most would be other words. Of 1, 2,
3, 4, 5 and 10, at weights of 1/2 and 1."""


def lame(
    logits: Tensor,
    features: Tensor,
    neighbours: int | None = None,
    weight: float = 1.0,
    steps: int = 100,
) -> Tensor:
    """Log assignments ``(n, K)`` that agree with the network and among neighbours.

    Minimises ``sum_i KL(z_i | q_i) - weight/2 sum_ij a_ij z_i z_j`` over distributions ``z_i``,
    with ``q`` the network's own probabilities (``logits`` ``(n, K)``) and the affinity ``a`` of the
    nearest neighbours in ``features`` ``(n, F)``, the inputs of the last Linear. Transductive: it
    sees the whole test set at once, and changes no network, so that nothing is left for the next
    sample. Source: Boudiaf et al. 2022 (CVPR), arXiv 2201.05718.
    """
    neighbours = neighbours or max(LAME_NEIGHBOURS, len(logits) // LAME_SHARE)
    q, a = logits.log_softmax(1), affinity(features, neighbours)
    z = q.exp()
    for _ in range(steps):
        before, z = z, (q + weight * (a @ z)).softmax(1)
        if float((z - before).abs().max()) < 1e-6:
            break
    return (q + weight * (a @ z)).log_softmax(1)


def affinity(features: Tensor, neighbours: int) -> Tensor:
    """Symmetric affinity ``(n, n)``: 1 where each is among the other's nearest, 1/2 if one is."""
    f = F.normalize(features, dim=1)
    near = (f @ f.mT).fill_diagonal_(-torch.inf).topk(min(neighbours, len(f) - 1)).indices
    a = f.new_zeros(len(f), len(f)).scatter_(1, near, 1.0)
    return (a + a.mT) / 2


def lame_objective(z: Tensor, logits: Tensor, a: Tensor, weight: float = 1.0) -> float:
    """What :func:`lame` minimises, for assignments ``z`` ``(n, K)``."""
    kl = torch.xlogy(z, z) - z * logits.log_softmax(1)
    return float(kl.sum() - weight / 2 * (z * (a @ z)).sum())


# --- Tent
# ------------------------------------------------------------------------------------


TENT_LR, TENT_STEPS = 1.5e-3, 12
"""The rate is relative to the typical scale, which is five times smaller where statistics are
folded into it. Of 1/3, 1 and 3 times this, and 4, 12, 40 steps; more does harm to a person who has
all classes. With batch statistics (as published) all are worse than the dense network."""
TENT_SPEECH = 40
"""Steps for networks that hear words, at the same rate. Of 4, 12 and 40, and 1/3 and 3 times it."""
TENT_PASSES = 2
"""What a step costs, in forward passes over its batch."""


def tent(
    model: nn.Module,
    batches: Sequence[Tensor],
    lr: float = TENT_LR,
    steps: int = TENT_STEPS,
    *,
    batch_statistics: bool = False,
) -> nn.Module:
    """A copy whose BatchNorm (and LayerNorm) scales and shifts minimise the entropy of its own
    predictions.

    ``steps`` of Adam, one batch each, in turns. With ``batch_statistics`` (as published; never for
    a checkpoint whose statistics are folded, which they would destroy) each batch is normalised by
    itself, and the test data by the statistics of all ``batches``, so that no order or mixture of
    test samples matters. Costs 2 forward passes a step (:data:`TENT_PASSES`): one forward, and one
    back to the layers' inputs, whose weights want no gradient. Source: Wang et al. 2021 (ICLR),
    arXiv 2006.10726.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    norms = [norm.module for norm in _norms(model)]
    for m in norms:
        m.train(batch_statistics)
        m.momentum = 0.0  # the running statistics stay what they are
    norms += [m for m in model.modules() if isinstance(m, nn.LayerNorm) and m.elementwise_affine]
    free = [p.requires_grad_(True) for m in norms for p in m.parameters()]
    scale = float(torch.cat([m.weight.detach().abs() for m in norms]).median())
    optimiser = torch.optim.Adam(free, lr * scale)
    for batch in islice(cycle(read_batches(batches)), steps):
        log_p = logits_of(batch.call(model)).log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        optimiser.zero_grad()
        entropy.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    if batch_statistics:
        recalibrate(model, batches)
    return model


# --- Fine-tuning with labels
# ------------------------------------------------------------------------------------


TUNE_LR, TUNE_DECAY, TUNE_BATCH = 1e-4, 1e-2, 16
"""AdamW at this rate, against SGD with momentum at 1e-3, 3e-3, 1e-2 in batches of 16 and 32. The
best SGD (1e-3, 32) ends no better with 128 images and is 2 points behind after one epoch; larger
rates forget."""
TUNE_SPEECH = 3e-4
"""The rate for networks that hear words, of 1, 3 and 10 times 1e-4."""
TUNE_PASSES = 3
"""What an epoch costs, in forward passes over the samples."""


def fine_tune(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    epochs: Sequence[int] = (1, 5, 20),
    lr: float = TUNE_LR,
    *,
    decay: float = TUNE_DECAY,
    batch_size: int = TUNE_BATCH,
    seed: int = 0,
) -> Iterator[tuple[int, nn.Module]]:
    """The upper bound: fine-tune a copy with ``labels`` ``(n,)``; yields after each of ``epochs``.

    All weights by AdamW on the cross-entropy over all outputs; BatchNorm keeps its statistics;
    images are flipped at random. One run: what is yielded is the live network, to be measured
    before the next is asked for. Costs 3 forward passes an epoch
    (:data:`TUNE_PASSES`: one forward, two backward, to the inputs and to the weights).
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=decay)
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    for epoch in range(1, max(epochs) + 1):
        for index in torch.randperm(len(x), generator=generator).split(batch_size):
            batch = x[index]
            if batch.ndim == 4:
                flip = torch.rand(len(batch), generator=generator) < 0.5
                batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
            outputs = logits_of(model(batch.to(device)))
            loss = F.cross_entropy(outputs, labels[index].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch in epochs:
            yield epoch, model
