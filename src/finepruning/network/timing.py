"""Timing: how fast one network is beside another, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

ROUNDS = 15
"""In each, both run once, one after the other. Enough for a median."""


def time_share(
    small: nn.Module, whole: nn.Module, call: Callable[[nn.Module], Any], rounds: int = ROUNDS
) -> float:
    """Median of the time that ``call(small)`` takes over that of ``call(whole)``, in turns.

    >>> small, whole = nn.Linear(8, 8), nn.Linear(2000, 8000)
    >>> time_share(small, whole, lambda m: m(torch.zeros(8, m.in_features))) < 0.9
    True
    """
    shares = []
    with torch.no_grad():
        for turn in range(rounds + 2):
            took = [_seconds(model, call) for model in (small, whole)]
            if turn >= 2:  # the first ones get memory, and choose kernels
                shares.append(took[0] / max(took[1], 1e-9))
    return statistics.median(shares)


def _seconds(model: nn.Module, call: Callable[[nn.Module], Any]) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() else _nothing
    wait()
    started = time.perf_counter()
    call(model)
    wait()
    return time.perf_counter() - started


def _nothing() -> None:
    """There is nobody to wait for."""
