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
