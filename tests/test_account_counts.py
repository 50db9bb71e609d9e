"""The account against what PyTorch really multiplies, and against a count by hand.

Ours and that of the benchmark's controls, whose cost stands beside ours.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from finepruning import Report, personalize

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import adapt  # type: ignore[import-not-found]
import controls  # type: ignore[import-not-found]
from networks import CifarResNet  # type: ignore[import-not-found]

SAMPLES, BATCH = 24, 8
GENERATOR = torch.Generator().manual_seed(0)

FORWARDS: list[tuple[int, int, bool]] = []
"""Multiply-accumulates of each forward pass: in its layers, and in all; whether in the main
thread."""


def macs(mode: FlopCounterMode) -> int:
    """Multiply-accumulates of Conv and Linear. Attention's own products (bmm) are no layer's."""
    counts = mode.get_flop_counts()["Global"]
    layers = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
    return sum(flops for operation, flops in counts.items() if operation in layers) // 2


class Counted(nn.Module):
    """A network that notes what each of its forward passes multiplies, in whatever thread."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        with FlopCounterMode(display=False) as mode:
            output = self.inner(x)
        here = threading.current_thread() is threading.main_thread()
        FORWARDS.append((macs(mode), mode.get_total_flops() // 2, here))
        return output


def counted(model: nn.Module, x: Tensor, **options: Any) -> tuple[Report, int, int]:
    """The report, and multiply-accumulates of the forward passes and of the solves."""
    FORWARDS.clear()
    with FlopCounterMode(display=False) as mode:
        report = personalize(Counted(model), x.split(BATCH), progress=False, **options).report
    (trace, trace_in_all, _), *passes = FORWARDS
    assert trace == report.macs["dense"]  # one sample goes first, and is left out of the account
    assert len(passes) == 2 * -(-len(x) // BATCH)
    # The main thread ran the trace, the observation and the solves. Attention's own products are
    # left out of the account; the trace, which measures nothing, shows how many there are.
    attention = (trace_in_all - trace) * (1 + len(x))
    observation = sum(layers for layers, _, here in FORWARDS if here)
    solves = mode.get_total_flops() // 2 - observation - attention
    return report, sum(layers for layers, _, _ in passes), solves


def residual() -> nn.Module:
    return CifarResNet(8)


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions, a dilated one, and a wide head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, groups=4, dilation=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(288, 10)  # more inputs than samples

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


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


IMAGES = torch.randn(SAMPLES, 3, 32, 32, generator=GENERATOR)
SEQUENCES = torch.randn(SAMPLES, 9, 12, generator=GENERATOR)
NETWORKS: list[tuple[Callable[[], nn.Module], Tensor]] = [
    (residual, IMAGES),
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


# --- Controls


def cholesky_flops(shape: Any, *_: Any, **__: Any) -> int:
    *groups, n, _ = shape
    return 2 * math.prod(groups) * n**3 // 6


def triangular_flops(triangle: Any, right: Any, *_: Any, **__: Any) -> int:
    *groups, n, columns = right
    return 2 * math.prod(groups) * n * n * columns // 2


def outer_flops(left: Any, right: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of products, only outer ones: ``(G, O, 1)`` by ``(G, 1, D)``."""
    if not all(isinstance(shape, torch.Size) and len(shape) == 3 for shape in (left, right)):
        return 0
    return 2 * math.prod(out_shape) * (left[2] == right[1] == 1)


OBS_FLOPS = {
    torch.ops.aten.linalg_cholesky_ex: cholesky_flops,
    torch.ops.aten.linalg_solve_triangular: triangular_flops,
    torch.ops.aten.mul: outer_flops,
}
"""What :class:`FlopCounterMode` does not know of."""
CONTROLS: list[Any] = [
    (controls.obs, {"plan": "uniform"}),
    (controls.obs, {"plan": "measured"}),
    (controls.obs, {"plan": "measured", "mend": "repair"}),
    (controls.wanda, {"mend": "repair"}),
    (controls.magnitude, {"mend": "repair"}),
    (controls.magnitude, {"mend": "bn"}),
    (controls.magnitude, {}),
]


@pytest.mark.parametrize(("prune", "options"), CONTROLS)
@pytest.mark.parametrize(("network", "x"), [(residual, IMAGES), (Depthwise, IMAGES)])
def test_controls_cost_what_was_multiplied(
    network: Callable[[], nn.Module],
    x: Tensor,
    prune: Callable[..., Any],
    options: dict[str, str],
) -> None:
    torch.manual_seed(0)
    model = Counted(network().eval())
    seen = controls.Observed(model, x.split(BATCH))
    _ = seen.observation
    one = seen.observation.trace.macs(controls.find_layers(model).layers) * len(x)
    FORWARDS.clear()
    with FlopCounterMode(display=False, custom_mapping=OBS_FLOPS) as mode:
        found = prune(model, seen.batches, 0.7, seen=seen, **options)
    forwards = sum(layers for layers, _, _ in FORWARDS) / one  # in threads of their own
    solves = mode.get_total_flops() / 2 / one
    assert found.forward_passes == pytest.approx(found.observed + forwards + solves, rel=0.01)


def test_tent_and_fine_tuning_cost_what_was_multiplied() -> None:
    torch.manual_seed(0)
    model = residual().eval()
    with FlopCounterMode(display=False) as mode:
        model(IMAGES)
        one = mode.get_total_flops()
        model.conv1(IMAGES)
    first = mode.get_total_flops() - one  # nothing goes back to the images themselves
    with FlopCounterMode(display=False) as mode:
        adapt.tent(model, IMAGES.split(BATCH), steps=len(IMAGES) // BATCH)
    assert mode.get_total_flops() == adapt.TENT_PASSES * one - first
    with FlopCounterMode(display=False) as mode:
        [*adapt.fine_tune(model, IMAGES, torch.zeros(SAMPLES).long(), (2,))]
    assert mode.get_total_flops() == 2 * (adapt.TUNE_PASSES * one - first)


# --- By hand


def test_a_convolution_and_a_head_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    x = torch.randn(16, 3, 6, 6, generator=GENERATOR)

    def report(effort: str) -> Report:
        return personalize(model, x, sparsity=0.5, effort=effort, readout=False).report

    # 4 channels of 27 weights each at 36 positions, then 3 outputs of 4 weights.
    dense = 36 * 4 * 27 + 3 * 4
    assert dense == 3900
    best = report("best")
    assert best.macs["dense"] == dense
    conv, head = best.layers
    assert best.macs["personal"] == 36 * (108 - conv.zeros) + (12 - head.zeros)

    # best: all 16 * 36 = 576 positions of the convolution and 16 of the head go into the Gram
    # matrix (whole: only beyond 512 inputs is its lower triangle left out) and into the products
    # with the wanted outputs. Then 6 products with it: a residual and 5 steps once the weights are
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
    found = personalize(model, x, sparsity=0.5, readout=False).report
    dense = 64 * 8 + 8 * 3
    # No Gram matrix: each product goes through the 16 samples, there and back.
    solves = 16 * 64 * 8 + 6 * 2 * 16 * 64 * 8
    solves += 16 * 8 * 8 + 16 * 8 * 3 + 6 * 3 * 8 * 8
    assert found.forward_passes == pytest.approx(2 + solves / (16 * dense))
