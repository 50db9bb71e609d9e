"""What is a classifier: some trained by cross-entropy, and much that is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finepruning.core.task import ClassifierOptions, is_classifier

K, D = 12, 24


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """Samples around 12 centres, and which."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(K, D, generator=generator)
    which = torch.randint(0, K, (2000,), generator=generator)
    return centres[which] + 0.5 * torch.randn(2000, D, generator=generator), which


def trained(
    data: tuple[Tensor, Tensor], loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and last weight of a small network trained to a loss of outputs, inputs, classes."""
    torch.manual_seed(0)
    x, which = data
    net = nn.Sequential(nn.Linear(D, 48), nn.ReLU(), nn.Linear(48, K))
    optimizer = torch.optim.SGD(net.parameters(), 0.03, 0.9, weight_decay=2e-3)
    for step in range(600):
        some = slice(100 * (step % 15), 100 * (step % 15) + 100)
        optimizer.zero_grad()
        loss(net(x[some]), x[some], which[some]).backward()
        optimizer.step()
    with torch.no_grad():
        return net(x[1500:1700]).double().numpy(), net[2].weight.detach().double().numpy()


def test_a_classifier_is_one(data: tuple[Tensor, Tensor]) -> None:
    logits, weight = trained(data, lambda y, x, which: F.cross_entropy(y, which))
    assert is_classifier(logits, weight)
    for people in (logits[logits.argmax(1) < 3], logits[:16]):
        assert is_classifier(people, weight)
    assert not is_classifier(logits[logits.argmax(1) == 2], weight)  # of one class nothing shows
    assert not is_classifier(logits, weight, ClassifierOptions(outputs=K + 1))


MIX = torch.randn(D, K, generator=torch.Generator().manual_seed(1))
OTHERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "regression": lambda y, x, which: F.mse_loss(y, x @ MIX),
    "skewed regression": lambda y, x, which: F.mse_loss(y, (x @ MIX / 3).exp()),
    "one-hot regression": lambda y, x, which: F.mse_loss(y, 9 * F.one_hot(which, K).float()),
    "values of different sizes": lambda y, x, which: F.mse_loss(
        y, x @ MIX * torch.arange(1, K + 1) ** 2 / 20 + 5 * torch.arange(K)
    ),
    "many labels": lambda y, x, which: F.binary_cross_entropy_with_logits(y, (x @ MIX > 3).float()),
    "one label of many": lambda y, x, which: F.binary_cross_entropy_with_logits(
        y, F.one_hot(which, K).float()
    ),
    "embedding": lambda y, x, which: F.cosine_embedding_loss(
        y, y.roll(1, 0), 2.0 * (which == which.roll(1)) - 1
    ),
    "counts": lambda y, x, which: F.poisson_nll_loss(y, (x @ MIX / 3).exp()),
    "autoencoder": lambda y, x, which: F.mse_loss(y, x[:, :K]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_classifier_is_none(data: tuple[Tensor, Tensor], name: str) -> None:
    logits, weight = trained(data, OTHERS[name])
    assert not is_classifier(logits, weight)
    assert not is_classifier(logits[:16], weight)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_an_untrained_network_is_none(scale: float) -> None:
    rng = np.random.default_rng(0)
    for outputs in (10, 100, 1000):
        weight = scale * rng.normal(size=(outputs, 64))
        features = np.maximum(rng.normal(size=(64, 64)), 0)
        assert not is_classifier(features @ weight.T, weight)


def test_constant_outputs_are_none() -> None:
    assert not is_classifier(np.zeros((20, 12)), np.ones((12, 4)))
