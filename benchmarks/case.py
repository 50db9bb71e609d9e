"""A case: one network and one user, with what several methods need, computed once and accounted."""

from __future__ import annotations

import copy
import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import controls
import psutil
import torch
from measure import Answer
from torch import Tensor, nn
from users import Pool, User

from finepruning.research import BATCH_SIZE, PeakMemory, read_out

READ_OUT = " + read-out"
Answers = dict[str, Answer]
"""A method's rows by name."""


@dataclass
class Cost:
    """What something took: seconds, and memory above the start at its peak and at its end."""

    seconds: float = 0.0
    peak_mb: float = 0.0
    held_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what runs within, known when it has ended."""
    _give_back()
    cost, process = Cost(), psutil.Process()
    with PeakMemory(torch.device("cpu")) as memory:
        held, started = process.memory_info().rss, time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - started
        cost.peak_mb = memory.above_start() / 1e6
        cost.held_mb = (process.memory_info().rss - held) / 1e6


def _give_back() -> None:
    """What an earlier method has freed is not to be had for nothing: glibc would hold on to it."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@torch.inference_mode()
def logits(model: nn.Module, x: Tensor, batch: int = 50) -> Tensor:
    """All logits of ``x``: in the memory format in which a CPU convolves fastest."""
    model = copy.deepcopy(model).eval()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.cat([model(b) for b in torch.split(x, batch)])


@dataclass
class Dense:
    """The dense network's logits and features (its head's inputs), once for each sample."""

    model: nn.Module
    seconds: float = 0.0
    samples: int = 0
    peak_mb: float = 0.0
    _known: dict[Pool, dict[int, tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def __call__(self, pool: Pool, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(n, K)`` and features ``(n, D)`` of samples of a pool."""
        if pool not in self._known:
            self._known = {pool: {}}  # users come pool by pool
        known = self._known[pool]
        new = torch.tensor([i for i in index.tolist() if i not in known], dtype=torch.long)
        if len(new):
            x = pool[new]
            with measured() as cost:
                found = zip(*self._run(x), strict=True)
            known |= dict(zip(new.tolist(), found, strict=True))
            self.seconds += cost.seconds
            self.samples += len(new)
            self.peak_mb = max(self.peak_mb, cost.peak_mb)
        outputs, features = zip(*(known[i] for i in index.tolist()), strict=True)
        return torch.stack(outputs), torch.stack(features)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        head = [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]
        seen: list[Tensor] = []
        # The hook goes along when the network is copied, and writes to the same list.
        handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            return logits(self.model, x), torch.cat(seen)
        finally:
            handle.remove()


@dataclass
class Case:
    """A network and a user, with what several methods need of the two."""

    model: nn.Module
    user: User
    dense: Dense
    observing: Cost = field(default_factory=Cost)
    """What it cost to observe the dense network for the controls, which share it."""

    @property
    def speech(self) -> bool:
        """Whether the samples are waveforms: some controls have other constants there."""
        return self.unlabelled.ndim == 2

    @cached_property
    def unlabelled(self) -> Tensor:
        return self.user.unlabelled

    @cached_property
    def batches(self) -> list[Tensor]:
        return list(torch.split(self.unlabelled, BATCH_SIZE))

    @cached_property
    def seen(self) -> controls.Observed:
        """The dense network on the unlabelled samples, observed once for all controls."""
        seen = controls.Observed(self.model, self.batches)
        with measured() as self.observing:
            _ = seen.observation
        return seen

    @cached_property
    def outputs(self) -> Tensor:
        """The dense network's logits on the test samples."""
        return self.dense(self.user.pool, self.user.tested)[0]

    @cached_property
    def dense_own(self) -> Tensor:
        """The dense network's logits on the unlabelled samples."""
        return self.dense(self.user.pool, self.user.own)[0]

    @property
    def dense_seconds(self) -> float:
        """What the dense network takes for the unlabelled samples."""
        _ = self.dense_own
        return self.user.n * self.dense.seconds / self.dense.samples

    def shift(self) -> Tensor:
        """Our read-out, ``(K,)``: from what the dense network says of the unlabelled samples."""
        return torch.from_numpy(read_out(self.dense_own.double().numpy()).shift).float()

    def with_read_out(self, name: str, answer: Answer, dense_pass: bool = False) -> Answers:
        """A method's answer as it is, and with our read-out.

        ``dense_pass``: the method has run the dense network over the unlabelled samples anyway.
        """
        _ = self.dense_own
        once = 0.0 if dense_pass else self.dense_seconds
        with measured() as cost:
            read = answer.outputs + self.shift()
        return {
            name: answer,
            name + READ_OUT: replace(
                answer,
                outputs=read,
                seconds=answer.seconds + cost.seconds + once,
                forward_passes=answer.forward_passes + (not dense_pass),
                peak_mb=max(answer.peak_mb, 0.0 if dense_pass else self.dense.peak_mb),
            ),
        }
