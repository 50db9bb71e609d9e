"""Twins with a state of their own: whatever a forward pass keeps, it keeps to itself."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError, load, personalize
from finepruning.network.find import find_layers
from finepruning.network.replica import SMALL, Replicas
from leftovers import of_the_person, photograph, same
from passes import batch, engine_of, through

X = [torch.rand(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]


def two_layers(model: nn.Module) -> None:
    model.a, model.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Keeper:
    """An object that gathers."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, *args: Any) -> None:
        self.kept.append(args[-1])

    def __call__(self, *args: Any) -> None:
        self.keep(*args)


class Locked(Keeper):
    """It cannot be copied as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Holding(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.kept = x


class Slots:
    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: list[Any] = []


KEPT: list[Any] = []
DEQUE: collections.deque[Any] = collections.deque()


class Stateful(nn.Module):
    """Keeps what passes through it, in the way ``name`` names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        two_layers(self)
        self.way = name
        HOLDS.get(name, lambda m: None)(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        KEEPS.get(self.way, lambda m, x: None)(self, x)
        return self.b(y)


def hooked(make: Callable[[], Callable[..., Any]], on: str = "") -> Callable[[nn.Module], None]:
    def hold(model: nn.Module) -> None:
        part = model.get_submodule(on)
        part.register_forward_hook(make())
        hook = make()
        if not on:  # what comes in is looked for: let it be seen too
            part.register_forward_pre_hook(lambda m, args: hook(m, args[0]))

    return hold


def closure() -> Callable[..., Any]:
    kept: list[Any] = []
    return lambda *args: kept.append(args[-1])


def nested() -> Callable[..., Any]:
    """A hook around a hook, which finds itself in its own closure."""
    kept: list[Any] = []
    hooks: list[Callable[..., Any]] = []

    def inner(*args: Any) -> None:
        kept.append(args[-1])
        assert outer in hooks or len(hooks) == 1

    @functools.wraps(inner)
    def outer(*args: Any) -> None:
        inner(*args)

    hooks.append(outer)
    return outer


def counting() -> Callable[..., Any]:
    last: Any = None

    def hook(*args: Any) -> None:
        nonlocal last
        last = args[-1]

    return hook


def defaulted() -> Callable[..., Any]:
    def hook(m: nn.Module, args: Any, out: Any = None, kept: list[Any] = []) -> None:  # noqa: B006
        kept.append(out)

    return hook


def by_keyword() -> Callable[..., Any]:
    def hook(*args: Any, kept: dict[str, Any] = {}) -> None:  # noqa: B006
        kept["last"] = args[-1]

    return hook


def on_itself() -> Callable[..., Any]:
    def hook(*args: Any) -> None:
        KEPT.append(args[-1])

    hook.kept = []  # type: ignore[attr-defined]
    return hook


def in_a_global(kept: Any) -> Callable[..., Any]:
    return {
        "list": lambda *args: KEPT.append(args[-1]),
        "deque": lambda *args: DEQUE.append(args[-1]),
    }[kept]


def change(m: Any, name: str, value: Any) -> None:
    setattr(m, name, value)


HOLDS: dict[str, Callable[[Any], None]] = {
    "buffer": lambda m: m.register_buffer("seen", torch.zeros(3, 4)),
    "large buffer": lambda m: m.register_buffer("seen", torch.zeros(SMALL + 12)),
    "large buffer's data": lambda m: m.register_buffer("seen", torch.zeros(SMALL + 12)),
    "large attribute": lambda m: change(m, "seen", torch.zeros(SMALL + 12)),
    "unsaved buffer": lambda m: m.register_buffer("seen", torch.zeros(3, 4), persistent=False),
    "no buffer yet": lambda m: m.register_buffer("seen", None),
    "attribute": lambda m: change(m, "seen", None),
    "tensor": lambda m: change(m, "seen", torch.zeros(3, 4)),
    "parameter": lambda m: change(m, "seen", nn.Parameter(torch.zeros(3, 4), requires_grad=False)),
    "list": lambda m: change(m, "seen", []),
    "filled list": lambda m: change(m, "seen", [torch.zeros(2)]),
    "list of lists": lambda m: change(m, "seen", [[], {}]),
    "dict": lambda m: change(m, "seen", {}),
    "filled dict": lambda m: change(m, "seen", {"first": torch.zeros(2)}),
    "default dict": lambda m: change(m, "seen", collections.defaultdict(list)),
    "ordered dict": lambda m: change(m, "seen", collections.OrderedDict(a=[])),
    "set": lambda m: change(m, "seen", {1}),
    "deque": lambda m: change(m, "seen", collections.deque([0], 3)),
    "tuple of lists": lambda m: change(m, "seen", ([], [])),
    "object": lambda m: change(m, "seen", Keeper()),
    "slots": lambda m: change(m, "seen", Slots()),
    "object of objects": lambda m: change(m, "seen", {"k": [Keeper()]}),
    "module's object": lambda m: change(m.a, "seen", Keeper()),
    "module": lambda m: change(m, "seen", nn.Identity()),
    "deleted": lambda m: change(m, "seen", torch.zeros(1)),
    "closure": hooked(closure),
    "closure on a layer": hooked(closure, "a"),
    "nested closure": hooked(nested),
    "nonlocal": hooked(counting),
    "default": hooked(defaulted),
    "keyword default": hooked(by_keyword),
    "partial": hooked(lambda: functools.partial(Keeper.keep, Keeper())),
    "bound method": hooked(lambda: Keeper().keep),
    "method of a list": hooked(lambda: (lambda kept: lambda *a: kept.append(a[-1]))([])),
    "callable": hooked(Keeper),
    "callable on a layer": hooked(Keeper, "a"),
    "closure over a locked": hooked(lambda: (lambda k: lambda *a: k.keep(a[-1]))(Locked())),
    "global list": hooked(lambda: in_a_global("list")),
    "global deque": hooked(lambda: in_a_global("deque")),
    "global on a layer": hooked(lambda: in_a_global("list"), "b"),
    "the model's method": lambda m: m.a.register_forward_hook(m.keep) and None,
}


def into_large(m: Any, x: Tensor) -> None:
    m.seen[: x.numel()] = x.flatten()


KEEPS: dict[str, Callable[[Any, Tensor], object]] = {
    "buffer": lambda m, x: m.seen.copy_(x[:1].expand(3, 4)),
    "large buffer": into_large,
    "large attribute": into_large,
    "large buffer's data": lambda m, x: m.seen.data[: x.numel()].copy_(x.flatten()),
    "unsaved buffer": lambda m, x: m.seen.copy_(x[:1].expand(3, 4)),
    "no buffer yet": lambda m, x: change(m, "seen", x),
    "attribute": lambda m, x: change(m, "seen", x),
    "tensor": lambda m, x: m.seen.add_(x[:1]),
    "parameter": lambda m, x: m.seen.data.copy_(x[:1].expand(3, 4)),
    "list": lambda m, x: m.seen.append(x),
    "filled list": lambda m, x: m.seen.append(x) or m.seen[0].copy_(x[0, :2]),
    "list of lists": lambda m, x: m.seen[0].append(x) or m.seen[1].update(x=x),
    "dict": lambda m, x: m.seen.update({len(m.seen): x}),
    "filled dict": lambda m, x: m.seen.update(first=x),
    "default dict": lambda m, x: m.seen["x"].append(x),
    "ordered dict": lambda m, x: m.seen["a"].append(x),
    "set": lambda m, x: m.seen.add(x),
    "deque": lambda m, x: m.seen.append(x),
    "tuple of lists": lambda m, x: m.seen[0].append(x),
    "object": lambda m, x: m.seen.keep(x),
    "slots": lambda m, x: m.seen.kept.append(x),
    "object of objects": lambda m, x: m.seen["k"][0].keep(x),
    "module's object": lambda m, x: m.a.seen.keep(x),
    "module": lambda m, x: change(m.seen, "kept", [x]),
    "appears": lambda m, x: change(m, "seen", x),
    "appears on a layer": lambda m, x: change(m.b, "seen", [x]),
    "buffer appears": lambda m, x: m.register_buffer("seen", x),
    "parameter appears": lambda m, x: change(m, "seen", nn.Parameter(x)),
    "parameter is another": lambda m, x: change(m.b, "bias", nn.Parameter(x[0])),
    "module appears": lambda m, x: m.add_module("seen", Holding(x)),
    "hook appears": lambda m, x: m.a.register_forward_hook(lambda *args, x=x: None),
    "deleted": lambda m, x: vars(m).pop("seen", None),
    "set and deleted": lambda m, x: change(m, "seen", x) or delattr(m, "seen"),
    "training": lambda m, x: m.a.train(),
    "gradients": lambda m, x: m.requires_grad_(True),
}


class Methodical(Stateful):
    def keep(self, *args: Any) -> None:
        vars(self).setdefault("kept", []).append(args[-1])


WAYS = sorted(HOLDS.keys() | KEEPS.keys())


def made(way: str) -> nn.Module:
    return Methodical(way).eval()


@pytest.fixture(autouse=True)
def nothing_global() -> Any:
    for kept in (KEPT, DEQUE):
        kept.clear()
    yield
    assert not KEPT
    assert not DEQUE


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_stays(way: str, effort: str) -> None:
    """On the given model, or in the result, or in any object that the two lead to."""
    model = made(way)
    before = photograph(model)
    data = torch.rand(24, 4, generator=torch.Generator().manual_seed(1)) + 10  # like no weight
    result = personalize(model, data, sparsity=0.3, effort=effort)
    assert same(before, photograph(model))
    assert not of_the_person(model, data)
    assert not of_the_person(result.model, data)
    for (name, one), (_, two) in zip(
        model.named_modules(), result.model.named_modules(), strict=True
    ):
        assert vars(one).keys() == vars(two).keys(), name
    names = [[n for n, _ in m.named_parameters()] for m in (model, result.model)]
    assert names[0] == names[1]
    for name, value in result.model.named_buffers():
        assert torch.equal(value, model.get_buffer(name))
    assert not any(m.training for m in result.model.modules())
    assert not any(p.requires_grad for p in result.model.parameters())
    plain = personalize(made("none"), data, sparsity=0.3, effort=effort).model
    if way != "parameter is another":
        for layer in "ab":
            one, two = getattr(plain, layer), getattr(result.model, layer)
            assert torch.equal(one.weight, two.weight), "the same result as without"
            assert torch.equal(one.bias, two.bias)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_loaded_is_what_was_saved(way: str, tmp_path: Path) -> None:
    """Bit for bit on data that is new to both: no state of a pass is in either."""
    model = made(way)
    result = personalize(model, torch.rand(24, 4) + 10, sparsity=0.3)
    result.save(tmp_path / "me")
    loaded = load(tmp_path / "me", model)
    with torch.no_grad():
        for new in torch.randn(3, 3, 4):
            assert torch.equal(loaded(new), result.model(new))
    for kept in (KEPT, DEQUE):  # these calls were our own
        kept.clear()


@pytest.mark.parametrize("way", [w for w in WAYS if w != "parameter is another"])
def test_batches_do_not_meet(way: str) -> None:
    """In a lock-step pass each finds the state that the network was given in."""
    engine = engine_of(made(way))
    given = [batch(x) for x in X]
    for _ in engine.stream(given[:1]):  # which shows what changes
        pass
    found = find_layers(engine.model)
    engine.lock_step(given, found.places, lambda layer, inputs: None)
    for _ in engine.stream(given):
        pass
    engine.finish(found.layers)
    assert not of_the_person(engine.model, torch.cat(X))


class Keeping(nn.Module):
    """Two ways to the last layer, one over an attribute."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 20), nn.Linear(20, 20), nn.Linear(20, 4)
        self.keeps = keeps
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = torch.relu(self.a(x))
        if self.keeps:
            self.h = h
        k = self.b(h)
        return self.c((self.h if self.keeps else h) + k)


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_the_same_result_as_with_a_local_variable(effort: str) -> None:
    batches = torch.randn(61, 6, generator=torch.Generator().manual_seed(1)).split(10)
    one, two = (
        personalize(Keeping(keeps), batches, sparsity=0.5, effort=effort).model
        for keeps in (True, False)
    )
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not hasattr(one, "h"), "a batch of the person's activations stays on the network"
    assert one.calls == 0


def test_what_is_on_the_model_when_it_is_given_is_there_in_every_pass() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            two_layers(self)
            self.scales = {"a": [torch.full((4,), 2.0)]}

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x) * self.scales["a"][0])
            self.scales["a"][0].zero_()
            self.scales["a"].clear()
            return y

    model = Scaled()
    engine = engine_of(model)
    wanted = [model.b(model.a(x) * 2) for x in X]
    for passed, y in zip(engine.stream([batch(x) for x in X]), wanted, strict=True):
        assert torch.equal(passed.output, y)


def test_parameters_are_the_networks_and_modules_the_replicas() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model.first = model[0]
    model.parts = [model[0], {"last": model[2]}]
    model.both = (model[0].weight, model[1].running_mean)
    model[2].weight = model[0].weight
    engine = engine_of(model)
    one, two = engine.replica(), engine.replica()
    for twin in (one, two):
        assert type(twin) is nn.Sequential
        assert twin.first is twin[0]
        assert twin.parts == [twin[0], {"last": twin[2]}]
        assert twin.both[0] is twin[0].weight
        assert twin.both[1] is twin[1].running_mean
        assert twin[2].weight is twin[0].weight
        for p, q in zip(twin.parameters(), engine.model.parameters(), strict=True):
            assert p is q
        assert not {*twin.modules()} & {*engine.model.modules()}
    assert one[0] is not two[0]
    assert one[1].running_mean is not two[1].running_mean


def test_large_tensors_that_do_not_change_are_not_copied() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("table", torch.zeros(SMALL + 1))
    engine = engine_of(model)
    for _ in engine.stream([batch(x) for x in X]):
        pass
    assert engine.replica().table is engine.replica().table
    assert engine.replica().table.data_ptr() == engine.model.table.data_ptr()


def test_a_cached_table_can_still_be_trained_with() -> None:
    """No tensor of an inference mode gets into a cache that the given model uses later."""

    @functools.lru_cache
    def table(width: int) -> Tensor:
        return torch.linspace(0, 1, width)

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            two_layers(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * table(4))

    model = Cached()
    with torch.inference_mode():
        result = personalize(model, torch.rand(24, 4), sparsity=0.5)
    assert table.cache_info().currsize == 1
    for trained in (model, result.model):
        trained.requires_grad_(True)
        trained(X[0]).sum().backward()
        assert trained.a.weight.grad is not None


def test_hooks_see_the_replicas_modules() -> None:
    """And one that keeps something on its module keeps it there."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    class Notes(list[int]):
        """Shared by all copies: this is how the test looks in."""

        def __deepcopy__(self, memo: Any) -> Notes:
            return self

    notes = Notes()

    def hook(m: nn.Module, args: Any, out: Tensor) -> None:
        notes.append(id(m))
        m.kept = out

    model[0].register_forward_hook(hook)
    engine = engine_of(model)
    for _ in engine.stream([batch(x) for x in X]):
        pass
    assert notes
    assert id(model[0]) not in notes
    assert id(engine.model[0]) not in notes
    assert not hasattr(engine.model[0], "kept")


def test_a_hook_that_cannot_be_copied_is_refused() -> None:
    """The model is copied once, with what its hooks are bound to."""
    model = made("none")
    model.register_forward_hook(Locked().keep)
    with pytest.raises(FinepruningError, match="model: cannot be copied"):
        personalize(model, torch.rand(24, 4))


def test_a_submodule_that_is_used_outside_its_parent() -> None:
    """Kept in a list that registers nothing: a plain attribute, which is copied with the rest."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            two_layers(self)
            self.norms = [nn.BatchNorm1d(4).eval()]

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norms[0](self.a(x)))

    model = Hidden()
    output, calls = through(model, X[0])
    assert calls == ["a", "b"]
    assert torch.equal(output, model(X[0]))


@pytest.mark.parametrize("kind", [list, dict, set])
def test_an_empty_object_that_two_modules_share_is_shared_by_their_twins(kind: type) -> None:
    model, shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), kind()
    model[0].notes = model[1].notes = shared  # type: ignore[assignment]
    twin, _ = Replicas(model).make()
    first, second = twin.children()
    assert first.notes is second.notes
    assert first.notes is not shared
