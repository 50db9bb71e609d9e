"""The controls' cost, which stands beside ours, against what PyTorch really multiplies."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from counting import BATCH, FORWARDS, IMAGES, SAMPLES, Counted, Depthwise, Residual

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import adapt  # type: ignore[import-not-found]
import controls  # type: ignore[import-not-found]


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
@pytest.mark.parametrize(("network", "x"), [(Residual, IMAGES), (Depthwise, IMAGES)])
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
    forwards = sum(layers for layers, _ in FORWARDS) / one
    solves = mode.get_total_flops() / 2 / one - sum(total for _, total in FORWARDS) / one
    assert found.forward_passes == pytest.approx(found.observed + forwards + solves, rel=0.01)


def test_tent_and_fine_tuning_cost_what_was_multiplied() -> None:
    torch.manual_seed(0)
    model = Residual().eval()
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
