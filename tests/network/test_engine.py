"""The engine: one by one or in lock-step, every layer is met, and nothing is left behind."""

from __future__ import annotations

import _thread
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError, Layer
from finepruning.network.find import find_layers
from passes import batch, engine_of, lock_step, nothing_left, runners, through

X = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    with nothing_left():
        yield


def chain(depth: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))


class Told(nn.Module):
    """A network that tells what it gives, to an attribute of its class: no copy has its own."""

    tell: Callable[[Tensor], object]

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        type(self).tell(y)
        return y


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the networks that are :class:`Told` gave, in the order of their ends."""
    given: list[Tensor] = []
    monkeypatch.setattr(Told, "tell", staticmethod(given.append), raising=False)
    return given


def test_every_layer_once_with_every_batch(outputs: list[Tensor]) -> None:
    model, seen = chain(), []

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        seen.append((layer.name, sorted(inputs)))

    lock_step(Told(model), X, visit)
    with torch.no_grad():
        for got, x in zip(outputs, X, strict=True):
            assert torch.equal(got, model(x))
    assert seen == [(f"inner.{i}", [0, 1, 2, 3, 4]) for i in range(4)]


def test_a_layer_sees_what_was_done_before(outputs: list[Tensor]) -> None:
    """Its inputs come from the layers as they are after their own visits."""
    model = Told(chain())
    engine = engine_of(model)
    personal = engine.model.inner

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        done = personal[: int(layer.name.removeprefix("inner."))]
        for i, x in inputs.items():
            torch.testing.assert_close(x, done(X[i]))
        layer.write(layer.matrix() * 2, torch.ones(4))

    engine.lock_step([batch(x) for x in X], find_layers(engine.model).places, visit)
    for got, x in zip(outputs, X, strict=True):
        torch.testing.assert_close(got, personal(x).detach())
    assert torch.equal(personal[3].bias, torch.ones(4))
    assert not torch.equal(model.inner[3].bias, torch.ones(4))


def test_a_bias_that_is_new_reaches_the_batches_under_way(outputs: list[Tensor]) -> None:
    model = Told(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)))
    lock_step(model, X, lambda layer, inputs: layer.write(layer.matrix(), torch.ones(4)))
    a, b = (layer.weight.detach() for layer in model.inner)
    for got, x in zip(outputs, X, strict=True):
        torch.testing.assert_close(got, (x @ a.T + 1) @ b.T + 1)


def test_activations_are_let_go() -> None:
    """While a layer is visited, no batch holds an activation of the layers before it."""

    class Noted(nn.Module):
        alive: list[weakref.ref[Tensor]] = []  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            self.alive.append(weakref.ref(y))
            return y

    model = nn.Sequential(*(m for _ in range(6) for m in (Noted(), nn.Linear(4, 4))))
    most = 0

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        nonlocal most
        most = max(most, sum(r() is not None for r in Noted.alive))

    lock_step(model, X, visit)
    assert most == len(X)
    assert sum(r() is not None for r in Noted.alive) == 0


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(self.a(x)))


def test_a_layer_called_again_is_visited_at_its_first_call() -> None:
    seen: list[tuple[str, int]] = []
    lock_step(Again(), X, lambda layer, inputs: seen.append((layer.name, len(inputs))))
    assert seen == [("a", 5), ("b", 5)]
    assert through(Again(), X[0])[1] == ["a", "b", "a"]


class Routed(nn.Module):
    """Goes one way or the other, by what the data says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, way: str) -> Tensor:
        for name in way:
            x = getattr(self, name)(x)
        return x


class ToldRoute(Told):
    def forward(self, x: Tensor, way: str) -> Tensor:  # type: ignore[override]
        y = self.inner(x, way)
        type(self).tell((way, y))
        return y


