"""Many people over one base: how fast, the same bits whoever is killed, and what a bank takes.

    python benchmarks/fleet.py [--people 64] [--bank 1000]

A residual network of random weights, 48 random images of 64 pixels a person, 70 %. First everybody
one after the other, in one worker; then in two, where a worker is killed in the middle; then in
two again, where the process that hands out the work is killed in the middle and begun again. Then
a bank of many: bytes on disk and in memory, and milliseconds to list, to find and to activate.
"""

from __future__ import annotations

import argparse
import filecmp
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from finepruning import Bank, Config, personalize, personalize_many
from finepruning.research import processor, resnet

CONFIG = Config(sparsity=0.7, check=False)
IMAGES, SIDE = 48, 64
SIZES = (10, 100)
ACTIVATED = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--bank", type=int, default=1000)
    parser.add_argument("--name", default="resnet18")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.name, args.people, args.workers)
        return
    print(processor())
    with tempfile.TemporaryDirectory() as folder:
        if args.people:
            fleet(Path(folder), args.name, args.people)
        if args.bank:
            crowd(Path(folder, "crowd"), args.name, args.bank)


def base(name: str) -> nn.Module:
    torch.manual_seed(0)
    return resnet(name).eval()


def images(person: int) -> list[Tensor]:
    made = torch.Generator().manual_seed(person)
    return [torch.randn(IMAGES // 2, 3, SIDE, SIDE, generator=made) + person % 7 for _ in "ab"]


def one(out: Path, name: str, count: int, workers: int) -> None:
    """Hand out the work, in a process of its own."""
    people = {f"user-{i:04}": functools.partial(images, i) for i in range(count)}

    def progress(_: str, why: str) -> None:
        print(time.monotonic(), why, flush=True)

    fleet = personalize_many(
        functools.partial(base, name), people, Bank(out), config=CONFIG, workers=workers,
        progress=progress,
    )  # fmt: skip
    print(json.dumps({"done": len(fleet.done), "there": len(fleet.there)}), flush=True)


def fleet(folder: Path, name: str, people: int) -> None:
    seconds = {}
    for workers in (1, 2):
        begun = time.monotonic()
        lines = run(folder / f"{workers}", name, people, workers)
        whole = time.monotonic() - begun
        seconds[workers] = whole
        first = float(lines[0].split()[0]) - begun
        print(
            f"{workers} worker{'s' * (workers > 1)}: {people} people in {whole:.1f} s"
            f" (the first after {first:.1f}), {people / whole:.2f} a second"
        )
    print(f"two beside one: {seconds[1] / seconds[2]:.2f} times the rate")
    compare(folder, people, "2")
    run(folder / "worker", name, people, 2, "worker")
    compare(folder, people, "worker")
    run(folder / "driver", name, people, 2, "driver")
    before = len(Bank(folder / "driver"))
    lines = run(folder / "driver", name, people, 2)
    print(f"the driver killed with {before} done; again: {lines[-1]}")
    compare(folder, people, "driver")


def run(out: Path, name: str, people: int, workers: int, kill: str = "") -> list[str]:
    """Lines of one run, in the middle of which somebody may be killed."""
    argv = [sys.executable, __file__, "--one", str(out), "--name", name]
    argv += ["--people", str(people), "--workers", str(workers)]
    lines = []
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line.strip())
            if len(lines) == people // 2 and kill:
                time.sleep(random.random())
                if kill == "driver":
                    driver.kill()
                else:
                    os.kill(random.choice(workers_of(driver.pid)), signal.SIGKILL)
                    print("a worker killed in the middle")
    time.sleep(1)
    return lines


def workers_of(driver: int) -> list[int]:
    """Processes that do a person's work."""
    below = psutil.Process(driver).children(recursive=True)
    return [p.pid for p in below if "_one" in " ".join(p.cmdline())]


def compare(folder: Path, people: int, other: str) -> None:
    """Whether the artifacts are those of one after the other, bit for bit."""
    names = [*Bank(folder / "1")]
    assert names == [*Bank(folder / other)], "somebody is missing"
    assert len(names) == people
    for name in names:
        files = sorted(p.name for p in (folder / "1" / name).iterdir())
        one_, two = folder / "1" / name, folder / other / name
        assert files == sorted(p.name for p in two.iterdir()), name
        same, _, _ = filecmp.cmpfiles(one_, two, files, shallow=False)
        changed = {*files} - {*same} - {"finepruning.json"}
        assert not changed, f"{name}: {changed}"
    left = [p.name for p in (folder / other).iterdir() if p.name not in names]
    print(f"{other}: {len(names)} of {people}, the same bits; left behind: {left or 'nothing'}")


def crowd(folder: Path, name: str, people: int) -> None:
    """What a bank of many takes."""
    model = base(name)
    bank, process, made = Bank(folder, model), psutil.Process(), folder.with_name("made")
    made.mkdir()
    for i in range(3):
        result = personalize(model, images(i), config=CONFIG, progress=False)
        result.save(made / str(i), values="differences", base=model)
    artifact = 0
    for i in range(people):
        user = f"user-{i:04}"
        bank.add(user, made / str(i % 3))
        artifact += sum(p.stat().st_size for p in (bank.folder / user).iterdir())
        if i + 1 in (*SIZES, people):
            timings(bank, model, i + 1)
    disk = sum(p.stat().st_size for p in bank.folder.rglob("*") if p.is_file())
    before = process.memory_info().rss
    for user in [*bank][:ACTIVATED]:
        bank.activate(model, user)
    bank.deactivate(model)
    grown = process.memory_info().rss - before
    weights = sum(p.nbytes for p in model.parameters())
    print(
        f"{people} people: {disk / 1e6:.0f} MB on disk, {disk / artifact:.3f} of the artifacts';"
        f" after activating {min(people, ACTIVATED)} of them, {grown / 1e6:.0f} MB more memory (the"
        f" base is {weights / 1e6:.0f})"
    )


def timings(bank: Bank, model: nn.Module, people: int) -> None:
    calls = {
        "list": lambda: [*bank],
        "find": lambda: f"user-{random.randrange(people):04}" in bank,
        "activate": lambda: bank.activate(model, f"user-{random.randrange(people):04}"),
    }
    shown = []
    for what, call in calls.items():
        taken = []
        for _ in range(15):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
        shown.append(f"{what} {1e3 * statistics.median(taken):.3f}")
    bank.deactivate(model)
    print(f"{people:5} people, ms: {', '.join(shown)}")


if __name__ == "__main__":
    main()
