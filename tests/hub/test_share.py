"""To a hub and back: the same bits, a card that says what it is, and nothing of the person's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finepruning import FinepruningError, Result, load, pull, push
from finepruning.artifact.layout import JSON, STATISTICS, TENSORS
from hubserver import Hub, hub
from saved import Net, X, same_bits
from unchecked import personalize

REPO = "ann/resnet-ann"
SOURCE = {"model": "/home/ann/nets.py:net", "weights": "/home/ann/w.pt", "resize": 8}


@pytest.fixture(scope="module")
def result() -> Result:
    return personalize(Net(), X, sparsity=0.6)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub() as made:
        yield made


@pytest.mark.parametrize("key", [None, b"secret"])
def test_there_and_back(tmp_path: Path, there: Hub, result: Result, key: bytes | None) -> None:
    me, back = tmp_path / "me", tmp_path / "back"
    result.save(me, source=SOURCE, key=key)
    before = {file.name: file.read_bytes() for file in me.iterdir()}
    assert STATISTICS in before
    address = push(me, REPO, key=key, endpoint=there.url, token="hf_x")
    assert address == f"{there.url}/{REPO}"
    assert there.visibility == {REPO: "private"}
    assert {*there.files[REPO]} == {JSON, TENSORS, "README.md"}
    assert before == {file.name: file.read_bytes() for file in me.iterdir()}
    about = json.loads(there.files[REPO][JSON])
    assert about["source"] == {"model": "nets.py:net", "weights": "w.pt", "resize": 8}
    shown = there.files[REPO]["README.md"].decode()
    assert shown.startswith("---\nlibrary_name: finepruning\n")
    assert "/home" not in shown
    assert f"finepruning pull {REPO} me/" in shown
    pull(REPO, back, key=key, endpoint=there.url, token="hf_x")
    assert same_bits(load(back, Net(), key=key), result.model)
    assert {file.name for file in back.iterdir()} == {JSON, TENSORS}
    with pytest.raises(FinepruningError, match="back: exists already"):
        pull(REPO, back, key=key, endpoint=there.url, token="hf_x")
    if key is not None:
        with pytest.raises(FinepruningError, match="key"):
            pull(REPO, tmp_path / "other", key=b"other", endpoint=there.url, token="hf_x")


def test_again_takes_the_place_of_what_is_there(tmp_path: Path, there: Hub, result: Result) -> None:
    result.save(tmp_path / "me", source={"model": "google/vit"})
    personalize(Net(), X + 1, sparsity=0.6).save(tmp_path / "me", replace=True)
    for _ in range(2):
        push(tmp_path / "me", REPO, endpoint=there.url, token="hf_x", private=False)
    result.save(tmp_path / "two", source={"model": "google/vit"})
    push(tmp_path / "two", REPO, endpoint=there.url, token="hf_x", private=False)
    assert {*there.files[REPO]} == {JSON, TENSORS, "README.md"}
    assert b"base_model: google/vit\n" in there.files[REPO]["README.md"]
    pull(REPO, tmp_path / "back", endpoint=there.url, token="hf_x")
    assert same_bits(load(tmp_path / "back", Net()), result.model)


def test_what_goes_wrong_is_told_in_one_line(
    tmp_path: Path, there: Hub, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(FinepruningError, match="ann/nothing: the hub cannot be used"):
        pull("ann/nothing", out, endpoint=there.url, token="hf_x")
    there.files["ann/other"] = {"config.json": b"{}"}
    with pytest.raises(FinepruningError, match="ann/other: holds no artifact"):
        pull("ann/other", out, endpoint=there.url, token="hf_x")
    result.save(tmp_path / "me")
    push(tmp_path / "me", REPO, endpoint=there.url, token="hf_x")
    there.files[REPO][TENSORS] = there.files[REPO][TENSORS][:-1] + b"x"
    with pytest.raises(FinepruningError, match="damaged"):
        pull(REPO, out, endpoint=there.url, token="hf_x")
    assert not out.exists()
    (tmp_path / "me" / TENSORS).write_bytes(b"x")
    with pytest.raises(FinepruningError, match="damaged"):
        push(tmp_path / "me", REPO, endpoint=there.url, token="hf_x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FinepruningError, match="pip install huggingface_hub"):
        pull(REPO, out)


def test_an_artifact_of_the_first_format_goes_without_paths_too(
    tmp_path: Path, there: Hub, result: Result
) -> None:
    me = tmp_path / "me"
    result.save(me, source=SOURCE)
    about = json.loads((me / JSON).read_text())
    kept = {k: v for k, v in about.items() if k not in ("digest", "seal", "files")}
    (me / JSON).write_text(json.dumps(kept | {"format": 1}))
    push(me, REPO, endpoint=there.url, token="hf_x")
    assert not any(b"/home" in data for data in there.files[REPO].values())
    pull(REPO, tmp_path / "back", endpoint=there.url, token="hf_x")
    assert same_bits(load(tmp_path / "back", Net()), result.model)
