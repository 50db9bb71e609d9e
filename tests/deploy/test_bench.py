"""Paired timings and sizes."""

from __future__ import annotations

import time
from pathlib import Path

from finepruning.deploy.bench import paired, sizes


def test_times_are_beside_the_reference_of_the_same_round() -> None:
    slow = iter(range(100))

    def drifting() -> None:
        time.sleep(0.002 + 0.001 * (next(slow) // 2))

    found = paired({"a": drifting, "b": drifting}, "a", rounds=6, warm=1)
    assert found[0].times == 1
    assert 0.7 < found[1].times < 1.4  # though the machine becomes three times as slow
    assert found[0].low <= found[0].median <= found[0].high


def test_zeros_take_disk_but_little_of_a_download(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(10_000))
    disk, download = sizes([tmp_path / "zeros"])
    assert disk == 10_000
    assert download < 100
