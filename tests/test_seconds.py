"""What the report calls the dense forward pass is that alone: no bookkeeping is counted in it.

Time is told by a clock of our own, which goes on by what PyTorch computes: a tick for an operation
that the network itself does, a thousand for any other. So nothing here depends on the machine.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finepruning import personalize

BATCHES, SIZE, DEAR = 4, 8, 1000


class Clock(TorchDispatchMode):
    """Counts operations; those that are not ``cheap`` count ``DEAR`` times."""

    def __init__(self, cheap: set[Any] | None = None) -> None:
        super().__init__()
        self.now, self.cheap, self.met = 0.0, cheap, set[Any]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.met.add(func)
        self.now += 1 if self.cheap is None or func in self.cheap else DEAR
        return func(*args, **(kwargs or {}))


def net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean += 0.1  # one that holds statistics is watched
    return net.eval()


def timed(effort: str, norms: bool) -> tuple[float, float]:
    """Ticks of the network alone, and of the dense forward pass as the report has it."""
    model, data = net(), list(torch.randn(BATCHES * SIZE, 2, 6, 6).split(SIZE))
    if not norms:
        model[1], model[4] = nn.Identity(), nn.Identity()
    with torch.no_grad(), Clock() as plain:
        for batch in data:
            model(batch)
    with torch.no_grad(), Clock() as other:  # pictures may lie with their channels last
        model(data[0].contiguous(memory_format=torch.channels_last))
    handed_over = {torch.ops.aten.detach.default}  # of a parameter: computes nothing
    with pytest.MonkeyPatch.context() as patch, Clock(plain.met | other.met | handed_over) as clock:
        patch.setattr(time, "perf_counter", lambda: clock.now)
        seconds = personalize(model, data, effort=effort, progress=False).report.seconds
    assert seconds["total"] > 50 * DEAR  # there was some bookkeeping
    return plain.now, seconds["dense_forward"]


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_bookkeeping_is_taken_off(effort: str, norms: bool) -> None:
    alone, reported = timed(effort, norms)
    assert reported < alone + DEAR


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("effort", ["best", "fast"])
def test_nothing_else_is_taken_off(effort: str, norms: bool) -> None:
    alone, reported = timed(effort, norms)
    assert reported >= alone
