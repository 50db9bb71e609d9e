"""The transcripts of a folder of recordings, from lists as people and corpora write them."""

from __future__ import annotations

import codecs
import csv
import unicodedata
from pathlib import Path

from .._errors import FinepruningError
from ..data.audio import find_audio

NAMES = ("file_name", "filename", "path", "file", "audio", "id")
TEXTS = ("text", "transcription", "transcript", "sentence")
LISTS = ("transcripts", "metadata")
"""Names of files at the top of a folder that may list its transcripts, without their endings."""


def plain(text: str) -> str:
    """Lower case, without punctuation but apostrophes within words, single spaces.

    >>> plain("  Don’t  STOP, now! ")
    "don't stop now"
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = (c if c == "'" or unicodedata.category(c)[0] not in "PS" else " " for c in text)
    return " ".join(word.strip("'") for word in "".join(kept).split() if word.strip("'"))


def find_texts(root: str | Path, file: str | Path | None = None) -> dict[Path, str]:
    """Map the audio files under ``root`` to their transcripts; those without one are left out.

    >>> find_texts("voice_notes/")  # doctest: +SKIP
    {PosixPath('voice_notes/a.wav'): 'turn it off'}

    From ``file``, or from a ``transcripts`` or ``metadata`` file at the top (csv, tsv, txt), from
    LibriSpeech's ``*.trans.txt``, or from a ``.txt`` file beside each recording and named like it.
    A list has the file's name, with or without folder and ending, then the text, in each line; a
    csv or tsv file may have a header. Texts come in lower case without punctuation. Raises
    :class:`FinepruningError` where there are none, or a list cannot be read.
    """
    root = Path(root)
    audio = find_audio(root)[0]
    lists = [Path(file)] if file is not None else _lists(root)
    called: dict[tuple[Path | None, str], str] = {}
    for path in lists:
        home = path.parent if path.name.endswith(".trans.txt") else None
        called |= {(home, name): text for name, text in _read(path)}
    found: dict[Path, str] = {}
    for path in audio:
        inside = path.relative_to(root)
        names = [inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem]
        keys = [(path.parent, path.stem), *((None, name) for name in names)]
        text = next((called[key] for key in keys if key in called), None)
        beside = path.with_suffix(".txt")
        if text is None and file is None and beside.is_file():
            text = _text(beside, "replace")
        if text is not None and plain(text):
            found[path] = plain(text)
    if not found:
        where = f"in {file}" if file is not None else f"in {root}"
        raise FinepruningError(
            f"--data {root}: no transcripts found {where}; give --transcripts FILE (csv, tsv or"
            " txt: file name, text), or NAME.txt beside each NAME.wav"
        )
    return found


def _lists(root: Path) -> list[Path]:
    top = [root / f"{name}.{end}" for name in LISTS for end in ("csv", "tsv", "txt")]
    return [path for path in top if path.is_file()] + sorted(root.rglob("*.trans.txt"))


def _text(path: Path, errors: str = "strict") -> str:
    """What a file holds: UTF-8, or UTF-16 where its first bytes say so."""
    held = path.read_bytes()
    utf16 = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return held.decode("utf-16" if utf16 else "utf-8-sig", errors)


def _read(path: Path) -> list[tuple[str, str]]:
    """The lines of a list as ``(file name, text)``."""
    try:
        lines = _text(path).splitlines()
        ending = path.suffix.lower()
        if ending == ".tsv":  # a quotation mark is one
            rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        elif ending == ".csv":
            semicolons = lines and ";" in lines[0] and "," not in lines[0]
            rows = list(csv.reader(lines, delimiter=";" if semicolons else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise FinepruningError(f"--transcripts {path}: cannot be read: {error}") from None
    if ending in (".csv", ".tsv"):
        name, text = 0, 1
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        heads = [next((header.index(h) for h in hs if h in header), -1) for hs in (NAMES, TEXTS)]
        if min(heads) >= 0:
            (name, text), rows = heads, rows[1:]
        return [(row[name].strip(), row[text]) for row in rows if len(row) > max(name, text)]
    # A tab ends the name, which may then hold spaces; else the first space does.
    cut = [line.strip().split("\t" if "\t" in line else None, 1) for line in lines if line.strip()]
    return [(parts[0], parts[1]) for parts in cut if len(parts) == 2]
