"""A reader written from docs/format.md alone, with nothing of the package, reads the same."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from finepruning import Result, personalize
from saved import Net, X

DTYPES = {"U8": np.uint8, "F32": np.float32, "I64": np.int64, "F64": np.float64}


def safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Little-endian size of the header, the header as JSON, the bytes."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*of["data_offsets"])], DTYPES[of["dtype"]]).reshape(
            of["shape"]
        )
        for name, of in header.items()
        if name != "__metadata__"
    }


def read(folder: Path, key: bytes | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    text = (folder / "finepruning.json").read_bytes()
    start = len(b'{\n "digest": "')
    zeros = text[:start] + b"0" * 64 + text[start + 64 :]
    digest = hashlib.sha256(zeros) if key is None else hmac.new(key, zeros, "sha256")
    assert digest.hexdigest().encode() == text[start : start + 64]
    about = json.loads(text)
    of = about["files"]["personal"]
    data = (folder / of["name"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (of["bytes"], of["sha256"])
    return about, safetensors(data)


def base_hash(model: nn.Module, moving: list[str]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        unread = name.rpartition(".")[2] in ("num_batches_tracked", "masked_spec_embed")
        if name not in moving and not unread:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("key", [None, b"secret"])
def test_the_page_is_enough(
    tmp_path: Path, base: nn.Module, result: Result, key: bytes | None
) -> None:
    result.save(tmp_path / "me", key=key)
    about, tensors = read(tmp_path / "me", key)
    assert about["format"] == 2
    assert about["base"] == base_hash(base, about.get("moving", []))
    state = {n: v.numpy().copy() for n, v in base.state_dict().items()}
    for name in about["pruned"]:
        bits = np.unpackbits(tensors.pop(f"{name}.mask"), count=state[name].size).astype(bool)
        flat = np.zeros(state[name].size, state[name].dtype)
        flat[bits] = tensors.pop(f"{name}.values")
        state[name] = flat.reshape(state[name].shape)
    state |= {name: tensors.pop(name) for name in about["changed"]}
    assert not tensors
    expected = result.model.state_dict()
    for name in expected:
        stored = "a." + name[2:] if name.startswith("b.") else name  # the two share theirs
        assert np.array_equal(state[stored], expected[name].numpy()), name


def test_after_a_replacement(tmp_path: Path, result: Result) -> None:
    result.save(tmp_path / "me")
    for name in ("personal-1.safetensors", "personal.safetensors"):
        personalize(Net(), X + 1).save(tmp_path / "me", replace=True)
        about, _ = read(tmp_path / "me", None)
        assert about["files"]["personal"]["name"] == name
        assert len([*(tmp_path / "me").iterdir()]) == 3
