"""Audio folders as batches: any rate and channel count, in a fixed order, without padding."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._errors import FinepruningError
from .folder import Folder, Kind, find_files
from .front_end import SHORTEST, FrontEnd, Inputs

AUDIO = Kind(
    "audio",
    "audio files",
    "clips",
    frozenset(
        f".{ending}"
        for ending in (
            *("aac", "aif", "aifc", "aiff", "amr", "au", "caf", "flac", "m4a", "mp3"),
            *("oga", "ogg", "opus", "rf64", "snd", "w64", "wav", "wave", "webm", "wma"),
        )
    ),
    "wav, flac, ogg, opus or mp3",
)
"""Files with these endings are read as audio; anything else in the folder is skipped and named."""

UNREADABLE = frozenset({".aac", ".amr", ".m4a", ".webm", ".wma"})
"""Of these, what the decoder does not know; they are skipped, with what to do about it."""


def find_audio(root: str | Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the audio files under ``root``, sorted, and what was skipped: :func:`find_files`."""
    return find_files(root, AUDIO)


def need(library: str, what: str) -> Any:
    """Import one of the libraries for speech, or say how to get it."""
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:  # soundfile without libsndfile raises OSError
        raise FinepruningError(
            f"{what} needs {library}, which cannot be imported here ({error});"
            " pip install finepruning[speech]"
        ) from error


RATES = (1000, 1_000_000)
"""Samples a second that a recording may have: a header may say anything."""
CHANNELS = 64
LONGEST = 3600.0
"""Seconds of a recording that are read: it is as much as anything is fitted to."""
LOUDEST = 100.0
"""Full scale is 1; a float recording may go beyond, but not to this."""
CANCEL = 1e-4
"""Of the channels' power: what is left of it when they are mixed, where they cancel each other."""
BLOCK = 1 << 18


def read_audio(path: str | Path, rate: int) -> Tensor:
    """Decode a file to mono float32 ``(T,)`` at ``rate`` samples a second.

    >>> read_audio("note.mp3", 16000).shape  # doctest: +SKIP
    torch.Size([52480])

    Channels are mixed; where they cancel each other, the loudest is taken. Of more than an hour the
    first is read. Raises ``OSError`` or ``ValueError`` with a short reason when the file cannot be
    used.
    """
    soundfile, soxr = need("soundfile", "reading audio"), need("soxr", "reading audio")
    path = Path(path)
    if path.suffix.lower() in UNREADABLE:
        raise ValueError(
            f"{path.suffix[1:].lower()} cannot be decoded here; convert it to wav or flac"
        )
    if not path.stat().st_size:
        raise ValueError("an empty file")
    check_riff(path)
    try:
        with soundfile.SoundFile(path) as file:
            given = file.samplerate
            if not RATES[0] <= given <= RATES[1]:
                raise ValueError(f"{given} samples a second: no recording has as many")
            if file.channels > CHANNELS:
                raise ValueError(f"{file.channels} channels: no recording has as many")
            wave = _mono(file, given)
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        raise ValueError(f"not audio, or damaged ({reason})") from None
    except (MemoryError, OverflowError):
        raise ValueError("damaged: its header asks for any memory") from None
    if not wave.size:
        raise ValueError("no samples in it")
    if not np.isfinite(wave).all():
        raise ValueError("NaN or infinite samples")
    if (loud := float(np.abs(wave).max())) > LOUDEST:
        raise ValueError(f"samples up to {loud:.3g}, where 1 is full scale")
    if not np.ptp(wave):
        raise ValueError("nothing but silence")
    if given != rate:
        wave = soxr.resample(wave, given, rate)
    if len(wave) < SHORTEST * rate:
        raise ValueError(f"{len(wave) / rate:.3f} s, shorter than {SHORTEST} s")
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))


