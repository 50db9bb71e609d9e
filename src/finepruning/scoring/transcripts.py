"""Word and character error rates of networks that write what they hear."""

from __future__ import annotations

import codecs
import csv
import math
import statistics
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from ..data.audio import find_audio, need
from ..data.batches import Batch, logits_of
from ..data.padding import Unpad
from ..data.tokens import generate, started, writes_tokens
from .accuracy import as_batch

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

    From ``file``, or from a ``transcripts`` or ``metadata`` file at the top (csv, tsv, txt), from
    LibriSpeech's ``*.trans.txt``, or from a ``.txt`` file beside each recording and named like it.
    A list has the file's name, with or without folder and ending, then the text, in each line; a
    csv or tsv file may have a header. Raises :class:`FinepruningError` where there are none.
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


@dataclass(frozen=True)
class Transcription:
    """How many words and characters came out wrong, with 95 % intervals over the clips.

    Errors are substitutions, deletions and insertions: a rate may be above 1. ``latency``: the
    median of seconds a clip.
    """

    clips: int
    words: int
    word_errors: int
    wer_interval: tuple[float, float] | None
    characters: int
    character_errors: int
    cer_interval: tuple[float, float] | None
    latency: float

    @property
    def wer(self) -> float:
        return self.word_errors / self.words

    @property
    def cer(self) -> float:
        return self.character_errors / self.characters

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with both rates."""
        return {**asdict(self), "wer": self.wer, "cer": self.cer}


def ratio_interval(
    errors: Sequence[int], sizes: Sequence[int], z: float = 1.96
) -> tuple[float, float] | None:
    """Interval of ``sum(errors) / sum(sizes)`` over independent clips; None for a single one.

    >>> [round(p, 3) for p in ratio_interval([1, 0, 2, 1], [5, 5, 5, 5])]
    [0.04, 0.36]
    """
    n, rate = len(errors), sum(errors) / sum(sizes)
    if n < 2:
        return None
    squares = sum((e - rate * s) ** 2 for e, s in zip(errors, sizes, strict=True))
    half = z * math.sqrt(n / (n - 1) * squares) / sum(sizes)
    return max(0.0, rate - half), rate + half


def score(truth: Sequence[str], heard: Sequence[str], latency: float = 0.0) -> Transcription:
    """Compare transcripts with what a network wrote, both made plain.

    >>> score(["turn it off"], ["turn off"]).word_errors
    1
    """
    jiwer = need("jiwer", "evaluating transcripts")
    pairs = [(plain(a), plain(b)) for a, b in zip(truth, heard, strict=True)]
    if not pairs or not all(a for a, _ in pairs):
        raise FinepruningError("transcripts: nothing to compare with; give texts that hold words")

    def counted(process: Callable[..., Any]) -> tuple[list[int], list[int]]:
        out = [process(a, b) for a, b in pairs]
        errors = [o.substitutions + o.deletions + o.insertions for o in out]
        return errors, [o.hits + o.substitutions + o.deletions for o in out]

    words, characters = counted(jiwer.process_words), counted(jiwer.process_characters)
    return Transcription(
        len(pairs),
        sum(words[1]),
        sum(words[0]),
        ratio_interval(*words),
        sum(characters[1]),
        sum(characters[0]),
        ratio_interval(*characters),
        latency,
    )


def transcribe(model: nn.Module, reader: Any, batch: Batch, unpad: Unpad) -> list[str]:
    """What the network writes for each sample: greedily, by CTC or token after token."""
    texts: list[str] = []
    for part in unpad(batch):
        if writes_tokens(model):
            ids = generate(model, part)
        else:
            logits = logits_of(part.call(model))
            if not isinstance(logits, Tensor) or logits.ndim != 3:
                raise FinepruningError(
                    "evaluate: the network returned no logits (clips, frames, tokens);"
                    " transcripts need a CTC or an encoder-decoder network"
                )
            ids = logits.float().argmax(-1)
        # Of CTC the blank is one of the special tokens, and what it keeps apart is two letters: its
        # tokenizer leaves it out itself, once repeats are joined.
        texts += reader.batch_decode(ids.cpu(), skip_special_tokens=writes_tokens(model))
    return texts


def evaluate_transcripts(
    model: nn.Module,
    reader: Any,
    batches: Iterable[tuple[Any, Sequence[str]]],
    *,
    device: str | torch.device = "cpu",
) -> Transcription:
    """Word and character error rate of ``model`` on batches of ``(inputs, texts)``.

    >>> evaluate_transcripts(model, tokenizer, folder).wer  # doctest: +SKIP
    0.084

    ``reader`` is the model's Hugging Face tokenizer or processor. Decoding is greedy.
    """
    model = model.to(device).eval()
    unpad = Unpad(lambda part: started(model, part).call(model))
    truth: list[str] = []
    heard: list[str] = []
    times: list[float] = []
    with torch.inference_mode():
        for x, texts in batches:
            batch = as_batch(x).to(torch.device(device))
            begun = time.perf_counter()
            heard += transcribe(model, reader, batch, unpad)
            times += [(time.perf_counter() - begun) / len(texts)] * len(texts)
            truth += texts
    if not truth:
        raise FinepruningError("evaluate: no data; give clips with transcripts")
    return score(truth, heard, statistics.median(times))


def format_transcriptions(found: dict[str, Transcription]) -> str:
    """A table: one row for each network."""
    rows = [["", "word error rate", "character error rate", "ms a clip"]]
    for name, t in found.items():
        cells = [
            (t.word_errors, t.words, t.wer_interval),
            (t.character_errors, t.characters, t.cer_interval),
        ]
        shown = [
            f"{k}/{n} = {k / n:.1%}" + (f" [{i[0]:.1%}, {i[1]:.1%}]" if i else "")
            for k, n, i in cells
        ]
        rows.append([name, *shown, f"{1000 * t.latency:.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n[95 % interval over clips; case and punctuation do not count]"
