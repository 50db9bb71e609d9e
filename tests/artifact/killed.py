"""Saves that are killed at random moments; a program of its own, as it forks.

    python tests/artifact/killed.py TIMES FOLDER

Two artifacts at turns, one in the other's place and one anew, each in a child that is killed by
KILL, TERM, HUP and INT. Afterwards the one that was there is whole, the new one whole or absent,
and once another is saved nothing else lies there. Prints how many were killed before they ended.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import finepruning
from saved import Net, X, same_bits

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
FILES = {"finepruning.json", "personal", "statistics"}


def main(times: int, folder: Path) -> int:
    torch.set_num_threads(1)
    base = Net()
    results = [finepruning.personalize(base, X + i, effort="fast") for i in range(2)]
    me, new = folder / "me", folder / "new"
    results[0].save(me)
    started = time.perf_counter()
    results[1].save(me, replace=True)
    one = time.perf_counter() - started
    chance, killed = random.Random(0), 0
    for i in range(times):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # INT's traceback
            results[i % 2].save(me, replace=True)
            results[i % 2].save(new)
            os._exit(0)
        time.sleep(chance.uniform(0, 2.5 * one))
        os.kill(child, SIGNALS[i % len(SIGNALS)])
        killed += os.waitpid(child, 0)[1] != 0
        loaded = finepruning.load(me, base)
        assert any(same_bits(loaded, r.model) for r in results), f"neither, after {i}"
        if new.exists():
            assert same_bits(finepruning.load(new, base), results[i % 2].model), f"new, after {i}"
            shutil.rmtree(new)
        results[i % 2].save(me, replace=True)
        results[i % 2].save(new)
        shutil.rmtree(new)
        assert [f.name for f in folder.iterdir()] == ["me"], f"left over after {i}"
        left = sorted(f.name.split("-")[0].split(".s")[0] for f in me.iterdir())
        assert left == sorted(FILES), f"left over after {i}: {left}"
    return killed


if __name__ == "__main__":
    print(main(int(sys.argv[1]), Path(sys.argv[2])), "killed before they ended")