@pytest.mark.parametrize(
    "ways",
    [("ab", "ba"), ("abc", "c", "bca", ""), ("a", "b", "c"), ("abab", "baba"), ("abc", "acb", "b")],
)
@pytest.mark.parametrize("known", [True, False])
def test_routes_that_differ_never_block(
    ways: tuple[str, ...], known: bool, outputs: list[Any]
) -> None:
    model, seen = ToldRoute(Routed()), []
    names = {n: f"inner.{n}" for n in "abc"}
    expected = {names[n]: {i for i, way in enumerate(ways) if n in way} for n in "abc"}
    inputs = [{"x": X[0], "way": way} for way in ways]
    lock_step(model, inputs, lambda layer, xs: seen.append(layer.name), expected if known else None)
    assert sorted(seen) == sorted({names[n] for way in ways for n in way})
    assert sorted(way for way, _ in outputs) == sorted(ways)
    with torch.no_grad():
        for way, y in outputs:
            assert torch.equal(y, model.inner(X[0], way))


def test_all_that_will_come_are_waited_for() -> None:
    """One batch goes straight to the layer, the other by a detour: both are seen there."""
    seen: list[tuple[str, list[int]]] = []
    inputs = [{"x": X[0], "way": "ac"}, {"x": X[1], "way": "c"}]
    expected = {"a": {0}, "c": {0, 1}}
    lock_step(Routed(), inputs, lambda layer, xs: seen.append((layer.name, sorted(xs))), expected)
    assert seen == [("a", [0]), ("c", [0, 1])]


class Stubborn(nn.Module):
    """Tries again whatever happens."""

    def __init__(self, inner: nn.Module, caught: type[BaseException] = BaseException) -> None:
        super().__init__()
        self.inner, self.caught = inner, caught

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(9):
            try:
                return self.inner(x)
            except self.caught:
                continue
        return x


class Failing(nn.Module):
    """Raises ``error`` for the batch that holds ``number``."""

    def __init__(self, error: type[BaseException], number: float) -> None:
        super().__init__()
        self.error, self.number = error, number

    def forward(self, x: Tensor) -> Tensor:
        if self.number in x:
            raise self.error("in a batch")
        return x


NUMBERED = [torch.full((3, 4), float(i)) for i in range(5)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("where", ["before", "after", "visit", "last"])
def test_errors_come_out(where: str, error: type[BaseException]) -> None:
    """As they are; an ``Exception`` of the model as one that names its inputs."""
    fails = Failing(error, {"before": 2.0, "after": 2.0, "last": 4.0}.get(where, -1))
    parts = [fails, Told(chain())] if where == "before" else [Identity(), Told(chain())]
    model = nn.Sequential(*parts)
    # The layers change the numbers; what fails behind them is told by where the batch began.
    if where in ("after", "last"):
        model = Behind(chain(), fails)

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        if where == "visit" and layer.name.endswith("2"):
            raise error("in a visit")

    named = error is ValueError and where != "visit"
    with pytest.raises(FinepruningError if named else error, match="in a") as caught:
        lock_step(model, NUMBERED, visit)
    if named:
        assert "fails on inputs of shape (3, 4) (ValueError: in a batch" in str(caught.value)
    assert runners() == 0


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Behind(nn.Module):
    def __init__(self, inner: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return self.last(x)


def test_an_error_before_the_first_layer() -> None:
    with pytest.raises(FinepruningError, match="in a batch"):
        lock_step(nn.Sequential(Failing(ValueError, 0.0), *chain()), NUMBERED)


class OwnError(ValueError):
    """An error of what looks on: not one of the model's."""


@pytest.mark.parametrize("wraps", [lambda m: m, lambda m: Stubborn(m, Exception), Stubborn])
@pytest.mark.parametrize("error", [OwnError, FinepruningError, KeyboardInterrupt, MemoryError])
def test_errors_of_our_own_are_never_the_models(
    wraps: Callable[[nn.Module], nn.Module], error: type[BaseException]
) -> None:
    """Nor lost, where the model catches everything."""
    cause = KeyError("what led to it")

    def fail(*_: object) -> None:
        raise error("of our own") from cause

    for run in (
        lambda: through(wraps(chain()), X[0], fail),
        lambda: lock_step(wraps(chain()), X, fail),
    ):
        with pytest.raises(error) as caught:
            run()
        assert type(caught.value) is error
        assert str(caught.value) == "of our own"
        assert caught.value.__cause__ is cause
        assert runners() == 0


def test_errors_of_the_model_name_its_inputs() -> None:
    broken = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 4))
    for run in (lambda: through(broken, X[0]), lambda: lock_step(broken, X)):
        with pytest.raises(FinepruningError, match=r"inputs of shape \(3, 4\) \(RuntimeError"):
            run()


