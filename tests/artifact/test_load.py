"""The folder that is read: back bit for bit, and told apart when damaged."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import finepruning
from finepruning import FinepruningError, personalize
from finepruning.artifact.fingerprint import fingerprint
from finepruning.artifact.layout import JSON, TENSORS
from saved import Net, X, reseal, same_bits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_back_bit_for_bit(tmp_path: Path, effort: str, bias: bool, dtype: torch.dtype) -> None:
    base = Net(bias).to(dtype)
    result = personalize(base, X.to(dtype), effort=effort, sparsity=0.6)
    before = fingerprint(base)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", base)
    assert same_bits(loaded, result.model)
    assert fingerprint(loaded) == fingerprint(result.model)
    assert fingerprint(base) == before == result.base
    with torch.inference_mode():
        assert torch.equal(loaded(X.to(dtype)), result.model(X.to(dtype)))
    assert not loaded.training
    assert loaded.a.weight is loaded.b.weight  # still tied
    assert loaded.a.weight is not base.a.weight


def test_loading_does_not_depend_on_the_mode_it_is_called_in(base: nn.Module, me: Path) -> None:
    with torch.inference_mode():
        loaded = finepruning.load(me, base)
    assert not any(p.is_inference() for p in loaded.parameters())
    assert same_bits(loaded, finepruning.load(me, base.train()))


def test_a_shared_bias_stays_shared(tmp_path: Path) -> None:
    base = Net(bias=True)
    personalize(base, X).save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", base)
    assert loaded.a.bias is loaded.b.bias


# Damage


def edit_json(**changes: Any) -> Callable[[Path], None]:
    return lambda me: reseal(me, **changes)


def edit_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(me: Path) -> None:
        tensors = load_file(me / TENSORS)
        change(tensors)
        save_file(tensors, me / TENSORS)
        reseal(me)

    return edit


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda me: (me / name).write_bytes((me / name).read_bytes()[:size])  # type: ignore[return-value]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no folder": lambda me: me.rename(me.with_name("elsewhere")),
    "no json": lambda me: (me / JSON).unlink(),
    "no tensors": lambda me: (me / TENSORS).unlink(),
    "garbage json": lambda me: (me / JSON).write_text("{]"),
    "binary json": lambda me: (me / JSON).write_bytes(b"\xff\xfe\x00"),
    "empty json": lambda me: (me / JSON).write_text(""),
    "other json": lambda me: (me / JSON).write_text("[1, 2]"),
    "truncated json": cut(JSON, 50),
    "truncated tensors": cut(TENSORS, 200),
    "truncated by a byte": lambda me: cut(TENSORS, (me / TENSORS).stat().st_size - 1)(me),
    "empty tensors": cut(TENSORS, 0),
    "later format": edit_json(format=99),
    "no format": edit_json(format=...),
    **{f"no {key}": edit_json(**{key: ...}) for key in ("base", "pruned", "changed", "report")},
    **{f"odd {key}": edit_json(**{key: 3}) for key in ("base", "pruned", "changed", "report")},
    "unknown weight": edit_json(pruned=["nobody.weight"]),
    "weight not a name": edit_json(pruned=[3]),
    "unknown bias": edit_json(changed=["head.nothing"]),
    "a method for a bias": edit_json(changed=["head.forward"]),
    "no mask": edit_tensors(lambda t: t.pop("head.weight.mask")),
    "no values": edit_tensors(lambda t: t.pop("head.weight.values")),
    "no bias": edit_tensors(lambda t: t.pop("head.bias")),
    "short mask": edit_tensors(lambda t: t.update({"head.weight.mask": t["head.weight.mask"][:1]})),
    "long mask": edit_tensors(
        lambda t: t.update({"head.weight.mask": t["head.weight.mask"].repeat(2)})
    ),
    "other mask": edit_tensors(lambda t: t["head.weight.mask"][0].bitwise_xor_(0b10000000)),
    "mask of floats": edit_tensors(
        lambda t: t.update({"head.weight.mask": t["head.weight.mask"].float()})
    ),
    "one value for all": edit_tensors(
        lambda t: t.update({"head.weight.values": t["head.weight.values"][:1].clone()})
    ),
    "nothing pruned": edit_json(pruned=[]),
    "a name twice": edit_json(pruned=["head.weight"] * 2),
    "no files": edit_json(files=...),
    "a file elsewhere": edit_json(files={"personal": {"name": "../x", "bytes": 1, "sha256": ""}}),
    "one tensor more": edit_tensors(lambda t: t.update(more=torch.zeros(1))),
    "no number": edit_tensors(lambda t: t["head.weight.values"][0].fill_(torch.nan)),
    "a bias without an end": edit_tensors(lambda t: t["head.bias"][0].fill_(torch.inf)),
    "a bias too long": edit_tensors(lambda t: t.update({"head.bias": torch.zeros(4)})),
    "much too large": edit_tensors(lambda t: t.update({"head.bias": torch.zeros(10**6)})),
    "deep json": lambda me: (me / JSON).write_text("[" * 100_000),
    "a long number": lambda me: (me / JSON).write_text("1" * 10_000),
    "a pipe for json": lambda me: ((me / JSON).unlink(), os.mkfifo(me / JSON)),
    "a device for tensors": lambda me: (
        (me / TENSORS).unlink(),
        (me / TENSORS).symlink_to("/dev/zero"),
    ),
    "a link out of the folder": lambda me: (
        (me / TENSORS).rename(me.parent / "other"),
        (me / TENSORS).symlink_to(me.parent / "other"),
    ),
    "a folder for json": lambda me: ((me / JSON).unlink(), (me / JSON).mkdir()),
    "values of another type": edit_tensors(
        lambda t: t.update({"head.weight.values": t["head.weight.values"].double()})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told(base: nn.Module, me: Path, damage: str) -> None:
    DAMAGE[damage](me)
    before = fingerprint(base)
    with pytest.raises(FinepruningError) as error:
        finepruning.load(me, base)
    message = str(error.value)
    assert message.startswith(str(me))
    assert "; " in message
    assert "\n" not in message
    assert fingerprint(base) == before


def test_a_bias_of_another_shape_is_told(tmp_path: Path) -> None:
    base = Net(bias=True)
    personalize(base, X).save(tmp_path / "me")
    edit_tensors(lambda t: t.update({"head.bias": t["head.bias"][:2].clone()}))(tmp_path / "me")
    with pytest.raises(FinepruningError, match="damaged"):
        finepruning.load(tmp_path / "me", base)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_bit_counts(saved: tuple[Path, nn.Module], data: st.DataObject) -> None:
    me, base = saved
    file = me / data.draw(st.sampled_from([JSON, TENSORS]))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "less"]))
    other = bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))])
    damaged = {
        "flip": whole[:at] + other + whole[at + 1 :],
        "cut": whole[:at],
        "more": whole[:at] + other + whole[at:],
        "less": whole[:at] + whole[at + 1 :],
    }[kind]
    try:
        file.write_bytes(damaged)
        with pytest.raises(FinepruningError):
            finepruning.load(me, base)
    finally:
        file.write_bytes(whole)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    me, base = tmp_path_factory.mktemp("saved") / "me", Net()
    personalize(base, X, effort="fast").save(me)
    return me, base


def test_of_two_people_nothing_is_mixed(tmp_path: Path) -> None:
    base = Net()
    for name, x in (("one", X), ("two", X + 1)):
        personalize(base, x).save(tmp_path / name)
    for name in (JSON, TENSORS):
        mixed = tmp_path / f"mixed {name}"
        shutil.copytree(tmp_path / "one", mixed)
        shutil.copy(tmp_path / "two" / name, mixed / name)
        with pytest.raises(FinepruningError, match="damaged"):
            finepruning.load(mixed, base)


def test_a_key_seals_it(tmp_path: Path) -> None:
    base, me = Net(), tmp_path / "me"
    result = personalize(base, X)
    result.save(me, key=b"secret")
    assert same_bits(finepruning.load(me, base, key=b"secret"), result.model)
    for key, why in ((None, "sealed with a key; give it"), (b"guess", "with another key; give")):
        with pytest.raises(FinepruningError, match=why):
            finepruning.load(me, base, key=key)
    reseal(me)  # who does not know the key can make a digest, but not that one
    with pytest.raises(FinepruningError, match="damaged, or sealed with another key"):
        finepruning.load(me, base, key=b"secret")
    reseal(me, seal="sha256")
    with pytest.raises(FinepruningError, match="not sealed with a key; load it without"):
        finepruning.load(me, base, key=b"secret")


def test_format_1_still_loads(tmp_path: Path) -> None:
    base, me = Net(), tmp_path / "me"
    result = personalize(base, X)
    result.save(me)
    about = json.loads((me / JSON).read_text())
    for new in ("digest", "seal", "written", "versions", "files"):
        del about[new]
    (me / JSON).write_text(json.dumps(about | {"format": 1}, indent=1) + "\n")
    assert same_bits(finepruning.load(me, base), result.model)
    assert finepruning.read_report(me) == about["report"]
    with pytest.raises(FinepruningError, match="no seal"):
        finepruning.load(me, base, key=b"secret")


def test_a_reader_while_one_writes(tmp_path: Path) -> None:
    base, me = Net(), tmp_path / "me"
    results = [personalize(base, X + i, effort="fast") for i in range(2)]
    results[0].save(me)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for result in results:
                result.save(me, replace=True)

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            for _ in range(30):
                loaded = finepruning.load(me, base)
                assert any(same_bits(loaded, r.model) for r in results)
        finally:
            stop.set()
        writing.result()


@pytest.mark.parametrize("damage", ["no json", "garbage json", "later format", "no report"])
def test_damage_is_told_by_inspection(me: Path, damage: str) -> None:
    DAMAGE[damage](me)
    with pytest.raises(FinepruningError) as error:
        finepruning.read_report(me)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.a.weight.data.view(-1)[0].mul_(1.0001),
        lambda m: m.norm.bias.data.add_(1e-6),
        lambda m: m.double(),
        lambda m: m.add_module("more", nn.Linear(1, 1)),
        lambda m: m.register_buffer("more", torch.zeros(1)),
    ],
)
def test_another_base_is_told(me: Path, change: Callable[[nn.Module], object]) -> None:
    other = Net()
    change(other)
    with pytest.raises(FinepruningError, match="another base model; load the weights") as error:
        finepruning.load(me, other)
    assert "\n" not in str(error.value)
