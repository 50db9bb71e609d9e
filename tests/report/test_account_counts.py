"""The account against what PyTorch really multiplies, and against a count by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from counting import BATCH, FORWARDS, GENERATOR, IMAGES, SAMPLES, Counted, Depthwise, Residual
from finepruning import Config, Report
from unchecked import personalize


def counted(model: nn.Module, x: Tensor, **options: Any) -> tuple[Report, int, int]:
    """The report, and multiply-accumulates of the forward passes and of the solves."""
    FORWARDS.clear()
    with FlopCounterMode(display=False) as mode:
        report = personalize(Counted(model), x.split(BATCH), progress=False, **options).report
    passes = FORWARDS[-2 * -(-len(x) // BATCH) :]
    # One sample goes first, with pictures three times, twice more where batch norms may take up a
    # shift, and is left out of the account.
    assert {layers for layers, _ in FORWARDS[: -len(passes)]} == {report.macs["dense"]}
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert len(FORWARDS) - len(passes) == (3 if x.ndim == 4 else 1) + 2 * norms
    solves = mode.get_total_flops() // 2 - sum(total for _, total in FORWARDS)
    return report, sum(layers for layers, _ in passes), solves


class Encoder(nn.Module):
    """A transformer with PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed = nn.Linear(12, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8, num_labels=5,
        )
    )  # fmt: skip


class Again(nn.Module):
    """A layer that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again, self.head = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        for _ in range(3):
            x = self.again(x).relu()
        return self.head(x.mean(1))


SEQUENCES = torch.randn(SAMPLES, 9, 12, generator=GENERATOR)
NETWORKS: list[tuple[Callable[[], nn.Module], Tensor]] = [
    (Residual, IMAGES),
    (Depthwise, IMAGES),
    (vit, IMAGES),
    (Encoder, SEQUENCES),
    (Again, SEQUENCES),
]


@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize(("network", "x"), NETWORKS)
def test_forward_passes_are_what_was_multiplied(
    network: Callable[[], nn.Module], x: Tensor, effort: str
) -> None:
    torch.manual_seed(0)
    model = network().eval()
    report, forwards, solves = counted(model, x, effort=effort)
    one = report.macs["dense"] * len(x)
    assert forwards == 2 * one
    assert report.forward_passes == pytest.approx((forwards + solves) / one, rel=0.01)


# --- By hand


def by_hand(model: nn.Module, x: Tensor, effort: str) -> Report:
    """Nothing is kept for updates, which the counts above have."""
    config = Config(sparsity=0.5, effort=effort, readout=False, observe={"rank": 0})
    return personalize(model, x, config=config).report


def test_a_convolution_and_a_head_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    x = torch.randn(16, 3, 6, 6, generator=GENERATOR)

    def report(effort: str) -> Report:
        return by_hand(model, x, effort)

    # 4 channels of 27 weights each at 36 positions, then 3 outputs of 4 weights.
    dense = 36 * 4 * 27 + 3 * 4
    assert dense == 3900
    best = report("best")
    assert best.macs["dense"] == dense
    conv, head = best.layers
    assert best.macs["personal"] == 36 * (108 - conv.zeros) + (12 - head.zeros)

    # best: all 16 * 36 = 576 positions of the convolution and 16 of the head go into the Gram
    # matrix (whole: only beyond 512 inputs is its lower triangle left out) and into the products
    # with the wanted outputs. Then 6 products with it: a Residual and 5 steps once the weights are
    # gone.
    products = 1 + 5
    solves = 576 * 27 * 27 + 576 * 27 * 4 + products * 4 * 27 * 27
    solves += 16 * 4 * 4 + 16 * 4 * 3 + products * 3 * 4 * 4
    assert solves == 500344
    assert best.forward_passes == pytest.approx(2 + solves / (16 * dense))

    # fast: one product with the inputs at the same positions, as much as a forward pass.
    assert report("fast").forward_passes == pytest.approx(2 + 1)
    # paper: seven steps, each behind a forward pass of its own.
    assert report("paper").forward_passes == 1 + 7


def test_fewer_samples_than_inputs_by_hand() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(16, 64, generator=GENERATOR)
    found = by_hand(model, x, "best")
    dense = 64 * 8 + 8 * 3
    # No Gram matrix: each product goes through the 16 samples, there and back, and through what
    # lies between the means of the two batches that they come in.
    solves = 16 * 64 * 8 + 6 * 2 * (16 + 1) * 64 * 8
    solves += 16 * 8 * 8 + 16 * 8 * 3 + 6 * 3 * 8 * 8
    assert found.forward_passes == pytest.approx(2 + solves / (16 * dense))
