"""A sealed folder: JSON that says what it is, and the digests of the safetensors files beside it.

It is written aside and put in place, all or nothing, also where the process is killed. To replace
one, new files are written beside the old under the other of two names each; then the JSON, which
names them, is put in the place of the old: from that moment on it is the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from .._version import __version__
from .aside import aside
from .seal import JSON_BYTES, ZEROS, digest_of, has_digest, is_whole, read_file, sealed

if TYPE_CHECKING:
    from torch import Tensor

DATE = "%Y-%m-%dT%H:%M:%SZ"
PLAIN, KEYED = "sha256", "hmac-sha256"


HEADER = 1024
"""Bytes of a safetensors header that one tensor takes at most, beside its name; and those of the
file that take none."""


def names_of(part: str) -> tuple[str, str]:
    """What the file of a part may be called."""
    return f"{part}.safetensors", f"{part}-1.safetensors"


def write_folder(
    out: Path,
    name: str,
    about: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    key: bytes | None = None,
    private: Collection[str] = (),
    before: Mapping[str, Any] | None = None,
) -> None:
    """Write ``parts``, tensors by name, and ``about`` as the JSON file ``name``, at ``out``.

    ``private`` parts are their owner's alone; ``before`` is what the JSON of the folder that is
    there says, which is replaced. Raises :class:`FinepruningError` where it cannot be written.
    """
    import safetensors.torch  # heavy, and only those who write need it

    old = {of["name"] for of in (before or {}).get("files", {}).values()}
    old |= {names_of(part)[0] for part in parts if before is not None and "files" not in before}
    try:
        with aside(out.absolute().parent if before is None else out) as folder:
            files: dict[str, Any] = {}
            for part, tensors in parts.items():
                file = folder / next(n for n in names_of(part) if n not in old)
                safetensors.torch.save_file(dict(tensors), file)
                if part not in private:
                    os.chmod(file, 0o666 & ~_umask())
                size = file.stat().st_size
                files[part] = {"name": file.name, "bytes": size, "sha256": digest_of(file)}
            text = {
                "digest": ZEROS.decode(),
                "seal": PLAIN if key is None else KEYED,
                "written": time.strftime(DATE, time.gmtime()),
                "versions": {
                    "finepruning": __version__,
                    "torch": version("torch"),
                    "python": platform.python_version(),
                },
                **about,
                "files": files,
            }
            (folder / name).write_bytes(sealed(f"{json.dumps(text, indent=1)}\n".encode(), key))
            os.chmod(folder / name, 0o666 & ~_umask())
            _to_disk(folder)
            if before is None:
                os.chmod(folder, 0o777 & ~_umask())  # mkdtemp's is its owner's alone
                os.rename(folder, out)
            else:
                _commit(folder, out, name, parts, before)
    except (OSError, safetensors.SafetensorError) as error:
        raise FinepruningError(
            f"{out}: cannot be written ({error}); free some space or give another place"
        ) from error


def _commit(
    folder: Path, out: Path, name: str, parts: Collection[str], before: Mapping[str, Any]
) -> None:
    new = [file.name for file in folder.iterdir() if file.name != name]
    for file in [*new, name]:
        os.replace(folder / file, out / file)
    for part in {*parts, *before.get("files", ("personal", "statistics"))}:
        for file in {*names_of(part)} - {*new}:
            (out / file).unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def read_json(file: Path, formats: Collection[int], key: bytes | None = None) -> dict[str, Any]:
    """What the JSON ``file`` says; of format 1 there may be some without a digest.

    Raises :class:`OSError` or :class:`ValueError` where it is no JSON, and
    :class:`FinepruningError` where it is of none of ``formats``, damaged, or was not sealed with
    ``key``.
    """
    text = read_file(file, JSON_BYTES)
    try:
        about = json.loads(text)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(about, dict) or about.get("format") not in formats:
        raise FinepruningError(
            f"{file}: not of format {max(formats)}; load it with the version that wrote it"
        )
    if about["format"] == 1:
        if has_digest(text) or key is not None:
            raise damaged(file, "format 1 has no seal")
        return about
    keyed = about.get("seal") == KEYED
    if keyed and key is None:
        raise FinepruningError(f"{file}: sealed with a key; give it")
    if key is not None and not keyed:
        raise FinepruningError(f"{file}: not sealed with a key; load it without one")
    if not has_digest(text) or not is_whole(text, key):
        if keyed:
            raise FinepruningError(f"{file}: damaged, or sealed with another key; give that key")
        raise damaged(file, "its digest is another")
    files = about.get("files")
    if not isinstance(files, dict):
        raise damaged(file, "no 'files'")
    for part, of in files.items():
        if not (
            isinstance(of, dict)
            and of.get("name") in names_of(part)
            and isinstance(of.get("bytes"), int)
            and re.fullmatch("[0-9a-f]{64}", str(of.get("sha256")))
            and re.fullmatch("[a-z]+", part)
        ):
            raise damaged(file, f"files, {part!r}")
    return about


def file_of(folder: Path, about: Mapping[str, Any], part: str) -> Path | None:
    """Where a part lies; None: there is none."""
    if about["format"] == 1:
        return folder / names_of(part)[0]
    files = about["files"]
    return folder / files[part]["name"] if part in files else None


def read_tensors(folder: Path, about: Mapping[str, Any], part: str, most: int) -> dict[str, Tensor]:
    """The tensors of a part, of ``most`` bytes at most. Raises :class:`FinepruningError` where
    they are not those that were written."""
    import safetensors.torch

    file = file_of(folder, about, part)
    if file is None:
        raise damaged(folder, f"no {part!r}")
    try:
        data = read_file(file, most)
        if about["format"] > 1:
            said = about["files"][part]
            if len(data) != said["bytes"] or hashlib.sha256(data).hexdigest() != said["sha256"]:
                raise ValueError(f"{file.name} is not the file that was saved")
        return safetensors.torch.load(data)
    except FinepruningError:
        raise
    except Exception as error:  # whatever a hostile one comes up with
        raise damaged(folder, error) from error


def damaged(path: str | os.PathLike[str], why: object) -> FinepruningError:
    """The error that says so in one line."""
    return FinepruningError(
        f"{Path(path)}: damaged artifact ({' '.join(str(why).split())}); personalise anew"
    )
