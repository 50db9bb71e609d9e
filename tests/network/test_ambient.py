"""What a forward pass changes around it is its own: no batch, and no caller, sees another's."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from passes import lock_step, noted, runners, through

X = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def flag(get: Callable[[], Any], change: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = get()
    change(value)
    try:
        yield
    finally:
        change(before)


CUDA = torch.backends.cuda
CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "no inference": lambda: torch.inference_mode(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "uncached": lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    "double": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
    "deterministic": lambda: flag(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "precision": lambda: flag(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "math attention": lambda: torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]),
    "fast path": lambda: flag(
        torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, False
    ),
}


def ambience() -> dict[str, Any]:
    """All that can be asked for, by what it does."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.empty(0).dtype,
        "device": torch.empty(0).device.type,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "attention": (
            CUDA.flash_sdp_enabled(), CUDA.mem_efficient_sdp_enabled(), CUDA.math_sdp_enabled()
        ),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }  # fmt: skip


class Around(nn.Module):
    """Enters a context around its second layer; which one, the batch says. Notes what is around."""

    log: list[tuple[str, str, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, way: str, fails: bool = False) -> Tensor:
        self.note(way, "before")
        x = self.a(x).float()
        self.note(way, "first")
        with CONTEXTS.get(way, nullcontext)():
            self.note(way, "entered")
            y = self.b(x)
            self.note(way, "inside")
            if fails:
                raise ValueError("inside")
        self.note(way, "after")
        x = self.c(y.float())
        self.note(way, "last")
        return x

    def note(self, way: str, place: str) -> None:
        self.log.append((way, place, ambience()))


def noted_by_way(run: Callable[[], object]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    Around.log.clear()
    run()
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for way, place, around in Around.log:
        found.setdefault(way, []).append((place, around))
    return found


@pytest.mark.parametrize("outer", ["plain", "autocast", "math attention"])
def test_contexts_do_not_meet(outer: str) -> None:
    """Each batch finds what it would find alone, and the visits what was around the pass."""
    model = Around()
    ways = [*CONTEXTS, "none", *reversed(CONTEXTS)]
    inputs = [{"x": X[i % 4], "way": way} for i, way in enumerate(ways)]
    with CONTEXTS.get(outer, nullcontext)(), torch.no_grad():
        alone = noted_by_way(lambda: [model(**i) for i in inputs])
        before = ambience()
        visits: list[dict[str, Any]] = []
        together = noted_by_way(
            lambda: lock_step(model, inputs, lambda *_: visits.append(ambience()))
        )
        assert ambience() == before
        assert visits == [before] * 3
        visits.clear()
        apart = noted_by_way(
            lambda: [through(model, i, lambda *_: visits.append(ambience())) for i in inputs]
        )
        assert ambience() == before
    for way in alone:  # each is run twice: the order of the two is the engine's
        for found in (together, apart):
            key = lambda entry: str(entry)  # noqa: E731
            assert sorted(found[way], key=key) == sorted(alone[way], key=key), way
    assert visits == [before] * 3 * len(inputs)


@pytest.mark.parametrize("way", CONTEXTS)
def test_an_error_inside_a_context_leaves_nothing(way: str) -> None:
    before = ambience()
    inputs = [{"x": x, "way": way, "fails": i == 2} for i, x in enumerate(X)]
    with noted(), pytest.raises(ValueError, match="inside"):
        lock_step(Around(), inputs)
    assert ambience() == before
    assert runners() == 0


@pytest.mark.parametrize("way", CONTEXTS)
def test_an_interrupt_while_all_are_inside_leaves_nothing(way: str) -> None:
    before = ambience()

    def visit(tap: Any, inputs: Any) -> None:
        assert ambience() == before | {"grad": False}
        if tap.name == "b":
            raise KeyboardInterrupt

    with noted(), pytest.raises(KeyboardInterrupt):
        lock_step(Around(), [{"x": x, "way": way} for x in X], visit)
    assert ambience() == before
    assert runners() == 0


class Leaving(nn.Module):
    """Changes what is around it and never puts it back."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self, error: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(ambience())
        x = self.a(x)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float64)
        torch.set_autocast_enabled("cpu", True)
        x = self.b(x)
        if self.error:
            raise ValueError("and fails")
        return x


@pytest.mark.parametrize("error", [False, True])
def test_what_a_pass_leaves_on_is_off_for_the_next(error: bool) -> None:
    before = ambience()
    Leaving.seen.clear()
    visits: list[dict[str, Any]] = []
    for run in (
        lambda: lock_step(Leaving(error), X, lambda *_: visits.append(ambience())),
        lambda: [through(Leaving(error), x) for x in X],
    ):
        with pytest.raises(ValueError, match="and fails") if error else nullcontext():
            run()
        assert ambience() == before
    inside = before | {"grad": False}
    assert visits == [inside, inside]
    assert all(around == inside for around in Leaving.seen)


NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("number")
LOCAL = threading.local()


def test_the_callers_context_variables_and_thread_locals_are_seen() -> None:
    class Looks(nn.Module):
        seen: list[tuple[int, str, int]] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append((NUMBER.get(), LOCAL.name, threading.get_ident()))
            mine = NUMBER.set(NUMBER.get() + len(self.seen))  # seen by no other batch
            now = NUMBER.get()
            x = self.b(self.a(x))
            assert NUMBER.get() == now
            NUMBER.reset(mine)
            return x

    token = NUMBER.set(7)
    LOCAL.name = "here"
    lock_step(Looks(), X)
    through(Looks(), X[0])
    assert Looks.seen == [(7, "here", threading.get_ident())] * 5
    assert NUMBER.get() == 7
    NUMBER.reset(token)


class Counts(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is torch.nn.functional.linear
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is torch.ops.aten.addmm.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Counts, Operations])
def test_modes_that_a_pass_enters_are_its_own(mode: type[Any]) -> None:
    """Such as a counter of operations: it counts its own batch, and no visit."""

    class Counted(nn.Module):
        counts: list[int] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with mode() as counter, FlopCounterMode(display=False) as flops:
                x = self.b(self.a(x))
            self.counts.append((counter.calls, flops.get_total_flops()))
            return x

    def visit(tap: Any, inputs: dict[int, Tensor]) -> None:
        for x in inputs.values():
            torch.nn.functional.linear(x, x, x[:, 0])

    with mode() as outside:
        lock_step(Counted(), X, visit)
    assert Counted.counts == [(2, 2 * 2 * 3 * 4 * 4)] * 4
    assert outside.calls == 2 * 4 + 2 * 4  # the batches' and the visits'
