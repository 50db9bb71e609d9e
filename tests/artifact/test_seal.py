"""A digest that begins the file it is of, and files that are read only where they are files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finepruning import FinepruningError
from finepruning.artifact.seal import HEAD, ZEROS, has_digest, is_whole, read_file, sealed

KEYS = st.none() | st.binary(min_size=1, max_size=40)


@given(st.binary(max_size=200), KEYS, KEYS, st.data())
def test_every_bit_counts(
    rest: bytes, key: bytes | None, other: bytes | None, data: st.DataObject
) -> None:
    text = sealed(HEAD + ZEROS + rest, key)
    assert has_digest(text)
    assert is_whole(text, key)
    # HMAC fills a key with zeros up to the size of a block.
    same = key is not None and other is not None and key.rstrip(b"\0") == other.rstrip(b"\0")
    assert is_whole(text, other) == (key == other or same)
    at = data.draw(st.integers(len(HEAD), len(text) - 1))
    bit = bytes([text[at] ^ (1 << data.draw(st.integers(0, 7)))])
    assert not is_whole(text[:at] + bit + text[at + 1 :], key)


def test_what_begins_otherwise_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="does not begin"):
        sealed(b"{}")


def test_a_file_is_read_as_far_as_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(FinepruningError, match="5 bytes, and no more than 4 can belong there;"):
        read_file(tmp_path / "file", 4)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "nothing"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    {
        "pipe": lambda: os.mkfifo(file),
        "link": lambda: file.symlink_to("/dev/zero"),
        "folder": file.mkdir,
        "nothing": lambda: None,
    }[kind]()
    said = "no ordinary file|symbolic|No such|directory"
    with pytest.raises(OSError, match=said):
        read_file(file, 10)
