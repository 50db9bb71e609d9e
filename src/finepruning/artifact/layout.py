"""What lies in an artifact's folder, and the reading of the part that needs no network.

``finepruning.json`` says what it is and which base it fits, and holds the digests of the other
files; ``personal.safetensors`` holds, for each pruned weight ``NAME``, ``NAME.mask`` (uint8, one
bit a weight, most significant first, in memory order) and ``NAME.values`` (the weights that stay,
in the same order), and each changed bias as it is. ``statistics.safetensors`` is what is kept of
the person's samples for later updates: it stays with the person, and everything else works without
it. No pickle. ``docs/format.md`` has all of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from .aside import aside
from .seal import JSON_BYTES, has_digest, is_whole, read_file

FORMAT = 2
JSON, TENSORS = "finepruning.json", "personal.safetensors"
STATISTICS = "statistics.safetensors"
NAMES = {
    "personal": (TENSORS, "personal-1.safetensors"),
    "statistics": (STATISTICS, "statistics-1.safetensors"),
}
"""What each file may be called: a new one is written beside the old, then the JSON names it."""


def read_about(path: str | os.PathLike[str], key: bytes | None = None) -> dict[str, Any]:
    """The artifact's JSON. Raises :class:`FinepruningError` where it is none, damaged, of another
    format, or was not sealed with ``key``."""
    file = Path(path, JSON)
    try:
        text = read_file(file, JSON_BYTES)
        about = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise FinepruningError(
            f"{Path(path)}: not a finepruning artifact ({file.name} cannot be read);"
            " give the folder that personalize wrote"
        ) from error
    if not isinstance(about, dict) or about.get("format") not in (1, FORMAT):
        raise FinepruningError(
            f"{file}: not of format {FORMAT}; load it with the version that wrote it"
        )
    if about["format"] == FORMAT:
        _check_seal(file, text, about, key)
    elif has_digest(text) or key is not None:
        raise FinepruningError(f"{file}: damaged artifact (format 1 has no seal); personalise anew")
    wrong = _wrong(about)
    if wrong:
        raise FinepruningError(f"{file}: damaged artifact ({wrong}); personalise anew")
    return about


def _check_seal(file: Path, text: bytes, about: dict[str, Any], key: bytes | None) -> None:
    keyed = about.get("seal") == "hmac-sha256"
    if keyed and key is None:
        raise FinepruningError(f"{file}: sealed with a key; give it")
    if key is not None and not keyed:
        raise FinepruningError(f"{file}: not sealed with a key; load it without one")
    if not has_digest(text) or not is_whole(text, key):
        why = "damaged artifact (its digest is another); personalise anew"
        if keyed:
            why = "damaged, or sealed with another key; give that key"
        raise FinepruningError(f"{file}: {why}")


def _wrong(about: dict[str, Any]) -> str:
    """What is not as it has to be; empty: nothing."""
    kinds = {"base": str, "pruned": list, "changed": list, "report": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            return f"no {key!r}"
    names = [*about["pruned"], *about["changed"], *about.get("moving", ())]
    if not all(isinstance(name, str) for name in names):
        return "a name that is none"
    if len({*about["pruned"], *about["changed"]}) < len(about["pruned"]) + len(about["changed"]):
        return "a name twice"
    files = about.get("files", {})
    if about["format"] > 1 and not (isinstance(files, dict) and "personal" in files):
        return "no 'files'"
    for part, of in files.items():
        if not (
            part in NAMES
            and isinstance(of, dict)
            and of.get("name") in NAMES[part]
            and isinstance(of.get("bytes"), int)
            and re.fullmatch("[0-9a-f]{64}", str(of.get("sha256")))
        ):
            return f"files, {part!r}"
    return ""


def file_of(path: str | os.PathLike[str], about: dict[str, Any], part: str) -> Path | None:
    """Where a part lies, ``personal`` or ``statistics``; None: it has none."""
    if about["format"] == 1:
        return Path(path, NAMES[part][0])
    files = about["files"]
    return Path(path, files[part]["name"]) if part in files else None


def read_report(path: str | os.PathLike[str], key: bytes | None = None) -> dict[str, Any]:
    """The report that was saved with an artifact, as :meth:`finepruning.Report.to_dict` gave it.

    ``key`` is what it was sealed with. Raises :class:`FinepruningError` as
    :func:`finepruning.load` does.
    """
    return read_about(path, key)["report"]


def check_place(out: Path) -> None:
    """Raise :class:`FinepruningError` where no artifact can be written at ``out``: it exists, its
    parent does not, may not be written in, or does not take such a name."""
    if out.exists() or out.is_symlink():
        raise FinepruningError(f"{out}: exists already; remove it or give another name")
    if not out.absolute().parent.is_dir():
        raise FinepruningError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    try:
        with aside(out.absolute().parent) as folder:
            (folder / out.name).mkdir()  # not at its place: killed now, it would stay there
    except (OSError, ValueError) as error:
        raise FinepruningError(
            f"{out}: cannot be written ({error}); give another place or name"
        ) from error


def check_space(out: Path, needed: int) -> None:
    """Raise :class:`FinepruningError` where there is less room than the ``needed`` bytes."""
    free = shutil.disk_usage(out.absolute().parent).free
    if free < needed:
        raise FinepruningError(
            f"{out}: {free / 1e6:,.0f} MB are free there, and {needed / 1e6:,.0f} may be needed;"
            " free some space or give another place"
        )
