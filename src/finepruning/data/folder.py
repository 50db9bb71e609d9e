"""A person's folder of files: found in a fixed order, decoded ahead of use, bad ones named."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from .._errors import FinepruningError

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a folder is read as: files with these endings; the rest is skipped and named."""

    name: str
    plural: str
    counted: str
    suffixes: frozenset[str]
    examples: str


def find_files(root: str | Path, kind: Kind) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files of ``kind`` under ``root``, sorted, and the others as ``(path, reason)``.

    Hidden files and folders are passed over. Raises :class:`FinepruningError` when there is no
    such folder or nothing of that kind in it.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise FinepruningError(f"{root}: {what}; --data needs a folder of {kind.plural}")
    files: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    seen: set[str] = set()

    def closed(error: OSError) -> None:
        skipped.append((Path(error.filename), f"the folder cannot be opened ({error.strerror})"))

    for folder, subfolders, names in os.walk(root, onerror=closed, followlinks=True):
        # Links are followed, and a link to a folder above would go round for ever.
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in kind.suffixes:
                # A pipe would be waited for, for ever.
                if path.is_file():
                    files.append(path)
                else:
                    skipped.append((path, "not a regular file, or a link to nothing"))
            else:
                skipped.append((path, f"not an {kind.name} file"))
    if not files:
        raise FinepruningError(
            f"{root}: no {kind.name} in this folder ({len(skipped)} other files);"
            f" put {kind.examples} files there"
        )
    return sorted(files), sorted(skipped)


def kind_of(root: str | Path, kinds: Sequence[Kind]) -> Kind:
    """Return the kind that most files under ``root`` are of.

    Raises :class:`FinepruningError` where there are none, or two kinds are equally many.
    """
    counts = dict.fromkeys(kinds, 0)
    for kind in kinds:
        try:
            counts[kind] = len(find_files(root, kind)[0])
        except FinepruningError:
            if not Path(root).is_dir():
                raise
    best = max(kinds, key=lambda kind: counts[kind])
    if not counts[best]:
        wanted = ", or ".join(f"{kind.plural} ({kind.examples})" for kind in kinds)
        raise FinepruningError(f"{root}: holds nothing that can be used; it takes {wanted}")
    if counts[best] and [*counts.values()].count(counts[best]) > 1:
        both = " and ".join(kind.plural for kind in kinds if counts[kind] == counts[best])
        raise FinepruningError(
            f"{root}: as many {both} ({counts[best]} each); put one kind in a folder of its own"
        )
    return best


def folders_of(root: str | Path, kind: Kind) -> list[str]:
    """Return the names of the folders directly under ``root`` that hold such files, sorted."""
    parts = [path.relative_to(root).parts for path in find_files(root, kind)[0]]
    if not (names := sorted({p[0] for p in parts if len(p) > 1})):
        raise FinepruningError(
            f"{root}: no class folders; put each class's {kind.plural} in its own"
        )
    return names


def describe_skipped(skipped: Iterable[tuple[Path, str]], limit: int = 3) -> str:
    """Return one line: how many files were skipped, and the first few with their reasons."""
    items = list(skipped)
    names = "; ".join(f"{path}: {reason}" for path, reason in items[:limit])
    return f"{len(items)} skipped: {names}" + ("; ..." if len(items) > limit else "")


class Folder(ABC, Generic[T]):
    """The usable files of one kind under ``root``. Subclasses read a file and make batches.

    With ``labels``, a map from the name of a folder directly under ``root`` to an output index,
    files elsewhere are skipped. A file that cannot be read is found only when it is first reached:
    it is then skipped, counted in ``skipped``, and left out of later rounds too.
    """

    kind: Kind

    def __init__(
        self, root: str | Path, *, batch_size: int, labels: Mapping[str, int] | None
    ) -> None:
        if batch_size < 1:
            raise FinepruningError(f"batch size: {batch_size}; give 1 or more")
        self.root = Path(root)
        self.batch_size = batch_size
        self.labels = labels
        paths, self.skipped = find_files(root, self.kind)
        self._paths: list[tuple[Path, int]] = []
        for path in paths:
            folder = path.relative_to(self.root).parts[0]
            if labels is None:
                self._paths.append((path, -1))
            elif folder in labels:
                self._paths.append((path, labels[folder]))
            else:
                self.skipped.append((path, "not in the folder of a class"))
        self._require_files()

    @property
    def files(self) -> int:
        """How many files are used."""
        return len(self._paths)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in the order of the samples; after a first round without those that cannot be
        read."""
        return tuple(path for path, _ in self._paths)

    @abstractmethod
    def _load(self, path: Path) -> T | str:
        """Return what the file holds, or why it is skipped."""

    def _decoded(self) -> Iterator[tuple[T, Path, int]]:
        """Yield the usable files in order, with their labels, a batch ahead of use."""
        failed: list[tuple[Path, str]] = []
        waiting: deque[tuple[Path, int, Future[T | str]]] = deque()
        pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        try:
            for item in [*self._paths, None]:
                if item is not None:
                    waiting.append((*item, pool.submit(self._load, item[0])))
                while waiting and (item is None or len(waiting) > self.batch_size + 4):
                    path, label, future = waiting.popleft()
                    result = future.result()
                    if isinstance(result, str):
                        failed.append((path, result))
                    else:
                        yield result, path, label
        finally:
            pool.shutdown(cancel_futures=True)
            bad = {path for path, _ in failed}
            self._paths = [item for item in self._paths if item[0] not in bad]
            self.skipped += [item for item in failed if item not in self.skipped]
        self._require_files()

    def _require_files(self) -> None:
        if not self._paths:
            raise FinepruningError(
                f"{self.root}: none of the {self.kind.plural} can be used"
                f" ({describe_skipped(self.skipped)}); check the files"
            )
