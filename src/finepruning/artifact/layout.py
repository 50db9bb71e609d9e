"""What lies in an artifact's folder, and the reading of the part that needs no network.

``finepruning.json`` says what it is and which base it fits, and holds the digests of the other
files; ``personal.safetensors`` holds, for each pruned weight ``NAME``, ``NAME.mask`` (uint8, one
bit a weight, most significant first, in memory order) and ``NAME.values`` (the weights that stay,
in the same order), and each changed bias as it is. ``statistics.safetensors`` is what is kept of
the person's samples for later updates: it stays with the person, and everything else works without
it. No pickle. ``docs/format.md`` has all of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

from .._errors import FinepruningError
from .aside import aside
from .folder import damaged, names_of, read_json

FORMAT = 2
JSON, TENSORS = "finepruning.json", names_of("personal")[0]
STATISTICS = names_of("statistics")[0]

Values = Literal["exact", "float16", "bfloat16", "int8", "differences", "mask"]
VALUES = get_args(Values)
"""What may be stored of the weights that stay."""


def read_about(path: str | os.PathLike[str], key: bytes | None = None) -> dict[str, Any]:
    """The artifact's JSON. Raises :class:`FinepruningError` where it is none, damaged, of another
    format, or was not sealed with ``key``."""
    file = Path(path, JSON)
    try:
        about = read_json(file, (1, FORMAT), key)
    except FinepruningError:
        raise
    except (OSError, ValueError) as error:
        raise FinepruningError(
            f"{Path(path)}: not a finepruning artifact ({file.name} cannot be read);"
            " give the folder that personalize wrote"
        ) from error
    wrong = _wrong(about)
    if wrong:
        raise damaged(file, wrong)
    return about


def _wrong(about: dict[str, Any]) -> str:
    """What is not as it has to be; empty: nothing."""
    kinds = {"base": str, "pruned": list, "changed": list, "report": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            return f"no {key!r}"
    if about.get("values", "exact") not in VALUES:
        return "values of an unknown kind"
    moving = about.get("moving", [])
    names = [*about["pruned"], *about["changed"]]
    if not isinstance(moving, list) or not all(isinstance(n, str) for n in [*names, *moving]):
        return "a name that is none"
    return "a name twice" if len({*names}) < len(names) else ""


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
