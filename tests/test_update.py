"""Taking new samples in: what is new comes, what was there stays, and nothing grows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finepruning
from changing import Small, device, drawn, right
from finepruning import Config, FinepruningError, Result, load, monitor, personalize, update

OLD, NEW = [0, 1, 2], 4


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return Small()


@pytest.fixture(scope="module")
def me(small: nn.Module) -> Result:
    """Three classes, half of the weights gone."""
    return personal(small, OLD)


def personal(small: nn.Module, classes: list[int], n: int = 128, **options: Any) -> Result:
    config = Config(**{"sparsity": 0.5, "task": "classes", "check": False} | options)
    return personalize(small, drawn(classes, n)[0], config=config, progress=False)


def taken(me: Result | Path, small: nn.Module, x: Any, **options: Any) -> Result:
    return update(me, small, x, progress=False, **options)


def test_a_new_class_comes_and_the_others_stay(small: nn.Module, me: Result) -> None:
    then = taken(me, small, drawn([NEW], 16, seed=1)[0])
    new, old = drawn([NEW], 200, seed=5), drawn(OLD, 400, seed=6)
    assert right(me.model, *new) < right(small, *new) - 0.02
    assert right(then.model, *new) >= right(small, *new) - 0.01
    assert right(then.model, *old) >= right(me.model, *old) - 0.01
    assert then.report.update == {"remembered": 128, "aligned": False}
    assert then.report.sparsity == pytest.approx(0.5, abs=1e-3)
    counted = {one["class"]: one["samples"] for one in (then.report.classes or {})["in_use"]}
    assert counted[NEW] == pytest.approx(16, abs=2)


def test_weights_come_back_where_they_are_needed(small: nn.Module, me: Result) -> None:
    then = taken(me, small, drawn([NEW], 64, seed=1)[0])
    before, after = (
        torch.cat([p.flatten() != 0 for n, p in r.model.named_parameters() if n in r.pruned])
        for r in (me, then)
    )
    assert (after & ~before).sum() > 20
    assert (before & ~after).sum() > 20


def test_what_was_there_is_kept_by_what_is_kept(small: nn.Module) -> None:
    """Without what is kept, old classes are lost: the test before this can fail."""
    me = personal(small, OLD, sparsity=0.8)
    anew = personal(small, [NEW], n=16, sparsity=0.8)
    then = taken(me, small, drawn([NEW], 16, seed=1)[0])
    old = drawn(OLD, 400, seed=6)
    assert right(anew.model, *old) < 0.8
    assert right(then.model, *old) > right(me.model, *old) - 0.02


def test_another_device_is_noticed_and_mended(small: nn.Module, me: Result) -> None:
    x, _ = drawn(OLD, 64, seed=2)
    test, truth = drawn(OLD, 400, seed=6)
    drift = monitor(me.model).see(device(x))
    assert drift.changed
    assert drift.cause == "device", drift
    then = taken(me, small, device(x))
    assert then.report.update is not None
    assert then.report.update["aligned"]
    assert right(then.model, device(test), truth) > right(me.model, device(test), truth) + 0.1
    assert right(then.model, device(test), truth) > right(me.model, test, truth) - 0.05
    assert not monitor(then.model).see(device(drawn(OLD, 64, seed=3)[0])).changed
    # The next update stays with that device, and ordinary samples of it change nothing.
    again = taken(then, small, device(drawn(OLD, 32, seed=4)[0]))
    assert again.report.update is not None
    assert not again.report.update["aligned"]
    assert right(again.model, device(test), truth) > right(me.model, test, truth) - 0.05


def test_twenty_in_a_row(small: nn.Module, me: Result) -> None:
    """The same person: nothing is forgotten, and nothing grows."""
    test = drawn(OLD, 400, seed=6)
    now, sizes = me, []
    for step in range(20):
        now = taken(now, small, drawn(OLD, 16, seed=10 + step)[0])
        assert now.statistics is not None
        sizes.append(now.statistics.nbytes)
        assert right(now.model, *test) >= right(me.model, *test) - 0.02, step
    assert max(sizes[12:]) == min(sizes[12:])  # 256 samples are remembered by then
    assert now.statistics is not None
    assert now.statistics.samples == 256 + 16


def test_from_the_folder_as_from_memory(small: nn.Module, me: Result, tmp_path: Path) -> None:
    me.save(tmp_path / "me")
    x = drawn([NEW], 16, seed=1)[0]
    one, two = taken(me, small, x), taken(tmp_path / "me", small, x)
    test = drawn([*OLD, NEW], 400, seed=6)
    assert right(two.model, *test) == pytest.approx(right(one.model, *test), abs=0.01)
    two.save(tmp_path / "me", replace=True)
    assert load(tmp_path / "me", small)[0].weight.equal(two.model[0].weight)
    three = taken(tmp_path / "me", small, x)
    assert three.report.update is not None
    assert three.report.update["remembered"] == 144
    assert sorted(p.name for p in tmp_path.iterdir()) == ["me"]  # nothing is left lying about
    (tmp_path / "me" / "notes.txt").write_text("mine")
    two.save(tmp_path / "me", replace=True)
    assert (tmp_path / "me" / "notes.txt").read_text() == "mine"  # and nothing of theirs is lost


def test_the_same_bits_again(small: nn.Module, me: Result) -> None:
    x = drawn([NEW], 16, seed=1)[0]
    one, two = (taken(me, small, x).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_given_is_changed(small: nn.Module, me: Result) -> None:
    before = copy.deepcopy(small.state_dict()), copy.deepcopy(me.model.state_dict())
    taken(me, small, device(drawn([NEW], 16, seed=1)[0]))
    for model, state in zip((small, me.model), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_sparsity_can_be_asked_for(small: nn.Module, me: Result) -> None:
    then = taken(me, small, drawn(OLD, 64, seed=1)[0], sparsity=0.3)
    assert then.report.sparsity == pytest.approx(0.3, abs=1e-3)
    then = taken(me, small, drawn(OLD, 64, seed=1)[0], sparsity="auto", tolerance=0.3)
    assert then.report.choice is not None
    assert then.report.choice["tolerance"] == 0.3


def test_a_dense_network_stays_dense(small: nn.Module) -> None:
    config = Config(task="classes", choice=0.0)
    me = personalize(small, drawn(OLD, 64)[0], config=config, progress=False)
    assert not me.report.check["passed"]
    then = taken(me, small, drawn(OLD, 64, seed=1)[0])
    assert not then.report.check["passed"]
    assert "sparsity='auto'" in then.report.check["reason"]
    assert then.model[0].weight.equal(small[0].weight)
    assert then.statistics is not None
    tried = taken(then, small, drawn(OLD, 64, seed=2)[0], sparsity="auto", tolerance=0.5)
    assert tried.report.check["passed"]
    assert tried.report.sparsity > 0.2


@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("seen", ["classes", "values"])
def test_efforts_and_kinds(small: nn.Module, effort: str, seen: str) -> None:
    me = personal(small, OLD, task=seen, effort=effort)
    then = taken(me, small, drawn([NEW], 32, seed=1)[0])
    assert then.statistics is not None
    assert (then.statistics.logits is None) == (seen == "values")
    assert then.report.sparsity == pytest.approx(0.5, abs=1e-3)


def test_layers_that_are_called_twice() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 3))
    me = personalize(model, torch.randn(64, 8), sparsity=0.3, progress=False)
    then = update(me, model, torch.randn(32, 8), progress=False)
    assert then.report.sparsity == pytest.approx(0.3, abs=0.02)


class Raw(nn.Module):
    """The same product with a raw parameter, two parts of one, or a linear layer of its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        W = torch.randn(32, 16, generator=generator)
        self.kind = kind
        self.first = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.first.weight)
        self.last = nn.Linear(16, 16, bias=False)
        nn.init.eye_(self.last.weight)
        if kind == "linear":
            self.a, self.b = (nn.Linear(16, 16, bias=False) for _ in "ab")
            self.a.weight.data, self.b.weight.data = W[:16].clone(), W[16:].clone()
        elif kind == "raw":
            self.a, self.b = nn.Parameter(W[:16].clone()), nn.Parameter(W[16:].clone())
        else:
            self.both = nn.Parameter(W.reshape(2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.kind == "linear":
            return self.last(self.a(x) + self.b(x))
        a, b = (self.a, self.b) if self.kind == "raw" else self.both
        return self.last(nn.functional.linear(x, a) + nn.functional.linear(x, b))


@pytest.mark.parametrize("kind", ["linear", "raw", "parts"])
def test_what_was_there_counts_for_every_kind_of_weight(kind: str) -> None:
    """Earlier samples use the first half of the inputs, new ones the second: without the earlier
    ones, an update would take the weights of the first half."""
    model = Raw(kind)
    earlier, new = torch.randn(64, 16), torch.randn(64, 16)
    earlier[:, 8:] = 0
    new[:, :8] = 0
    config = Config(sparsity=0.4, check=False)
    me = personalize(model, earlier, config=config, progress=False)
    then = update(me, model, new, progress=False)
    with torch.no_grad():
        wanted, now = model(earlier), then.model(earlier)
    assert (now - wanted).square().mean() < 0.25 * wanted.square().mean()


def test_what_cannot_be(small: nn.Module, me: Result, tmp_path: Path) -> None:
    x = drawn(OLD, 16)[0]
    other = copy.deepcopy(small)
    other[0].weight.data[0] += 1
    with pytest.raises(FinepruningError, match=r"^base: not the network"):
        taken(me, other, x)
    nothing = personal(small, OLD, observe={"rank": 0})
    with pytest.raises(FinepruningError, match=r"^personal: nothing was kept"):
        taken(nothing, small, x)
    nothing.save(tmp_path / "me")
    with pytest.raises(FinepruningError, match=r"nothing was kept for updates"):
        taken(tmp_path / "me", small, x)
    with pytest.raises(FinepruningError, match=r"not a finepruning artifact"):
        taken(tmp_path / "none", small, x)
    with pytest.raises(FinepruningError, match=r"^tolerance=0\.1: .*give sparsity='auto'"):
        taken(me, small, x, tolerance=0.1)
    with pytest.raises(FinepruningError, match=r"^sparsity=0\.3 and a config"):
        taken(me, small, x, sparsity=0.3, config=Config())


# --- The monitor


def test_ordinary_samples_are_no_change(small: nn.Module, me: Result) -> None:
    watch = monitor(me.model)
    alarms = 0
    for seed in range(40):  # of one person, so more may be than one in twenty
        watch.forget()
        alarms += watch.see(drawn(OLD, 32, seed=50 + seed)[0]).changed
    assert alarms <= 6


def test_a_new_class_is_noticed_and_named(small: nn.Module, me: Result, tmp_path: Path) -> None:
    names = ["cat", "dog", "hen", "owl", "fox", "bee"]
    watch = monitor(me.model, class_names=names)
    for number, batch in enumerate(drawn([NEW], 16, seed=1)[0].split(4)):
        drift = watch.see(batch)
        assert drift.samples == 4 * (number + 1)
    assert drift.changed
    assert drift.cause == "classes"
    assert drift.new_classes[0][0] == "fox"
    assert "fox (1" in str(drift)
    assert "finepruning update" in str(drift)
    assert drift.to_dict()["cause"] == "classes"
    me.save(tmp_path / "me")
    for known in (load(tmp_path / "me", small), copy.deepcopy(me.model)):
        again = monitor(known, tmp_path / "me").see(drawn([NEW], 16, seed=1)[0])
        assert again.cause == "classes"


def test_after_the_update_it_is_nothing_new(small: nn.Module, me: Result) -> None:
    then = taken(me, small, drawn([NEW], 32, seed=1)[0])
    drift = monitor(then.model).see(drawn([*OLD, NEW], 32, seed=7)[0])
    assert not drift.changed, drift


def test_few_samples_say_nothing(me: Result) -> None:
    watch = monitor(me.model)
    assert str(watch.drift()) == "nothing has been seen yet"
    assert not watch.see(drawn([NEW], 1)[0]).changed
    assert watch.samples == 1


def test_the_rate_is_the_users(me: Result) -> None:
    x = drawn([NEW], 16, seed=1)[0]
    assert not monitor(me.model, me, false_alarms=0.0).see(x).changed
    with pytest.raises(FinepruningError, match=r"false_alarms"):
        monitor(me.model, me, false_alarms=1.5)


def test_where_nothing_was_kept_it_says_so(small: nn.Module, me: Result) -> None:
    for model in (small, copy.deepcopy(me.model)):
        with pytest.raises(FinepruningError, match=r"^model: nothing was kept .*monitor\(model"):
            monitor(model)


def test_what_is_kept_goes_with_the_network(small: nn.Module) -> None:
    from finepruning.artifact.kept import _KEPT

    gone = personal(small, OLD, n=32)
    before = len(_KEPT)
    del gone
    import gc

    gc.collect()
    assert len(_KEPT) < before


def test_the_network_is_watched_as_it_is(me: Result) -> None:
    before = copy.deepcopy(me.model.state_dict())
    monitor(me.model).see(drawn(OLD, 16)[0])
    assert all(torch.equal(v, before[k]) for k, v in me.model.state_dict().items())
    assert not any(m._forward_hooks for m in me.model.modules())
    assert finepruning.Monitor is not None
