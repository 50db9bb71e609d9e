"""Networks whose outputs are no classes, and what personalize makes of them where nobody says so.

Small ones are trained on made-up data: regressors, taggers, detectors, embeddings, autoencoders,
values of actions, counts. Nothing of theirs may be read out: what comes back must be what comes
back with ``readout=False``, bit by bit. The rows go to ``results/panel-others-...csv``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import append_row, read_rows, result_file
from panel_judge import aligned, grouped
from torch import Tensor, nn
from torch.nn import functional as F

import finepruning

SEEDS = 2
SIZES = ((10, 16), (20, 32), (40, 64))
"""Outputs, and inputs."""
SAMPLES, TRAINED, STEPS = 200, 4000, 400
SPARSITY = 0.5


@dataclass
class Other:
    """A network that is no classifier. Differences are those of the outputs for new samples, as a
    share of their standard deviation."""

    kind: str
    outputs: int
    seed: int
    readout: int
    """1 where it was taken for a classifier."""
    from_off: float
    """Mean difference between the default and ``readout=False``."""
    error: float
    """Mean difference from the dense network."""


@dataclass(frozen=True)
class World:
    """Samples ``x`` around centres ``which``, and a linear map ``mix`` to as many outputs."""

    x: Tensor
    which: Tensor
    mix: Tensor

    @property
    def classes(self) -> int:
        return self.mix.shape[1]

    def hot(self) -> Tensor:
        return F.one_hot(self.which, self.classes).float()


def world(seed: int, classes: int, inputs: int) -> World:
    """The data of one seed and size."""
    g = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(classes, inputs, generator=g), dim=1) * 4
    which = torch.randint(0, classes, (TRAINED + SAMPLES,), generator=g)
    x = centres[which] + torch.randn(len(which), inputs, generator=g)
    return World(x, which, torch.randn(inputs, classes, generator=g))


Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and the wanted."""
bce, mse = F.binary_cross_entropy_with_logits, F.mse_loss


def contrast(y: Tensor, which: Tensor) -> Tensor:
    """Supervised contrast: samples of one centre lie in one direction."""
    z = F.normalize(y, dim=1)
    s = z @ z.T / 0.1 - 1e9 * torch.eye(len(z))
    same = (which[:, None] == which[None]) & ~torch.eye(len(z), dtype=torch.bool)
    log_p = s - s.logsumexp(1, keepdim=True)
    return -(log_p * same).sum() / same.sum().clamp(min=1)


def apart(y: Tensor, which: Tensor) -> Tensor:
    """Samples of one centre lie together, others three apart."""
    distance, same = torch.cdist(y, y), which[:, None] == which[None]
    return (distance * same).sum() / same.sum() + F.relu(3 - distance)[~same].mean()


def seldom(w: World) -> Tensor:
    """Events in two of a hundred samples, the first where an input is high."""
    events = (
        torch.rand(len(w.x), w.classes, generator=torch.Generator().manual_seed(0)) < 0.02
    ).float()
    events[:, 0] = (w.x[:, 0] > 2).float()
    return events


def scaled(w: World) -> Tensor:
    """Values of very different sizes."""
    k = torch.arange(w.classes)
    return w.x @ w.mix * torch.exp(2 * torch.sin(k * 1.7)) / 10 + torch.cos(k * 2.3)


KINDS: dict[str, tuple[Callable[[World], Tensor], Loss]] = {
    "one tag of many": (World.hot, bce),
    "several tags": (lambda w: ((w.x @ w.mix / w.x.shape[1] ** 0.5) > 2).float(), bce),
    "detector of rare events": (seldom, bce),
    "regression": (lambda w: w.x @ w.mix, mse),
    "skewed regression": (lambda w: 3 * (w.x @ w.mix / w.x.shape[1] ** 0.5).exp(), mse),
    "regression of different sizes": (scaled, mse),
    "regression that is never negative": (lambda w: (w.x @ w.mix).relu().square() / 10, mse),
    "regression to one-hot": (lambda w: 10 * w.hot(), mse),
    "values of actions": (lambda w: 10 + w.x @ w.mix / 10, mse),
    "counts": (
        lambda w: (w.x @ w.mix / w.x.shape[1] ** 0.5).exp(),
        lambda y, wanted: F.poisson_nll_loss(y, wanted),
    ),
    "autoencoder": (lambda w: w.x, mse),
    "embedding by contrast": (lambda w: w.which, contrast),
    "embedding by distance": (lambda w: w.which, apart),
    "untrained": (lambda w: w.which, lambda y, which: 0 * y.sum()),
}


def trained(w: World, wanted: Tensor, loss: Loss, seed: int) -> nn.Module:
    """A small network with as many outputs as ``wanted`` has, or as there are centres."""
    torch.manual_seed(seed)
    outputs = wanted.shape[1] if wanted.ndim > 1 else w.classes
    net = nn.Sequential(
        nn.Linear(w.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(STEPS):
        some = torch.randint(0, TRAINED, (128,))
        optimizer.zero_grad()
        loss(net(w.x[some]), wanted[some]).backward()
        optimizer.step()
    return net.eval()


def measured(kind: str, seed: int, classes: int, inputs: int) -> Other:
    """One network, personalised on half of the samples that it was not trained on."""
    w = world(seed, classes, inputs)
    target, loss = KINDS[kind]
    net = trained(w, target(w), loss, seed)
    own, new = w.x[TRAINED:].chunk(2)
    on, off = (
        finepruning.personalize(net, own, sparsity=SPARSITY, readout=readout, progress=False)
        for readout in (None, False)
    )
    with torch.no_grad():
        dense, a, b = (model(new) for model in (net, on.model, off.model))
    size = float(dense.std(0).mean())
    return Other(
        kind, dense.shape[1], seed, int(on.report.readout["applied"]),
        float((a - b).abs().mean()) / size, float((a - dense).abs().mean()) / size,
    )  # fmt: skip


def others(smoke: bool = False) -> str:
    """Measure what is missing, and tell what was taken for a classifier."""
    path = result_file("panel-others-smoke" if smoke else "panel-others")
    if smoke:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    there = {(row.kind, row.outputs, row.seed) for row in read_rows(path, Other)}
    kinds = [*KINDS][:1] if smoke else [*KINDS]
    for kind in kinds:
        for seed in range(1 if smoke else SEEDS):
            for classes, inputs in SIZES[:1] if smoke else SIZES:
                outputs = inputs if kind == "autoencoder" else classes
                if (kind, outputs, seed) not in there:
                    append_row(path, measured(kind, seed, classes, inputs))
    return aligned([[*HEAD], *lines(read_rows(path, Other))])


HEAD = ("outputs are", "networks", "read out", "from readout=False", "from the dense network")


def lines(rows: list[Other]) -> list[list[str]]:
    """A line for each kind, and for all."""
    by = {**grouped(rows, lambda r: r.kind), "all": rows}  # type: ignore[arg-type,attr-defined]
    return [
        [
            kind, str(len(of)), str(sum(row.readout for row in of)),
            f"{max(row.from_off for row in of):.3f}",
            f"{sum(row.error for row in of) / len(of):.3f}",
        ]
        for kind, of in by.items()
    ]  # fmt: skip
