"""What lies in an artifact's folder, and the reading of the part that needs no network.

``finepruning.json`` says what it is and which base it fits; ``personal.safetensors`` holds, for
each pruned weight ``NAME``, ``NAME.mask`` (uint8, one bit a weight, most significant first, in
memory order) and ``NAME.values`` (the weights that stay, in the same order), and each changed bias
as it is. ``statistics.safetensors`` is what is kept of the person's samples for later updates: it
stays with the person, and everything else works without it. No pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .._errors import FinepruningError

FORMAT = 1
JSON, TENSORS = "finepruning.json", "personal.safetensors"
STATISTICS = "statistics.safetensors"


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The artifact's JSON. Raises :class:`FinepruningError` where it is none, or of another
    format."""
    file = Path(path, JSON)
    try:
        about = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise FinepruningError(
            f"{Path(path)}: not a finepruning artifact ({file.name} cannot be read);"
            " give the folder that personalize wrote"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FinepruningError(
            f"{file}: not of format {FORMAT}; load it with the version that wrote it"
        )
    kinds = {"base": str, "pruned": list, "changed": list, "report": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            raise FinepruningError(f"{file}: damaged artifact (no {key!r}); personalise anew")
    return about


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The report that was saved with an artifact, as :meth:`finepruning.Report.to_dict` gave it."""
    return read_about(path)["report"]


def check_place(out: Path) -> None:
    """Raise :class:`FinepruningError` where no artifact can be written at ``out``: it exists, its
    parent does not, may not be written in, or does not take such a name."""
    if out.exists() or out.is_symlink():
        raise FinepruningError(f"{out}: exists already; remove it or give another name")
    if not out.absolute().parent.is_dir():
        raise FinepruningError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    try:
        out.mkdir()
        out.rmdir()
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
