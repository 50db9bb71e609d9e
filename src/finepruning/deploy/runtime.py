"""Runtime: an exported network on the device, by ONNX Runtime, NumPy and Pillow alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import FinepruningError
from ..data.folder import Kind, find_files
from ..data.pictures import IMAGES, Preprocess, read_image

KEY = "finepruning"
"""Under which name a file holds its labels and preprocessing."""
ARRAYS = Kind("array", "arrays", "arrays", frozenset((".npy",)), "npy")


@dataclass(frozen=True)
class Prediction:
    """What the network answers for one file."""

    path: Path
    output: int
    """The number of the largest output."""
    name: str
    """Its class, where the file that was exported knows."""
    share: float
    """Softmax of that output."""


class Deployed:
    """An exported network.

    >>> for found in Deployed("model.onnx").predict("photos/"):  # doctest: +SKIP
    ...     print(found.path, found.name)

    ``threads``: how many it may use; None: as many as there are cores. Raises
    :class:`FinepruningError` where the file cannot be read, or ONNX Runtime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise FinepruningError(
                "run: ONNX Runtime is not installed; pip install onnxruntime"
            ) from None
        self.path = Path(path)
        if not self.path.is_file():
            raise FinepruningError(f"{self.path}: there is no such file; give what export wrote")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of ONNX Runtime's own many kinds
            said = " ".join(str(error).split())[:200]
            raise FinepruningError(f"{self.path}: ONNX Runtime cannot read it ({said})") from error
        held = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.about: dict[str, Any] = json.loads(held) if held else {}
        self.classes: list[str] = self.about.get("classes") or []
        given = self.about.get("preprocess")
        sizes = ("resize", "crop", "mean", "std")
        self.preprocess: Preprocess | None = None
        if given:
            options_: Any = {
                k: tuple(v) if k in sizes and isinstance(v, list) else v for k, v in given.items()
            }
            self.preprocess = Preprocess(**options_)

    def run(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """The answers ``(N, K)`` for a batch of inputs as the network takes them."""
        known = [i.name for i in self._session.get_inputs()]
        given = inputs if isinstance(inputs, Mapping) else {known[0]: inputs}
        found: np.ndarray = self._session.run(None, {k: given[k] for k in known if k in given})[0]
        return found

    def predict(self, folder: str | os.PathLike[str], batch: int = 8) -> Iterator[Prediction]:
        """Answers for the images in a folder, or for its ``.npy`` files, each one sample as the
        network takes it. A file that cannot be read is passed over; see :attr:`skipped`."""
        self.skipped: list[tuple[Path, str]] = []
        files, others = find_files(Path(folder), IMAGES if self.preprocess else ARRAYS)
        self.skipped += others
        paths: list[Path] = []
        rows: list[np.ndarray] = []
        for i, path in enumerate(files):
            try:
                rows.append(self._read(path))
                paths.append(path)
            except (OSError, ValueError) as error:
                self.skipped.append((path, str(error)))
            if rows and (len(rows) == batch or i == len(files) - 1):
                yield from self._answers(paths, np.stack(rows))
                paths, rows = [], []
        if rows:
            yield from self._answers(paths, np.stack(rows))

    def _read(self, path: Path) -> np.ndarray:
        if self.preprocess:
            return self.preprocess.pixels(read_image(path))
        held: np.ndarray = np.load(path, allow_pickle=False)
        return held

    def _answers(self, paths: list[Path], rows: np.ndarray) -> Iterator[Prediction]:
        logits = self.run(rows).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        for path, row in zip(paths, shares, strict=True):
            best = int(row.argmax())
            name = self.classes[best] if best < len(self.classes) else ""
            yield Prediction(path, best, name, float(row[best]))