def test_a_forward_that_catches_its_own_errors_runs_on() -> None:
    """What the model raises and catches itself is its own affair."""

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.a(x)
            except RuntimeError:
                return self.b(x)

    model = Tries()
    assert torch.equal(through(model, X[0])[0], model.b(X[0]))
    seen: list[str] = []
    lock_step(model, X, lambda layer, inputs: seen.append(layer.name))
    assert seen == ["a", "b"]


def test_ctrl_c_while_a_batch_runs() -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            _thread.interrupt_main()
            time.sleep(0.05)
            return x

    with pytest.raises(KeyboardInterrupt):
        lock_step(nn.Sequential(nn.Linear(4, 4), Slow(), nn.Linear(4, 4)), X)
    assert runners() == 0


def test_clean_up_that_fails_hides_nothing() -> None:
    class Untidy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = chain()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.inner(x)
            finally:
                raise ValueError("while cleaning up")

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        raise OwnError("in a visit")

    with pytest.raises(OwnError, match="in a visit"):
        lock_step(Untidy(), X, visit)


def test_no_gradients_anywhere() -> None:
    class Spy(nn.Module):
        modes: list[tuple[bool, bool]] = []  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            self.modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return x

    model = nn.Sequential(Spy(), nn.Linear(4, 4), Spy())
    lock_step(model, X)
    through(model, X[0])
    assert Spy.modes == [(False, False)] * 12


def test_the_model_is_in_evaluation_mode_on_a_copy() -> None:
    model = chain().train()
    engine = engine_of(model)
    assert not any(m.training for m in engine.model.modules())
    assert all(m.training for m in model.modules())
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in engine.model.parameters()
    }
    assert not any(p.requires_grad for p in engine.model.parameters())
    assert not any(m.training for m in engine.replica().modules())


def test_a_model_that_cannot_be_copied() -> None:
    model = chain()
    model.lock = threading.Lock()
    with pytest.raises(FinepruningError, match=r"model: cannot be copied .*; give a plain module"):
        engine_of(model)


def test_passes_are_timed_without_what_looks_on() -> None:
    engine = engine_of(nn.Sequential(nn.Linear(4, 4)))
    places = find_layers(engine.model).places
    passed = [*engine.stream([batch(X[0])], places, lambda *_: time.sleep(0.1))]
    assert passed[0].seconds < 0.05
    assert passed[0].batch.inputs is X[0]


def test_the_slow_path_of_attention_is_taken_without_any_switch() -> None:
    """A transformer's layers are called, each, and the process's switch is as it was."""
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    encoder = nn.TransformerEncoder(block, 2).eval()
    model = nn.Sequential(encoder, nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3, 4)
    with torch.inference_mode():
        before = model(x)
    flags: set[bool] = set()

    def watch(*_: object) -> None:
        flags.add(torch.backends.mha.get_fastpath_enabled())

    output, calls = through(model, x, watch)
    assert len(calls) == 2 * 6 + 1
    assert flags == {True}
    torch.testing.assert_close(output, before)
    with torch.inference_mode():
        assert torch.equal(model(x), before)
    assert not any("forward" in vars(m) for m in model.modules())


# How a layer may be called


def test_layers_called_by_keyword() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(3, 3, 1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=self.conv(input=x))

    model, x = ByKeyword(), torch.randn(5, 3, 4)
    output, calls = through(model, x)
    assert calls == ["conv", "fc"]
    assert torch.equal(output, model(x))
    seen: list[tuple[str, list[int]]] = []
    lock_step(model, [x, x], lambda layer, xs: seen.append((layer.name, sorted(xs))))
    assert seen == [("conv", [0, 1]), ("fc", [0, 1])]


