"""What the names of class folders mean: which output of the network each stands for."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from .._errors import FinepruningError


def match_classes(
    folders: Sequence[str],
    outputs: int,
    *,
    names: Sequence[str] | None = None,
    file: str | Path | None = None,
) -> dict[str, int]:
    """Map the names of class folders to output indices.

    >>> match_classes(["cat", "dog"], 3, names=["bird", "cat", "dog"])
    {'cat': 1, 'dog': 2}

    In this order: a JSON ``file`` of ``{name: index}``; whole numbers, if all folders are; the
    lines of a text ``file`` (line number = index); the model's own class ``names``; the sorted
    order, if there are as many folders as outputs. Upper and lower case are the same; a line
    ``n02086240 Shih-Tzu, shih tzu`` answers to the whole, to its id, and to each name.
    Raises :class:`FinepruningError` when a folder has no output, or two could be meant.
    """
    table = read_classes(file) if file is not None else None
    if isinstance(table, dict):
        composed = {unicodedata.normalize("NFC", name): index for name, index in table.items()}
        alike = {name: unicodedata.normalize("NFC", name) for name in folders}
        found = {name: composed.get(alike[name], -1) for name in folders}
        missing = [name for name in folders if alike[name] not in composed]
        source = f"in {file}"
    elif all(name.isdecimal() for name in folders) and not _named(folders, table):
        found, missing, source = {name: int(name) for name in folders}, [], "a number"
    else:
        source = f"in {file}" if table is not None else "among the model's class names"
        candidates = _index_names(table if table is not None else names or ())
        hits = {name: candidates.get(_plain(name), set()) for name in folders}
        missing = [name for name in folders if not hits[name]]
        if table is None and len(missing) == len(folders):
            if len(folders) == outputs:
                return {name: i for i, name in enumerate(sorted(folders))}
            raise FinepruningError(
                f"class folders such as {folders[0]!r} match none of the {outputs} outputs;"
                " give --classes FILE (text: one name a line, in the order of the outputs;"
                " or JSON: {folder: index})"
            )
        for name, indices in hits.items():
            if len(indices) > 1:
                raise FinepruningError(
                    f"class folder {name!r} fits outputs {sorted(indices)}; say which with"
                    " --classes FILE.json: {folder: index}"
                )
        found = {name: next(iter(indices), -1) for name, indices in hits.items()}
    if missing:
        raise FinepruningError(
            f"class folders not {source}: {', '.join(map(repr, missing[:5]))}"
            f" ({len(missing)} of {len(folders)}); rename them or add them with --classes FILE"
        )
    for name, index in found.items():
        if not 0 <= index < outputs:
            raise FinepruningError(
                f"class folder {name!r} means output {index}, but the network has {outputs}"
                f" outputs (0 to {outputs - 1}); correct the folder's name or --classes"
            )
    return found


def _named(folders: Sequence[str], table: Sequence[str] | None) -> bool:
    """Whether a file calls its outputs what the folders are called, numbers though they are."""
    known = {_plain(name) for name in table or ()}
    return all(_plain(name) in known for name in folders)


def read_classes(file: str | Path) -> list[str] | dict[str, int]:
    try:
        text = Path(file).read_text("utf-8-sig")
        table = json.loads(text) if Path(file).suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise FinepruningError(f"--classes {file}: cannot be read: {error}") from None
    if isinstance(table, dict) and all(type(i) is int for i in table.values()):
        return table
    if isinstance(table, list) and all(isinstance(name, str) for name in table):
        return table
    raise FinepruningError(
        f"--classes {file}: JSON must be {{folder: index}} or a list of names in output order"
    )


def _index_names(names: Sequence[str]) -> dict[str, set[int]]:
    """Every way to call an output -> the outputs so called; whole names go before parts."""
    whole: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for i, name in enumerate(names):
        whole.setdefault(_plain(name), set()).add(i)
        first, _, rest = name.partition(" ")
        label = name
        if any(c.isdigit() for c in first) and rest:  # an id such as n02086240 before the name
            whole.setdefault(_plain(first), set()).add(i)
            label = rest
        for part in (label, *label.split(",")):
            parts.setdefault(_plain(part), set()).add(i)
    return {**parts, **whole}


def _plain(name: str) -> str:
    name = unicodedata.normalize("NFC", name)  # some systems write an accent apart
    return " ".join(name.replace("_", " ").split()).casefold()
