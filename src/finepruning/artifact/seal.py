"""Every bit counts: files read without following links, and a digest over what they hold.

The JSON begins with its own digest: SHA-256, or HMAC-SHA-256 with a key, over its bytes with 64
zeros in the place of the digest. It holds the sizes and digests of the other files.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .._errors import FinepruningError

HEAD, ZEROS = b'{\n "digest": "', b"0" * 64
JSON_BYTES = 2**24
"""More of it is not read: no artifact of ours comes near."""


def sealed(text: bytes, key: bytes | None = None) -> bytes:
    """``text``, which begins with a digest of zeros, with the right one.

    >>> sealed(HEAD + ZEROS + b'"}')[14:20]
    b'83db4e'
    """
    start = len(HEAD)
    if text[: start + 64] != HEAD + ZEROS:
        raise ValueError("the text does not begin with a digest of zeros")
    return HEAD + _digest(text, key) + text[start + 64 :]


def has_digest(text: bytes) -> bool:
    """Whether it begins with a digest."""
    return text.startswith(HEAD)


def is_whole(text: bytes, key: bytes | None = None) -> bool:
    """Whether the digest that ``text`` begins with is that of the rest."""
    start = len(HEAD)
    with_zeros = HEAD + ZEROS + text[start + 64 :]
    return hmac.compare_digest(text[start : start + 64], _digest(with_zeros, key))


def _digest(text: bytes, key: bytes | None) -> bytes:
    found = hashlib.sha256(text) if key is None else hmac.new(key, text, hashlib.sha256)
    return found.hexdigest().encode()


def digest_of(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_file(file: Path) -> BinaryIO:
    """A file to be read. Raises :class:`OSError` where it is a link, a device or a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    stream = open(file, "rb", opener=lambda path, _: os.open(path, flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{file.name} is no ordinary file")
    return stream


def read_file(file: Path, most: int) -> bytes:
    """A file's bytes, as :func:`open_file` opens it. Raises :class:`FinepruningError` where it
    holds more than ``most``."""
    with open_file(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise FinepruningError(
                f"{file}: {size:,} bytes, and no more than {most:,} can belong there;"
                " take an artifact from whom you trust"
            )
        return stream.read(size)  # not so many as may be: room for these would be asked for
