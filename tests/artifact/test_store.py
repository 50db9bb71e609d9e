"""A bank at a location that fsspec knows: the same as in a folder, whoever writes meanwhile."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from torch import nn

from finepruning import Bank, FinepruningError, Result
from finepruning.artifact import store
from finepruning.artifact.fingerprint import fingerprint
from finepruning.artifact.layout import JSON, TENSORS
from saved import X, same_bits
from unchecked import personalize

FILES = fsspec.filesystem("memory")


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/people"


@pytest.fixture
def results(base: nn.Module) -> list[Result]:
    return [personalize(base, X + i, sparsity=0.6) for i in range(2)]


@pytest.mark.parametrize("key", [None, b"secret"])
def test_as_in_a_folder(
    url: str, base: nn.Module, results: list[Result], tmp_path: Path, key: bytes | None
) -> None:
    bank = Bank(url + "/", base, cache=1, key=key)
    assert bank.folder == url
    assert [*bank] == []
    bank.add("user-0", results[0])
    results[1].save(tmp_path / "me", key=key)
    bank.add("user-1", tmp_path / "me")
    assert [*bank] == ["user-0", "user-1"]
    assert len(bank) == 2
    assert "user-1" in bank
    assert "../people" not in bank
    assert bank.verify() == {}
    assert bank.about("user-0")["report"]["sparsity"] == results[0].report.sparsity
    model, before = copy.deepcopy(base), fingerprint(base)
    for i in (0, 1, 1, 0):
        bank.activate(model, f"user-{i}")
        assert same_bits(model, results[i].model)
        assert same_bits(bank.load(f"user-{i}"), results[i].model)
    bank.deactivate(model)
    assert fingerprint(model) == before
    with pytest.raises(FinepruningError, match=r"people/user-0: exists already; remove it first"):
        bank.add("user-0", results[1])
    bank.add("user-0", results[1], replace=True)
    bank.add("user-2", results[0], replace=True)
    assert same_bits(bank.load("user-0"), results[1].model)
    assert len(FILES.ls(url + "/user-0")) == len(FILES.ls(url + "/user-2"))
    bank.remove("user-1")
    assert [*bank] == ["user-0", "user-2"]
    assert bank.gc() == 0
    with pytest.raises(FinepruningError, match="nobody is called 'user-1' there"):
        bank.activate(model, "user-1")


def test_what_a_killed_writer_left_is_nobody(
    url: str, base: nn.Module, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(url, base)
    bank.add("user-0", results[0])

    class Killed(BaseException):
        pass

    def put(this: Any, here: str, there: str) -> None:
        if there.endswith(JSON):
            raise Killed
        whole(here, there)

    whole = FILES.put_file
    for user, replace in (("user-1", False), ("user-0", True)):
        with monkeypatch.context() as patched:
            patched.setattr(type(FILES), "put_file", put)
            with pytest.raises(Killed):
                bank.add(user, results[1], replace=replace)
    assert [*bank] == ["user-0"]
    assert same_bits(bank.load("user-0"), results[0].model)
    assert bank.gc() == 1
    assert FILES.ls(url, detail=False) == [FILES._strip_protocol(url + "/user-0")]
    bank.add("user-1", results[1])
    assert same_bits(bank.load("user-1"), results[1].model)


def test_an_artifact_that_is_replaced_while_it_is_read(
    url: str, base: nn.Module, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(url, base)
    bank.add("user-0", results[0])
    get, reads = type(FILES).get_file, [0]

    def replaced(this: Any, path: str, to: str, **more: Any) -> None:
        reads[0] += 1
        get(this, path, to, **more)
        if reads[0] == 1:
            bank.add("user-0", results[1], replace=True)

    monkeypatch.setattr(type(FILES), "get_file", replaced)
    assert same_bits(bank.load("user-0"), results[1].model)


def _cut(url: str) -> None:
    data = FILES.cat_file(f"{url}/me/{TENSORS}")
    FILES.pipe_file(f"{url}/me/{TENSORS}", data[:-1])


def _longer(url: str) -> None:
    data = FILES.cat_file(f"{url}/me/{TENSORS}")
    FILES.pipe_file(f"{url}/me/{TENSORS}", data + b"x")


def _gone(url: str) -> None:
    FILES.rm(f"{url}/me/{TENSORS}")


@pytest.mark.parametrize(
    ("harm", "why"),
    [(_cut, "damaged"), (_longer, "no more than .* can belong there"), (_gone, "FileNotFound")],
)
def test_damage_is_told(
    url: str, base: nn.Module, results: list[Result], harm: Callable[[str], None], why: str
) -> None:
    bank = Bank(url, base)
    bank.add("me", results[0])
    harm(url)
    with pytest.raises(FinepruningError, match=why):
        bank.activate(copy.deepcopy(base), "me")
    assert [*bank.verify()] == ["me"]


def test_a_place_that_cannot_be_reached() -> None:
    with pytest.raises(FinepruningError, match="nowhere://bucket/people: cannot be reached"):
        Bank("nowhere://bucket/people")
    with pytest.raises(FinepruningError, match="s3://: names no location"):
        Bank("s3://")


def test_a_bank_of_its_own_kind_wherever_it_is(tmp_path: Path) -> None:
    assert isinstance(store.store_at(tmp_path / "a"), store.Folder)
    assert isinstance(store.store_at(str(tmp_path / "b")), store.Folder)
    (tmp_path / "c").write_text("")
    with pytest.raises(FinepruningError, match="cannot be a bank"):
        store.store_at(tmp_path / "c")
