"""Word and character error rates of networks that write what they hear."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from ..data.audio import need
from ..data.batches import Batch, logits_of
from ..data.padding import Unpad
from ..data.tokens import generate, started, writes_tokens
from .accuracy import as_batch, evaluating, moved
from .texts import plain


@dataclass(frozen=True)
class Transcription:
    """How many words and characters came out wrong, with 95 % intervals over the clips.

    >>> Transcription(2, 8, 2, None, 40, 4, None, 0.1).wer
    0.25

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
    device: str | torch.device | None = None,
) -> Transcription:
    """Word and character error rate of ``model`` on batches of ``(inputs, texts)``.

    >>> folder = AudioFolder("notes/", loaded.front, texts=find_texts("notes/"))  # doctest: +SKIP
    >>> evaluate_transcripts(loaded.model, loaded.reader, folder).wer  # doctest: +SKIP
    0.084

    ``reader`` is the model's Hugging Face tokenizer or processor, or anything else with its
    ``batch_decode(ids, skip_special_tokens=...)``. ``batches`` yields the inputs of some clips, a
    tensor ``(B, ...)`` or a dict of keyword inputs, and their ``B`` texts. The model is one that
    generates, or returns CTC logits ``(B, frames, tokens)``; decoding is greedy. Case and
    punctuation do not count. ``device``: move the model there first (default: run where it is). The
    model's training flags are put back.

    Raises :class:`FinepruningError` on no data, texts without words, outputs of another form, or
    where jiwer is missing.
    """
    device = moved(model, device)
    unpad = Unpad(lambda part: started(model, part).call(model))
    truth: list[str] = []
    heard: list[str] = []
    times: list[float] = []
    with evaluating(model):
        for x, texts in batches:
            batch = as_batch(x).to(device)
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
