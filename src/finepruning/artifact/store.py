"""Where a bank's artifacts lie: a folder here, or any location that fsspec knows."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from .._errors import FinepruningError, told
from .aside import aside, sweep
from .folder import file_of, read_tensors
from .layout import JSON, read_about
from .seal import JSON_BYTES, open_file

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}")
PARTS = ("personal", "statistics")
TRIES = 3
"""How often an artifact is read again that somebody replaces at the same time."""


def check_name(name: str) -> None:
    """Raise :class:`FinepruningError` where ``name`` is none for a person."""
    if not NAME.fullmatch(name):
        raise FinepruningError(
            f"{name!r}: no name for a person; give letters, digits and . _ @ + -, 127 at most"
        )


class Store(Protocol):
    """What a bank asks of the place where it lies. Raises :class:`FinepruningError`."""

    @property
    def folder(self) -> Path | str:
        """The place."""

    def names(self) -> list[str]:
        """Who is there, sorted."""

    def has(self, name: str) -> bool:
        """Whether ``name`` is there, wholly."""

    @contextmanager
    def at(self, name: str, key: bytes | None, *, whole: bool = True) -> Iterator[Path]:
        """A folder on this machine with the artifact, or at least its JSON."""

    def put(self, name: str, write: Callable[[Path], None], key: bytes | None) -> None:
        """Put in what ``write(folder)`` writes, wholly or not at all; it may replace what is
        in ``folder`` then."""

    def remove(self, name: str) -> None:
        """Take ``name`` out."""

    def gc(self) -> int:
        """Remove what killed processes left; how many folders it was."""


def store_at(place: str | os.PathLike[str]) -> Store:
    """A folder is made where it is not there."""
    return Location(place) if isinstance(place, str) and "://" in place else Folder(Path(place))


class Folder:
    """On this machine, or a disk that several share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FinepruningError(f"{folder}: cannot be a bank ({error})") from error

    def names(self) -> list[str]:
        with os.scandir(self.folder) as found:
            return sorted(f.name for f in found if NAME.fullmatch(f.name) and f.is_dir())

    def has(self, name: str) -> bool:
        return bool(NAME.fullmatch(name)) and (self.folder / name).is_dir()

    @contextmanager
    def at(self, name: str, key: bytes | None, *, whole: bool = True) -> Iterator[Path]:
        yield self.folder / name

    def put(self, name: str, write: Callable[[Path], None], key: bytes | None) -> None:
        out = self.folder / name
        if out.exists():
            write(out)
            return
        with aside(self.folder) as folder:
            inner = folder / "new"  # not in the folder itself, which is locked
            inner.mkdir()
            write(inner / name)
            try:
                os.rename(inner / name, out)
            except OSError as error:
                raise FinepruningError(f"{out}: cannot be written ({error})") from error

    def remove(self, name: str) -> None:
        with aside(self.folder) as folder:
            os.rename(self.folder / name, folder / name)

    def gc(self) -> int:
        inner = sum(sweep(self.folder / name) for name in self.names())
        return sweep(self.folder) + inner