def _mono(file: Any, rate: int) -> NDArray[np.float32]:
    """All channels in one: ``(T,)``, in float32."""
    # In pieces, for as long as there are any, whatever the header says: an hour of stereo would be
    # a gigabyte before it is mixed down.
    parts: list[NDArray[np.float32]] = []
    power, mixed, frames = np.zeros(file.channels), 0.0, 0
    single: list[NDArray[np.float32]] = []
    while frames < LONGEST * rate:
        block = file.read(BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            break
        frames += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            parts.append(block.mean(axis=1))
            power += np.square(block, dtype=np.float64).sum(0)
            mixed += float(np.square(parts[-1], dtype=np.float64).sum())
        if file.channels > 1:
            single.append(block[:, int(power.argmax())].copy())
    if single and mixed < CANCEL * power.max():
        parts = single
    return np.concatenate(parts) if parts else np.zeros(0, "f4")


def check_riff(path: Path) -> None:
    """Raise ``ValueError`` where a wav file ends before its sound does: the decoder would not
    say."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        end = path.stat().st_size
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            there = end - file.tell()
            if chunk[:4] == b"data":
                # Written to a pipe, the size was not known.
                if there < size < UNKNOWN:
                    raise ValueError(f"cut off: {1 - there / size:.0%} of its sound is missing")
                return
            file.seek(size + size % 2, 1)


UNKNOWN = 0x7FFF0000
"""Sizes from here on say that nothing was known of it."""


class AudioFolder(Folder[list[Inputs]]):
    """Batches of the recordings in a folder; iterate over it as often as you like.

    >>> for x in AudioFolder("voice_notes", FrontEnd(), batch_size=32):  # doctest: +SKIP
    ...     x.shape  # (k, T): clips of one length; dicts of tensors where the front end gives dicts

    Nothing is padded: clips that give inputs of one shape form a batch, of ``batch_size`` at most,
    and a clip like no other is a batch of its own. The order is fixed: that of the paths, but for
    clips that wait until their batch is full. Recordings of more than ``front.longest`` seconds
    are cut into pieces. ``seed`` puts the files in a random order instead: where there are more
    than a network can be fitted to, its first batches are then a fair choice.

    With ``labels``, a map from the name of a folder directly under ``root`` to an output index,
    batches are ``(x, y)``, with ``y`` int64. With ``texts``, a map from path to transcript, they
    are ``(x, [text, ...])``. Then a file is one sample, never cut: with ``labels`` only its
    beginning counts; with ``texts`` files that are too long or have no transcript are skipped.

    ``clips`` is the number of files used; ``skipped`` lists ``(path, reason)``. A file that cannot
    be decoded is found only when it is first reached: it is then skipped, counted in ``skipped``,
    and left out of later rounds too. Raises :class:`FinepruningError` when none can be used.
    """

    kind = AUDIO

    def __init__(
        self,
        root: str | Path,
        front: FrontEnd | None = None,
        *,
        batch_size: int = 32,
        seed: int | None = None,
        labels: Mapping[str, int] | None = None,
        texts: Mapping[Path, str] | None = None,
    ) -> None:
        need("soundfile", "an audio folder")
        need("soxr", "an audio folder")
        self.front = front or FrontEnd()
        self.texts = texts
        super().__init__(root, batch_size=batch_size, labels=labels)
        if texts is not None:
            self.skipped += [(p, "no transcript") for p, _ in self._paths if p not in texts]
            self._paths = [item for item in self._paths if item[0] in texts]
            lists = (".txt", ".csv", ".tsv")  # the transcripts themselves
            self.skipped = [item for item in self.skipped if item[0].suffix.lower() not in lists]
            self._require_files()
        if seed is not None:
            order = torch.randperm(len(self._paths), generator=torch.Generator().manual_seed(seed))
            self._paths = [self._paths[i] for i in order.tolist()]

    @property
    def clips(self) -> int:
        return self.files

    def __iter__(self) -> Iterator[Any]:
        waiting: dict[Any, list[tuple[Inputs, Path, int]]] = {}
        held = 0
        for pieces, path, label in self._decoded():
            for inputs in pieces:
                alike = waiting.setdefault(_shape(inputs), [])
                alike.append((inputs, path, label))
                held += 1
                if len(alike) == self.batch_size:
                    full = alike
                elif held > 4 * self.batch_size:  # not all of a large folder in memory
                    full = next(iter(waiting.values()))
                else:
                    continue
                del waiting[_shape(full[0][0])]
                held -= len(full)
                yield self._batch(full)
        for rest in waiting.values():
            yield self._batch(rest)

    def _batch(self, items: list[tuple[Inputs, Path, int]]) -> Any:
        all_inputs = [inputs for inputs, _, _ in items]
        first = all_inputs[0]
        x: Inputs
        if isinstance(first, Tensor):
            x = torch.stack([i for i in all_inputs if isinstance(i, Tensor)])
        else:
            dicts = [i for i in all_inputs if isinstance(i, Mapping)]
            x = {key: torch.stack([d[key] for d in dicts]) for key in first}
        if self.labels is not None:
            return x, torch.tensor([label for _, _, label in items])
        if self.texts is not None:
            return x, [self.texts[path] for _, path, _ in items]
        return x

    def _load(self, path: Path) -> list[Inputs] | str:
        """Return the network's input for each piece, or why the file is skipped."""
        rate, longest = self.front.rate, self.front.longest
        try:
            wave = read_audio(path, rate)
        except (OSError, ValueError) as error:
            return str(error).splitlines()[0] if str(error) else "cannot be read"
        limit = int(longest * rate)
        if self.texts is not None and len(wave) > limit:
            return f"{len(wave) / rate:.1f} s, longer than the {longest:g} s of the network's input"
        if self.labels is not None:
            wave = wave[:limit]
        pieces = [p for p in torch.split(wave, limit) if len(p) >= SHORTEST * rate]
        # Of a long recording, what was switched off.
        pieces = [p for p in pieces if len(pieces) == 1 or bool((p != p[0]).any())]
        try:
            made = [self.front(piece) for piece in pieces]
        except Exception as error:  # the user's own callable: whatever it raises stops the job
            raise FinepruningError(
                f"{path}: the front end failed with {type(error).__name__}: {error}"
            ) from error
        if not all(map(_finite, made)):
            return "the front end gives NaN or infinite values for it (nothing but silence?)"
        return made


def _finite(inputs: Inputs) -> bool:
    values = [inputs] if isinstance(inputs, Tensor) else inputs.values()
    return all(bool(value.isfinite().all()) for value in values)


def _shape(inputs: Inputs) -> Any:
    """What two inputs must have in common to be in one batch."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape)
    return tuple((key, tuple(value.shape)) for key, value in inputs.items())
