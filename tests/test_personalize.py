"""The one verb: the given model is untouched, no graph is built, the same bits each time."""

from __future__ import annotations

import _thread
import copy
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import finepruning
from finepruning import Config, FinepruningError, Result, _prune, _run
from finepruning.core import fit, moments
from finepruning.steps import norms, paper, prune, trace, watch
from leftovers import ambience, of_the_person, photograph, same
from passes import nothing_left
from unchecked import personalize

EFFORTS = ("best", "fast", "paper")
X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A bit of everything: convolutions, normalisation, attention, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 2, stride=2, groups=2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))

    def stem(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.conv(x)).relu())

    def rest(self, x: Tensor) -> Tensor:
        return self.head(self.block(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.fixture
def model() -> nn.Module:
    return Net()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread, no batch under way, no file."""
    with nothing_left():
        yield


@pytest.fixture(autouse=True)
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever a test does with ``model``, it is afterwards, bit for bit, what it was."""
    model.block.eval()
    model.head.requires_grad_(False)
    model.register_forward_hook(lambda m, args, out: None)
    before = photograph(model)
    yield
    assert same(before, photograph(model))


def same_bits(a: Tensor, b: Tensor) -> bool:
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def identical(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(same_bits(one[k], two[k]) for k in one)


@pytest.mark.parametrize("effort", EFFORTS)
def test_what_comes_back(model: nn.Module, effort: str) -> None:
    result = personalize(model, X, effort=effort, sparsity=0.6)
    assert result.report.sparsity == pytest.approx(0.6, abs=0.01)
    assert result.report.sparsity >= 0.6
    assert result.report.samples == 40
    assert result.report.config["effort"] == effort
    assert type(result.model) is Net
    assert not any(m.training for m in result.model.modules())
    with torch.inference_mode():
        assert result.model(X).shape == (40, 5)
    given = {p.data_ptr() for p in model.parameters()}
    assert not given & {p.data_ptr() for p in result.model.parameters()}
    for name, value in result.model.state_dict().items():
        assert value.dtype == model.state_dict().get(name, value).dtype


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_result_is_an_ordinary_module(model: nn.Module, effort: str) -> None:
    """It can be trained, copied, pickled and loaded into: nothing in it is an inference tensor."""
    personal = personalize(model, X, effort=effort).model
    for value in [*personal.parameters(), *personal.buffers()]:
        assert not value.is_inference()
        assert value.grad_fn is None
        assert value.grad is None
    assert not any("forward" in vars(m) for m in personal.modules())
    with torch.inference_mode():
        before = personal(X)
    copied = copy.deepcopy(personal)
    file = io.BytesIO()
    torch.save(personal.state_dict(), file)
    file.seek(0)
    copied.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        assert torch.equal(copied(X), before)

    copied.requires_grad_(True)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    copied.train()(X).square().sum().backward()
    optimizer.step()
    assert copied.conv.weight.grad is not None
    with torch.inference_mode():
        assert torch.equal(personal(X), before)


class NoGraph(TorchDispatchMode):
    """Fails at the first operation that would be recorded for differentiation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        detaches = func is torch.ops.aten.detach.default
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors) and not detaches:
            raise AssertionError(f"{func} would build a graph")
        out = func(*args, **(kwargs or {}))
        assert all(t.grad_fn is None for t in tree_leaves(out) if isinstance(t, Tensor))
        return out


def test_the_watch_watches(model: nn.Module) -> None:
    with pytest.raises(AssertionError, match="graph"), NoGraph():
        model(X)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("readout", [True, False])
def test_no_graph_is_ever_built(
    model: nn.Module, effort: str, readout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation is watched, and differentiation itself is forbidden."""

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("backpropagation")

    class Spy(nn.Module):
        modes: list[bool] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(model)

        def forward(self, x: Tensor) -> Tensor:
            self.modes.append(torch.is_grad_enabled())
            y = self.net(x)
            assert not y.requires_grad
            assert y.grad_fn is None
            return y

    for owner, name in (
        (torch.Tensor, "backward"), (torch.autograd, "backward"), (torch.autograd, "grad"),
        (torch.autograd.Function, "apply"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, forbidden)
    spy = Spy()
    with NoGraph(), torch.enable_grad():
        result = personalize(spy, X, effort=effort, readout=readout)
    assert len(Spy.modes) >= 5
    assert not any(Spy.modes)
    assert all(p.grad is None for p in [*spy.parameters(), *result.model.parameters()])
    assert not any(p.requires_grad for p in result.model.parameters())


def test_given_under_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        result = personalize(model, X)
    assert identical(result.model, personalize(model, X).model)
    assert not any(p.is_inference() for p in result.model.parameters())


@pytest.mark.parametrize("effort", EFFORTS)
def test_same_seed_same_bits(model: nn.Module, effort: str, tmp_path: Path) -> None:
    config = Config(
        effort=effort, observe={"positions": 600, "memory": 1e5}, seed=3
    )  # positions and batches drawn
    one = personalize(model, X.split(8), config=config)
    torch.rand(7)
    random = torch.get_rng_state()
    two = personalize(model, X.split(8), config=config)
    assert torch.equal(torch.get_rng_state(), random)
    assert identical(one.model, two.model)
    assert one.base == two.base
    one.save(tmp_path / "one")
    loaded = finepruning.load(tmp_path / "one", model)
    assert identical(loaded, two.model)
    with torch.inference_mode():
        assert torch.equal(loaded(X), two.model(X))
    two.save(tmp_path / "two")
    files = [(tmp_path / n / "personal.safetensors").read_bytes() for n in ("one", "two")]
    assert files[0] == files[1]


def test_another_seed_draws_other_positions(model: nn.Module) -> None:
    one, two = (
        personalize(model, X, config=Config(observe={"positions": 600}, seed=seed)).model
        for seed in (0, 1)
    )
    assert not identical(one, two)


@pytest.mark.parametrize("effort", EFFORTS)
def test_no_order_of_saving_and_loading_matters(
    model: nn.Module, effort: str, tmp_path: Path
) -> None:
    """Two people of one base: each gets their own back, whoever was saved or loaded first."""
    a, b = (personalize(model, x, effort=effort) for x in (X[:20], X[20:]))
    for result, name in ((b, "b"), (a, "a")):
        result.save(tmp_path / name)
    for names in ("ab", "ba"):
        for name in names:
            loaded = finepruning.load(tmp_path / name, model)
            assert identical(loaded, {"a": a, "b": b}[name].model)
    assert not identical(a.model, b.model)


def test_config_takes_the_place_of_the_keywords(model: nn.Module) -> None:
    one = personalize(model, X, config=Config(sparsity=0.5, effort="fast", readout=False, seed=1))
    two = personalize(model, X, sparsity=0.5, effort="fast", readout=False, seed=1)
    assert identical(one.model, two.model)


def test_progress_is_silent_where_there_is_no_terminal(
    model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    personalize(model, X, progress=True)
    assert capsys.readouterr() == ("", "")


def test_labels_are_never_read(model: nn.Module) -> None:
    class Secret:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("a label was looked at")

    with_labels = personalize(model, [(x, Secret()) for x in X.split(10)])
    assert identical(with_labels.model, personalize(model, X.split(10)).model)


def test_a_base_that_changed_is_another_base(model: nn.Module, tmp_path: Path) -> None:
    result = personalize(model, X)
    result.save(tmp_path / "me")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.norm.running_mean += 1
    with pytest.raises(FinepruningError, match="another base"):
        finepruning.load(tmp_path / "me", other)


def test_the_readout_says_what_it_did(model: nn.Module) -> None:
    reports = {
        "on": personalize(model, X, task="classes").report,
        "off": personalize(model, X, task="classes", readout=False).report,
        "paper": personalize(model, X, task="classes", effort="paper").report,
        "none": personalize(nn.Sequential(model, nn.Tanh()), X, task="classes").report,
        "values": personalize(model, X, task="values").report,
        "unknown": personalize(model, X).report,
    }
    assert reports["on"].readout["applied"]
    assert reports["on"].readout["outputs"] == 5
    reasons = {name: r.readout["reason"] for name, r in reports.items()}
    assert not reasons.pop("on")
    assert all(reasons.values())


# Bad input: one line that names what, where and the fix; the given model is untouched.


class Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net.head(self.net.conv(x).flatten(2).mean(2) / 0)


def poisoned(name: str, value: float) -> nn.Module:
    model = Net()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[3] = value
    return model


BAD: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "no data": (lambda m: personalize(m, []), "batches: .*no data.*give"),
    "an empty tensor": (lambda m: personalize(m, X[:0]), "batches: .*no data"),
    "an empty stream": (lambda m: personalize(m, iter(())), "batches: .*no data"),
    "one sample": (lambda m: personalize(m, X[:1]), "batches: one sample.*give"),
    "no batches": (lambda m: personalize(m, None), "batches: a NoneType.*give"),
    "a path": (lambda m: personalize(m, "photos/"), "batches: a str.*give"),
    "a scalar": (lambda m: personalize(m, torch.tensor(1.0)), "batches: .*shape.*give"),
    "wrong shape": (lambda m: personalize(m, X[:, :2]), r"batches: .*\(1, 2, 8, 8\).*give"),
    "wrong shape later": (
        lambda m: personalize(m, [X, X[:, :2]]), r"batches: .*\(40, 2, 8, 8\).*give",
    ),
    "wrong type": (lambda m: personalize(m, X.long()), "batches: .*fails.*give"),
    "NaN in data": (lambda m: personalize(m, X.log()), "batches: item 0 holds NaN.*mend"),
    "NaN in data later": (
        lambda m: personalize(m, [X, X / 0]), "batches: item 1 holds NaN or infinite.*mend",
    ),
    "NaN in weights": (
        lambda m: personalize(poisoned("down.weight", torch.nan), X),
        "model: 'down.weight' holds NaN.*load",
    ),
    "infinity in buffers": (
        lambda m: personalize(poisoned("norm.running_var", torch.inf), X),
        "model: 'norm.running_var' holds NaN or infinite.*load",
    ),
    "NaN in activations": (
        lambda m: personalize(Infinite(), X), "layer 'net.head': .*outputs hold NaN.*check",
    ),
    "nothing to prune": (
        lambda m: personalize(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), X),
        "model: a Sequential without prunable layers",
    ),
    "no weights at all": (
        lambda m: personalize(nn.Identity(), X), "model: a Identity without prunable layers",
    ),
    "lazy": (
        lambda m: personalize(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), X),
        "model: '1.weight' is not initialised.*run",
    ),
    "too much left alone": (
        lambda m: personalize(
            nn.Sequential(nn.Conv2d(3, 1, 1), nn.ConvTranspose2d(1, 64, 3)), X, sparsity=0.9
        ),
        "sparsity=0.9: would leave 0 of 3 weights for 1 layers.*give 0.666 at most",
    ),
    "more sparsity than layers can bear": (
        lambda m: personalize(m, X, sparsity=0.9999), "sparsity=0.9999: .*give",
    ),
    **{
        f"sparsity {s}": (lambda m, s=s: personalize(m, X, sparsity=s), "sparsity=.*must be")
        for s in (1, 1.0, -0.1, 70, float("nan"), "a lot")
    },
    "effort": (lambda m: personalize(m, X, effort="max"), "effort='max': choose one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(model: nn.Module, case: str) -> None:
    call, pattern = BAD[case]
    with pytest.raises(FinepruningError) as error:
        call(model)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 300
    assert re.match(pattern, message), message


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_process_changes(model: nn.Module, effort: str, fails: bool) -> None:
    data = [X[:20], X[:, :2]] if fails else X
    before = ambience()
    with pytest.raises(FinepruningError) if fails else nullcontext():
        personalize(model, data, effort=effort)
    assert ambience() == before


class Stops(nn.Module):
    """Raises at the ``call``-th call of any of its layers, over all passes and copies."""

    calls: list[str] = []  # noqa: RUF012
    error: type[BaseException] | None = None
    call = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.kept: list[Tensor] = []
        for name, module in net.named_modules():
            if isinstance(module, LAYERS):
                module.register_forward_pre_hook(partial(Stops.count, name))

    @classmethod
    def count(cls, name: str, *_: Any) -> None:
        cls.calls.append(name)
        if len(cls.calls) == cls.call and cls.error is not None:
            if cls.error is KeyboardInterrupt:
                _thread.interrupt_main()
                time.sleep(0.02)
            raise cls.error("in a layer")

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(x)
        self.last = x
        return self.net(x)


LAYERS = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
TRACE, PASS = 5 * 6, 5 * 6
"""Calls of the network's layers in the trace of one sample, before which two more show how pictures
may lie in memory, and after which two more show which batch norms take up a shift; and in a pass of
the five batches."""


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_layers_calls(model: nn.Module, effort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next test goes by."""
    monkeypatch.setattr(Stops, "calls", [])
    personalize(Stops(copy.deepcopy(model)), X.split(8), effort=effort)
    assert len(Stops.calls) == TRACE + PASS * (8 if effort == "paper" else 2)


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    "call",
    [1, 6, TRACE - 13, TRACE - 12, TRACE + 1, TRACE + 7, TRACE + 21, TRACE + PASS,
     *range(TRACE + PASS + 1, TRACE + 2 * PASS + 1, 4), TRACE + 2 * PASS],
)  # fmt: skip
def test_an_error_at_any_layer(
    model: nn.Module, call: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the trace, in the observation, in lock-step: the model is as it was, nothing is left."""
    for name, value in (("calls", []), ("error", error), ("call", call)):
        monkeypatch.setattr(Stops, name, value)
    stops = Stops(copy.deepcopy(model))
    before = photograph(stops)
    expected = FinepruningError if error is ValueError else error
    with pytest.raises(expected, match=None if error is KeyboardInterrupt else "in a layer"):
        personalize(stops, X.split(8))
    assert len(Stops.calls) >= call
    assert same(before, photograph(stops))
    assert not of_the_person(stops, X)


STEPS = {
    "observe": (watch, "Marginals"), "fit": (fit, "compensate"), "plan": (_prune, "plan"),
    "gram": (moments, "gram"), "read out": (_run, "answers"),
    "neighbours": (prune, "agreed"), "trace": (trace, "trace"), "norms": (norms, "reduce"),
    "account": (_run, "account"), "find": (_run, "find_layers"),
    "base": (_run, "fingerprint"), "paper": (paper, "top"),
}  # fmt: skip


@pytest.mark.parametrize("error", [KeyboardInterrupt, FinepruningError, ZeroDivisionError])
@pytest.mark.parametrize("step", STEPS)
def test_an_error_of_our_own_at_any_step(
    model: nn.Module, step: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out as it is, and the model is as it was."""

    class Interrupts:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise error("of our own")

        of = __init__

    owner, name = STEPS[step]
    monkeypatch.setattr(owner, name, Interrupts)
    effort = "paper" if step == "paper" else "best"
    asked = {"task": "classes", "norms": 0.25}
    given = copy.deepcopy(model)
    given.norm.running_mean += 1  # another device, which a norm follows
    before = photograph(given)
    with pytest.raises(error) as caught:
        personalize(given, X, effort=effort, **asked)
    assert same(before, photograph(given))
    assert type(caught.value) is error
    assert str(caught.value) == "of our own"


@pytest.mark.parametrize("where", ["the data", "reading"])
def test_an_error_in_the_data_comes_out(model: nn.Module, where: str) -> None:
    class BrokenError(Exception):
        pass

    def data() -> Iterator[Tensor]:
        yield X[:20]
        raise BrokenError("while reading")

    with pytest.raises(BrokenError, match="while reading"):
        personalize(model, data())


@pytest.mark.parametrize("effort", EFFORTS)
def test_no_file_is_left(model: nn.Module, effort: str, tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    Path("tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    personalize(model, X, effort=effort).save("me")
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "finepruning.json", "me", "personal.safetensors", *STATISTICS[: effort != "paper"], "tmp"
    ]  # fmt: skip


STATISTICS = ("statistics.safetensors",)


class Functional(nn.Module):
    """Hands the weight of a layer to a function, and never calls the layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.fc, self.head = way, nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        fc, head = self.fc, self.head
        if self.way == "call":
            x = fc(x)
        elif self.way == "linear":
            x = nn.functional.linear(x, fc.weight, bias=fc.bias)
        else:
            x = x @ fc.weight.T
        return x @ head.weight.T if self.way == "products alone" else head(x.relu())


def test_a_weight_that_a_function_uses_is_intercepted_or_named() -> None:
    x = torch.randn(24, 6)
    called, linear, product = (
        personalize(Functional(way), x, sparsity=0.2) for way in ("call", "linear", "product")
    )
    assert identical(called.model, linear.model)
    assert [layer.name for layer in linear.report.layers] == ["fc", "head"]
    # Its bias is not used.
    assert [layer.name for layer in product.report.layers] == ["fc", "head"]
    assert torch.equal(product.model.fc.bias, Functional("product").fc.bias)
    alone = personalize(Functional("products alone"), x, sparsity=0.5)
    assert [layer.name for layer in alone.report.layers] == ["fc", "head"]
    assert alone.report.sparsity >= 0.5


def test_the_report_is_json(model: nn.Module) -> None:
    result: Result = personalize(model, X)
    text = json.dumps(result.report.to_dict(), allow_nan=False)
    assert json.loads(text)["zeros"] == result.report.zeros


def test_a_convolution_can_be_the_head() -> None:
    """1x1 convolution, one position, flattened: read out like a Linear layer, rows closed too."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(body, nn.Conv2d(8, 6, 1), nn.Flatten()).eval()
    with torch.no_grad():
        model[1].bias[:2] += 20.0  # this person's samples are all of classes 0 and 1
        model[1].weight[:2] *= 30
    task = {"classes": [0, 1]}
    result = personalize(model, torch.randn(200, 3, 8, 8), sparsity=0.3, task=task)
    readout = result.report.readout
    assert (readout["applied"], readout["outputs"]) == (True, 6)
    assert readout["closed"] == 4
    assert not result.model[1].weight[2:].any()
    groups = nn.Sequential(body, nn.Conv2d(8, 6, 1, groups=2), nn.Flatten()).eval()
    refused = personalize(groups, torch.randn(20, 3, 8, 8), sparsity=0.3).report.readout
    assert not refused["applied"]
