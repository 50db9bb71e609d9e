"""Lock-step: every layer is met once, by all batches together, and nothing is left behind."""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from finepruning._find import find_layers
from finepruning._flow import flow
from finepruning._layers import Layer
from finepruning._scratch import Scratch
from torch import Tensor, nn

X = [torch.randn(3, 4) for _ in range(5)]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def chain(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))


def run(
    model: nn.Module,
    visit: Callable[[Layer, dict[int, Tensor]], None] = lambda layer, inputs: None,
    forwards: list[Callable[[], Any]] | None = None,
    expected: dict[str, set[int]] | None = None,
) -> list[Any]:
    forwards = forwards or [lambda x=x: model(x) for x in X]
    with torch.no_grad():
        return flow(find_layers(model), forwards, visit, expected or {}, Scratch(model))


def test_every_layer_once_with_every_batch() -> None:
    model, seen = chain(), []

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        seen.append((layer.name, sorted(inputs)))

    with torch.no_grad():
        wanted = [model(x) for x in X]
    for got, y in zip(run(model, visit), wanted, strict=True):
        assert torch.equal(got, y)
    assert seen == [(str(i), [0, 1, 2, 3, 4]) for i in range(4)]
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_layer_sees_what_was_done_before() -> None:
    """Its inputs come from the layers as they are after their own visits."""
    model = chain()

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        done = model[: int(layer.name)]
        for i, x in inputs.items():
            torch.testing.assert_close(x, done(X[i]))
        layer.write(layer.matrix() * 2, torch.ones(4))

    for got, x in zip(run(model, visit), X, strict=True):
        torch.testing.assert_close(got, model(x).detach())
    assert torch.equal(model[3].bias, torch.ones(4))


def test_activations_are_let_go() -> None:
    """While a layer is visited, no batch holds an activation of the layers before it."""

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            alive.append(weakref.ref(y))
            return y

    alive: list[weakref.ref[Tensor]] = []
    model = nn.Sequential(*(m for _ in range(6) for m in (Noted(), nn.Linear(4, 4))))
    most = 0

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        nonlocal most
        most = max(most, sum(r() is not None for r in alive))

    run(model, visit)
    assert most == len(X)
    assert sum(r() is not None for r in alive) == 0


def test_a_layer_called_again_is_visited_at_its_first_call() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.b(self.a(x)))

    model, seen = Again(), []
    run(model, lambda layer, inputs: seen.append((layer.name, len(inputs))))
    assert seen == [("a", 5), ("b", 5)]


class Routed(nn.Module):
    """Goes one way or the other, by what the data says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, way: str) -> Tensor:
        for name in way:
            x = getattr(self, name)(x)
        return x


@pytest.mark.parametrize(
    "ways",
    [("ab", "ba"), ("abc", "c", "bca", ""), ("a", "b", "c"), ("abab", "baba"), ("abc", "acb", "b")],
)
@pytest.mark.parametrize("known", [True, False])
def test_routes_that_differ_never_block(ways: tuple[str, ...], known: bool) -> None:
    model, seen = Routed(), []
    expected = {n: {i for i, way in enumerate(ways) if n in way} for n in "abc"} if known else {}
    forwards = [lambda way=way: model(X[0], way) for way in ways]
    outputs = run(model, lambda layer, xs: seen.append(layer.name), forwards, expected)
    assert sorted(seen) == sorted({n for way in ways for n in way})
    with torch.no_grad():
        for way, y in zip(ways, outputs, strict=True):
            assert torch.equal(y, model(X[0], way))


def test_all_that_will_come_are_waited_for() -> None:
    """One batch goes straight to the layer, the other by a detour: both are seen there."""
    model, seen = Routed(), []
    forwards = [lambda: model(X[0], "ac"), lambda: model(X[1], "c")]
    expected = {"a": {0}, "c": {0, 1}}
    run(model, lambda layer, xs: seen.append((layer.name, sorted(xs))), forwards, expected)
    assert seen == [("a", [0]), ("c", [0, 1])]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("where", ["forward", "visit", "last forward"])
def test_errors_come_out(where: str, error: type[BaseException]) -> None:
    model = chain()
    flag = torch.backends.mha.get_fastpath_enabled()

    def forward(i: int) -> Tensor:
        y = model(X[i])
        if (where == "forward" and i == 2) or (where == "last forward" and i == 4):
            raise error("in a batch")
        return y

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        if where == "visit" and layer.name == "2":
            raise error("in a visit")

    with pytest.raises(error, match="in a"):
        run(model, visit, [lambda i=i: forward(i) for i in range(5)])
    assert not any("forward" in vars(m) for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled() == flag


def test_an_error_before_the_first_layer() -> None:
    def fail() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        run(chain(), forwards=[fail] * 3)


def test_a_forward_that_catches_everything_is_unwound_too() -> None:
    model = chain()

    def stubborn() -> Tensor:
        for _ in range(9):
            try:
                return model(X[0])
            except:  # noqa: E722
                continue
        return X[0]

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        raise ValueError("in a visit")

    with pytest.raises(ValueError, match="in a visit"):
        run(model, visit, [stubborn] * 3)


def test_ctrl_c_while_a_batch_runs() -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is not threading.main_thread():
                _thread.interrupt_main()
                time.sleep(0.05)
            return x

    model = nn.Sequential(nn.Linear(4, 4), Slow(), nn.Linear(4, 4))
    with pytest.raises(KeyboardInterrupt):
        run(model)
    assert not any("forward" in vars(m) for m in model.modules())


def test_threads_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def limited(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start"):
        run(chain())
    assert not any(t.is_alive() for t in started)


def test_no_gradient_mode_in_any_thread() -> None:
    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return x

    modes: list[tuple[bool, bool]] = []
    run(nn.Sequential(Spy(), nn.Linear(4, 4), Spy()))
    assert modes == [(False, True)] * 10