class Location:
    """An object store or another machine, by its URL: ``s3://bucket/people``.

    An artifact is there once its JSON is: it is written last and removed first.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.folder = url.rstrip("/")
        if self.folder.endswith(":"):
            raise FinepruningError(f"{url}: names no location; give one such as s3://bucket/people")
        with self._told():
            self._files, self._root = fsspec.core.url_to_fs(self.folder)
            self._files.makedirs(self._root, exist_ok=True)

    def names(self) -> list[str]:
        with self._told():
            self._files.invalidate_cache()
            found = [path.split("/")[-2] for path in self._files.glob(f"{self._root}/*/{JSON}")]
        return sorted(name for name in found if NAME.fullmatch(name))

    def has(self, name: str) -> bool:
        if not NAME.fullmatch(name):
            return False
        with self._told():
            self._files.invalidate_cache()
            return bool(self._files.exists(self._path(name, JSON)))

    @contextmanager
    def at(self, name: str, key: bytes | None, *, whole: bool = True) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, name)
            for tried in range(TRIES):
                folder.mkdir(exist_ok=True)
                try:
                    self._fetch(name, folder, key, whole)
                    break
                except FinepruningError:  # replaced meanwhile, or really damaged
                    if tried == TRIES - 1:
                        raise
            yield folder

    def _fetch(self, name: str, folder: Path, key: bytes | None, whole: bool) -> None:
        self._get(name, JSON, folder, JSON_BYTES)
        about = read_about(folder, key)
        sizes = about.get("files", {})
        for part in PARTS if whole else ():
            file = file_of(folder, about, part)
            if file is None or (part not in sizes and about["format"] > 1):
                continue
            with self._told():
                there = self._files.exists(self._path(name, file.name))
            if there or part == "personal":
                self._get(name, file.name, folder, sizes.get(part, {}).get("bytes", 2**40))

    def _get(self, name: str, file: str, folder: Path, most: int) -> None:
        path = self._path(name, file)
        with self._told():
            size = self._files.info(path)["size"]
            if size > most:
                raise FinepruningError(
                    f"{self.folder}/{name}/{file}: {size:,} bytes, and no more than {most:,} can"
                    " belong there; take an artifact from whom you trust"
                )
            self._files.get_file(path, str(folder / file))

    def put(self, name: str, write: Callable[[Path], None], key: bytes | None) -> None:
        if self.has(name):
            with self.at(name, key) as folder:
                write(folder)
                self._send(name, folder)
            return
        with tempfile.TemporaryDirectory() as made:
            write(Path(made, name))
            self._send(name, Path(made, name))

    def _send(self, name: str, folder: Path) -> None:
        files = sorted((f.name for f in folder.iterdir() if f.is_file()), key=lambda f: f == JSON)
        with self._told():
            self._files.makedirs(self._path(name), exist_ok=True)
            for file in files:
                self._files.put_file(str(folder / file), self._path(name, file))
            for path in self._files.ls(self._path(name), detail=False):
                if path.rstrip("/").split("/")[-1] not in files:
                    self._files.rm(path)

    def remove(self, name: str) -> None:
        with self._told():
            self._files.rm(self._path(name, JSON))
            self._files.rm(self._path(name), recursive=True)

    def gc(self) -> int:
        whole, removed = {*self.names()}, 0
        with self._told():
            for path in self._files.ls(self._root, detail=False):
                name = path.rstrip("/").split("/")[-1]
                if NAME.fullmatch(name) and name not in whole:
                    self._files.rm(path, recursive=True)
                    removed += 1
        return removed

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _told(self) -> AbstractContextManager[None]:
        return told(f"{self.folder}: cannot be reached")


def whole(path: Path, key: bytes | None) -> list[Path]:
    """The files of the artifact at ``path``, its JSON first."""
    about: dict[str, Any] = read_about(path, key)
    parts = (file_of(path, about, part) for part in PARTS)
    return [path / JSON, *(f for f in parts if f is not None and f.exists())]


def copy(files: list[Path], folder: Path) -> None:
    """Ordinary files, and no others that lie there."""
    try:
        folder.mkdir()
        for file in files:
            with open_file(file) as given, (folder / file.name).open("wb") as copy_:
                shutil.copyfileobj(given, copy_)
            shutil.copymode(file, folder / file.name)
    except OSError as error:
        raise FinepruningError(f"{folder}: cannot be written ({error})") from error


def verify(path: Path, key: bytes | None) -> None:
    """Raise :class:`FinepruningError` where a bit of the artifact at ``path`` has changed."""
    about = read_about(path, key)
    for part in about.get("files", ("personal",)):
        file = file_of(path, about, part)
        if part == "personal" or (file is not None and file.exists()):
            read_tensors(
                path, about, part, about.get("files", {}).get(part, {}).get("bytes", 2**40)
            )
