"""Many people over one base: in place and back, bit for bit, whatever happens meanwhile."""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import finepruning
from finepruning import Bank, FinepruningError, Result
from finepruning.artifact.aside import PREFIX
from finepruning.artifact.fingerprint import fingerprint
from finepruning.artifact.layout import JSON
from saved import Net, X, same_bits
from unchecked import personalize


@pytest.fixture
def results(base: nn.Module) -> list[Result]:
    return [personalize(base, X + i, sparsity=0.6) for i in range(3)]


@pytest.fixture
def bank(tmp_path: Path, base: nn.Module, results: list[Result]) -> Bank:
    bank = Bank(tmp_path / "bank", base)
    for i, result in enumerate(results):
        bank.add(f"user-{i}", result)
    return bank


def test_who_is_there(bank: Bank, tmp_path: Path, results: list[Result]) -> None:
    assert [*bank] == ["user-0", "user-1", "user-2"]
    assert len(bank) == 3
    assert "user-1" in bank
    assert "nobody" not in bank
    assert "../bank" not in bank
    bank.remove("user-1")
    assert [*bank] == ["user-0", "user-2"]
    results[1].save(tmp_path / "elsewhere")
    bank.add("user-1", tmp_path / "elsewhere")
    assert same_bits(bank.load("user-1"), results[1].model)
    assert bank.verify() == {}
    assert {f.name for f in bank.folder.iterdir()} == {*bank}


