"""What is written aside: removed when its process is gone, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finepruning.artifact.aside import PREFIX, aside, sweep

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks")


def test_nothing_is_left(tmp_path: Path) -> None:
    def interrupted() -> None:
        with aside(tmp_path) as folder:
            (folder / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_stays(tmp_path: Path) -> None:
    with aside(tmp_path) as one:
        assert sweep(tmp_path) == 0
        with aside(tmp_path) as two:
            assert {*tmp_path.iterdir()} == {one, two}
        assert [*tmp_path.iterdir()] == [one]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / "file").write_text("x")
    (tmp_path / f"{PREFIX}file").write_text("not a folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "mine")
    (tmp_path / f"{PREFIX}old-x" / "me").mkdir(parents=True)  # an earlier version's: all there is
    assert sweep(tmp_path) == 1
    (tmp_path / f"{PREFIX}old-x" / "me").rmdir()
    (tmp_path / f"{PREFIX}old-x").rmdir()
    assert {f.name for f in tmp_path.iterdir()} == {f"{PREFIX}file", f"{PREFIX}link", "mine"}


def test_saves_killed_at_random_moments(tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    program = [sys.executable, str(Path(__file__).parent / "killed.py"), "24", str(tmp_path)]
    found = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[0]) > 4
