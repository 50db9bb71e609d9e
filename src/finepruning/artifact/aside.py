"""Folders that are written aside, then put in place: what a killed process leaves is removed.

Who writes holds a lock on the folder aside as long as it lives. A folder that nobody holds is left
over. Where the system has no such locks (Windows), a day without a change says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".finepruning-"
OLD = f"{PREFIX}old-"
"""Where earlier versions put what they replaced, for a moment: killed then, it is all there is."""
DAY = 24 * 3600.0


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``; whatever is still there at the end is removed."""
    with _locked(parent):  # so that nobody finds it before its lock is there
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        held = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def sweep(parent: Path) -> int:
    """Remove what killed processes left in ``parent``; how many folders it was."""
    with _locked(parent):
        return _sweep(parent)


def _sweep(parent: Path) -> int:
    removed = 0
    for folder in parent.glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.name.startswith(OLD):
            continue
        held = _lock(folder)
        old = fcntl is None and time.time() - folder.stat().st_mtime > DAY
        if held is not None or old:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        if held is not None:
            os.close(held)
    return removed


def _lock(folder: Path) -> int | None:
    """Hold ``folder``; None: somebody does, or it cannot be told."""
    if fcntl is None:  # pragma: no cover  # Windows
        return None
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    if fcntl is None:  # pragma: no cover  # Windows
        yield
        return
    held = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
