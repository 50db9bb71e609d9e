"""Several personalisations at once, in threads: the bits of each alone, nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError, Report
from leftovers import ambience, of_the_person, photograph, same
from passes import nothing_left
from unchecked import personalize


class Mixed(nn.Module):
    """Convolutions with batch norms that follow the person."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        )
        for norm in (self.body[1], self.body[4]):
            norm.running_mean += 1
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


class Keeping(nn.Module):
    """Gives what an attribute, a list and a buffer hold when the pass ends."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.seen: list[Tensor] = []
        self.register_buffer("last", torch.zeros(1, 16))
        self.a.register_forward_hook(lambda m, args, out: setattr(m, "out", out))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.a(x).relu())
        self.last = self.b(self.seen[-1])
        with torch.autocast("cpu", torch.bfloat16, enabled=len(x) % 2 == 0):
            y = self.c(self.last + self.seen[0])
        return y.float() + self.a.out.mean()


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(48, 5))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "encoder": (encoder, (4, 12)),
    "batch norms": (Mixed, (3, 8, 8)),
    "keeping": (Keeping, (12,)),
}


def person(number: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(45, *shape, generator=generator) * (1 + number / 10) + 3


def seen(report: Report) -> dict[str, Any]:
    """All of a report but times and memory."""
    return {k: v for k, v in vars(report).items() if k not in ("seconds", "peak_memory")}


def all_at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """What each job gives, or its error; all of them start at the same moment."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        start.wait()
        try:
            return job()
        except Exception as error:
            return error

    # As in the main thread: sums in another order round otherwise.
    with ThreadPoolExecutor(len(jobs), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_each_alone(name: str, count: int) -> None:
    """People of one base, of one given module."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    efforts = ["best", "best", "fast", "paper"] * 2

    def job(i: int) -> Callable[[], Any]:
        return lambda: personalize(
            model, person(i, shape).split(5 + i), effort=efforts[i], sparsity=0.5
        )

    jobs = [job(i) for i in range(count)]
    alone = [run() for run in jobs]
    before, around = photograph(model), ambience()
    with nothing_left():
        together = all_at_once(jobs)
    assert ambience() == around
    assert same(before, photograph(model))
    for i, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert not isinstance(other, Exception), other
        assert seen(one.report) == seen(other.report)
        state = other.model.state_dict()
        for key, value in one.model.state_dict().items():
            assert torch.equal(value, state[key]), (i, key)
        for j in range(count):
            assert not of_the_person(other.model, person(j, shape))


def test_all_kinds_at_once_and_some_fail() -> None:
    """An error in one leaves the others as they are."""
    torch.manual_seed(0)
    models = {name: make().eval() for name, (make, _) in MODELS.items()}

    def job(name: str, fails: bool) -> Callable[[], Any]:
        data = [person(1, MODELS[name][1])] + ([torch.randn(5, 7)] if fails else [])
        return lambda: personalize(models[name], data, sparsity=0.5)

    jobs = [job(name, fails) for name in MODELS for fails in (False, True)]
    alone = [run() for run in jobs[::2]]
    around, before = ambience(), {name: photograph(m) for name, m in models.items()}
    with nothing_left():
        together = all_at_once(jobs)
    assert ambience() == around
    assert same(before, {name: photograph(m) for name, m in models.items()})
    for error in together[1::2]:
        assert isinstance(error, FinepruningError)
        assert "(5, 7)" in str(error)
    for name, one, other in zip(MODELS, alone, together[::2], strict=True):
        state = other.model.state_dict()
        for key, value in one.model.state_dict().items():
            far = (value.double() - state[key].double()).abs().max()
            assert torch.equal(value, state[key]), (name, key, far)


def test_few_threads_while_many_batches_are_under_way() -> None:
    """Beside the caller's: the one that looks at the memory."""
    most = 0

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal most
            most = max(most, threading.active_count())
            return x

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), Looks(), nn.Linear(16, 5))
    before = threading.active_count()
    report = personalize(model, [torch.randn(2 + i % 2, 12) for i in range(1200)]).report
    assert report.calibration_samples > 140
    assert most - before <= 1