def test_a_layer_called_wrongly_says_what_pytorch_says() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x, x)

    with pytest.raises(FinepruningError, match=r"TypeError: .*3 were given"):
        through(Wrong(), X[0])


def test_hooks_still_run() -> None:
    """Those that change inputs and outputs too: a layer is seen with what it is really given."""
    model = nn.Linear(3, 3)
    model.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    model.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {k: v + 1 for k, v in kwargs.items()}), with_kwargs=True
    )
    model.register_forward_hook(lambda m, args, out: out + 7)
    seen: list[tuple[Tensor, Tensor]] = []
    x = torch.ones(1, 3)
    output, _ = through(model, x, lambda tap, x, y: seen.append((x, y)))
    ((given, y),) = seen
    assert torch.equal(given, x * 2)
    assert torch.equal(y, nn.functional.linear(x * 2, model.weight, model.bias))
    assert torch.equal(output, y + 7)


class Patching(nn.Module):
    """Puts a forward of its own over a layer's while it runs, and takes it off again."""

    def __init__(self, deletes: bool) -> None:
        super().__init__()
        self.deletes = deletes
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.a.forward
        self.a.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]
        x = self.a(x)
        if self.deletes:
            del self.a.forward
        else:
            self.a.forward = plain  # type: ignore[method-assign]
        return self.b(self.a(x))


@pytest.mark.parametrize("deletes", [True, False])
def test_a_forward_that_patches(deletes: bool) -> None:
    model = Patching(deletes)
    wanted = model(X[0])
    vars(model.a).pop("forward", None)
    output, calls = through(model, X[0])
    assert torch.equal(output, wanted)
    assert calls[0] == "a"
    assert calls[-1] == "b"
    seen: list[str] = []
    engine = lock_step(model, X, lambda layer, inputs: seen.append(layer.name))
    assert seen == ["a", "b"]
    assert not any("forward" in vars(m) for m in [*model.modules(), *engine.model.modules()])


def test_a_thread_that_the_model_starts_passes_by() -> None:
    """It cannot stop; its layer is left to be visited by nobody, and nothing hangs."""

    class Threaded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            box: list[Tensor] = []
            thread = threading.Thread(target=lambda: box.append(self.a(x).detach()))
            thread.start()
            thread.join()
            return self.b(box[0])

    model, seen = Threaded(), []
    lock_step(model, X, lambda layer, inputs: seen.append((layer.name, len(inputs))))
    assert seen == [("b", 5)]


def test_a_greenlet_that_the_model_starts_passes_by() -> None:
    from greenlet import greenlet

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(greenlet(self.a).switch(x))

    seen: list[str] = []
    lock_step(Nested(), X, lambda layer, inputs: seen.append(layer.name))
    assert seen == ["b"]


# How much of the machine it takes


def test_many_batches_take_no_threads() -> None:
    process = psutil.Process()
    before, python = process.num_threads(), threading.active_count()
    most = [0, 0]

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        assert len(inputs) == 140
        most[0] = max(most[0], process.num_threads())
        most[1] = max(most[1], threading.active_count())

    lock_step(chain(), [X[0]] * 140, visit)
    assert most[0] - before <= 2
    assert most[1] == python


def operations(depth: int, batches: int = 8) -> float:
    """Calls of functions, Python's and C's, for each layer and batch, in a lock-step pass."""
    engine = engine_of(chain(depth))
    places = find_layers(engine.model).places
    given = [batch(X[0]) for _ in range(batches)]
    count, begun = 0, False

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += begun and event in ("call", "c_call")

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        nonlocal begun
        begun = True  # what is done once for a pass is not counted

    import greenlet

    sys.setprofile(profile)
    try:
        greenlet.settrace(lambda event, args: sys.setprofile(profile))
        engine.lock_step(given, places, visit)
    finally:
        greenlet.settrace(None)
        sys.setprofile(None)
    return count / (depth - 1) / batches


def test_a_stop_costs_the_same_at_any_depth() -> None:
    shallow, deep = operations(10), operations(100)
    assert shallow > 5
    assert deep == pytest.approx(shallow, rel=0.2)