@pytest.mark.parametrize("cache", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_in_place_and_back(tmp_path: Path, bias: bool, cache: int) -> None:
    base = Net(bias)
    results = [personalize(base, X + i, sparsity=0.6) for i in range(3)]
    model = copy.deepcopy(base)
    parameters = {id(p) for p in model.parameters()}
    bank = Bank(tmp_path, base, cache=cache)
    for i, result in enumerate(results):
        bank.add(f"user-{i}", result)
    before = fingerprint(model)
    for i in (0, 1, 1, 2, 0):
        bank.activate(model, f"user-{i}")
        assert same_bits(model, results[i].model)
        assert parameters <= {id(p) for p in model.parameters()}
    bank.deactivate(model)
    bank.deactivate(model)  # and nothing where it is the base
    assert fingerprint(model) == before
    assert len(bank._held) == cache


@pytest.mark.parametrize("kind", ["spectral", "weight"])
def test_weights_that_are_computed(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    wrap = getattr(parametrizations, f"{kind}_norm")
    base = nn.Sequential(wrap(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(32, 6)
    result = personalize(base, x, sparsity=0.5)
    outputs, before = base(x), fingerprint(base)
    bank = Bank(tmp_path, base)
    bank.add("me", result)
    bank.activate(base, "me")
    assert torch.equal(base(x), result.model(x))
    bank.deactivate(base)
    assert fingerprint(base) == before
    assert torch.equal(base(x), outputs)
    assert type(base[0]) is not nn.Linear


def test_two_banks_and_one_model(
    tmp_path: Path, bank: Bank, base: nn.Module, results: list[Result]
) -> None:
    before = fingerprint(base)
    other = Bank(tmp_path / "other", base, cache=1)
    other.add("she", results[2])
    for _ in range(2):
        bank.activate(base, "user-0")
        other.activate(base, "she")
        assert same_bits(base, results[2].model)
    bank.deactivate(base)
    assert fingerprint(base) == before


def test_damage_leaves_the_base(bank: Bank, base: nn.Module) -> None:
    before = fingerprint(base)
    file = bank.folder / "user-1" / "personal.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    bank.activate(base, "user-0")
    with pytest.raises(FinepruningError, match="damaged"):
        bank.activate(base, "user-1")
    assert fingerprint(base) == before
    assert [*bank.verify()] == ["user-1"]
    other = Net(bias=True).double()
    with pytest.raises(FinepruningError, match="another base"):
        bank.activate(other, "user-0")


@pytest.mark.parametrize("cache", [0, 3])
def test_another_base_is_told_whatever_is_in_memory(
    tmp_path: Path, base: nn.Module, results: list[Result], cache: int
) -> None:
    bank = Bank(tmp_path, base, cache=cache)
    bank.add("me", results[0])
    model, other = copy.deepcopy(base), copy.deepcopy(base)
    bank.activate(model, "me")
    other.head.weight.data[0, 0] += 1  # type: ignore[operator, union-attr, index]
    with pytest.raises(FinepruningError, match="another base"):
        bank.activate(other, "me")
    bank.deactivate(model)
    with torch.no_grad():  # and where it is trained on, or loaded anew, meanwhile
        model.head.weight[0, 0] += 1  # type: ignore[operator, union-attr, index]
    with pytest.raises(FinepruningError, match="another base"):
        bank.activate(model, "me")


def test_nothing_but_the_artifact_is_copied(
    bank: Bank, tmp_path: Path, results: list[Result]
) -> None:
    me = tmp_path / "me"
    results[0].save(me)
    (me / "link").symlink_to("/etc/passwd")
    os.mkfifo(me / "pipe")
    bank.add("new", me)
    assert {f.name for f in (bank.folder / "new").iterdir()} == {
        f.name for f in (bank.folder / "user-0").iterdir()
    }
    (me / "personal.safetensors").unlink()
    os.mkfifo(me / "personal.safetensors")
    with pytest.raises(FinepruningError, match="no ordinary file"):
        bank.add("newer", me)
    assert "newer" not in bank


def test_names(bank: Bank, results: list[Result]) -> None:
    for name in ("", ".", "..", "a/b", ".hidden", "x" * 128, "a\n", "-x", "\x1b[2J"):
        with pytest.raises(FinepruningError, match="no name for a person; give") as error:
            bank.add(name, results[0])
        assert "\n" not in str(error.value)
        assert name not in bank
    for name in ("user@example.com", "0042", "a_b-c+d"):
        bank.add(name, results[0])
        assert name in bank


def test_what_cannot_be(bank: Bank, tmp_path: Path, base: nn.Module) -> None:
    for what in (bank.remove, bank.load):
        with pytest.raises(FinepruningError, match="nobody is called 'nobody' there"):
            what("nobody")
    with pytest.raises(FinepruningError, match="exists already"):
        bank.add("user-0", bank.folder / "user-1")
    with pytest.raises(FinepruningError, match="not a finepruning artifact"):
        bank.add("new", tmp_path)
    with pytest.raises(FinepruningError, match=r"base: none was given; Bank\(folder, base\)"):
        Bank(bank.folder).load("user-0")
    (tmp_path / "file").write_text("")
    with pytest.raises(FinepruningError, match="cannot be a bank"):
        Bank(tmp_path / "file", base)


def test_what_was_left_goes(bank: Bank) -> None:
    (bank.folder / f"{PREFIX}left").mkdir()
    (bank.folder / "user-0" / f"{PREFIX}left").mkdir()
    assert [*bank] == ["user-0", "user-1", "user-2"]
    assert bank.gc() == 2
    assert bank.gc() == 0
    assert bank.verify() == {}


def test_a_key(tmp_path: Path, base: nn.Module, results: list[Result]) -> None:
    bank = Bank(tmp_path, base, key=b"secret")
    bank.add("me", results[0])
    assert bank.verify() == {}
    assert same_bits(bank.load("me"), results[0].model)
    assert [*Bank(tmp_path).verify()] == ["me"]


def test_readers_while_one_writes(bank: Bank, base: nn.Module, results: list[Result]) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for result in results:
                bank.add("user-0", result, replace=True)

    def read() -> int:
        model = copy.deepcopy(base)
        for _ in range(15):
            bank.activate(model, "user-0")
            assert any(same_bits(model, r.model) for r in results)
        bank.deactivate(model)
        assert fingerprint(model) == fingerprint(base)
        return 1

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            reading = [pool.submit(read) for _ in range(2)]
            assert sum(r.result() for r in reading) == 2
        finally:
            stop.set()
        writing.result()


def test_a_bank_is_folders_alone(bank: Bank, base: nn.Module, tmp_path: Path) -> None:
    shutil.copytree(bank.folder, tmp_path / "copy")
    for name in bank:
        one = finepruning.load(tmp_path / "copy" / name, base)
        assert same_bits(one, bank.load(name))


def test_an_artifact_of_the_first_format_is_one_too(
    tmp_path: Path, base: nn.Module, results: list[Result]
) -> None:
    me = tmp_path / "me"
    results[0].save(me)
    about = json.loads((me / JSON).read_text())
    kept = {k: v for k, v in about.items() if k not in ("digest", "seal", "files")}
    (me / JSON).write_text(json.dumps(kept | {"format": 1}))
    bank = Bank(tmp_path / "bank", base)
    bank.add("me", me)
    assert bank.verify() == {}
    assert same_bits(bank.load("me"), results[0].model)
