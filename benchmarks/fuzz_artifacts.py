"""Damaged and hostile artifacts: none is taken for whole, none raises what is not ours, or hangs.

    python benchmarks/fuzz_artifacts.py [--count 1000000] [--seed 0]

A small network's artifacts of two people, of all kinds, with and without a key, are damaged at
random: bits turned, bytes replaced, cut out and doubled, files mixed, and values of the JSON
replaced. Half of the latter are given the right digests again, as by somebody who means harm:
these may load, but raise nothing but ours. Each is loaded, and shown as ``inspect`` shows it.
Prints what went wrong, with the number that makes the file again, and exits with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import finepruning
from finepruning import Config, FinepruningError
from finepruning.research import ZEROS, format_report, page, sealed, summary

SECONDS, BYTES = 2, 1e9
JSON, TENSORS = "finepruning.json", "personal.safetensors"
KEY = b"secret"
PAGES = 500
"""One of so many is drawn as a page too, which takes a thousand times as long."""
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), 2**70, "", "x", "\x1b[2J\n", "../../etc/passwd", [], {},
    [[]], {"a": 1}, "head.weight", ["0.weight"], [None], "9" * 5000,
)  # fmt: skip


FITS: dict[str, dict[Any, bytes | None]] = {
    "compensate": {"exact": KEY, "float16": None, "int8": KEY, "differences": None},
    "gains": {"mask": None},
}


class LateError(Exception):
    """It took too long."""


def artifacts(folder: Path, base: nn.Module) -> list[dict[str, bytes]]:
    """Of two people, of all kinds, some with a key."""
    made = []
    for person in range(2):
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(person))
        for method, kinds in FITS.items():
            config = Config(effort="fast", fit={"method": method}, check=False)
            result = finepruning.personalize(base, x, config=config, progress=False)
            for kind, key in kinds.items():
                out = folder / f"{person}-{kind}"
                result.save(out, values=kind, base=base, key=key)
                made.append({file.name: file.read_bytes() for file in out.iterdir()})
    return made


def damaged(chance: random.Random, held: list[dict[str, bytes]]) -> tuple[dict[str, bytes], bool]:
    """One of the artifacts, damaged; and whether its digests are made right again."""
    files = dict(chance.choice(held))
    kind = chance.randrange(10)
    if kind == 0:  # of another person
        name, other = chance.choice([JSON, TENSORS]), chance.choice(held)
        files[name] = other[name]
        return files, False
    if kind < 4:
        about = json.loads(files[JSON])
        _replaced(chance, about)
        files[JSON] = json.dumps(about, indent=1).encode()
        if kind < 3:
            seal(files)
        return files, kind < 3
    name = chance.choice([JSON, TENSORS])
    whole = bytearray(files[name])
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(whole) + 1)
        size = min(chance.choice([1, 1, 4, 8, 64, 1000]), len(whole) - at)
        kind = chance.randrange(5)
        if kind == 0 and size:
            whole[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            whole[at : at + size] = chance.randbytes(size)
        elif kind == 2:
            del whole[at : at + size]
        elif kind == 3:
            whole[at:at] = whole[at : at + size]
        else:
            del whole[at:]
        if not whole:
            break
    files[name] = bytes(whole)
    hostile = chance.random() < 0.5 and name == TENSORS
    if hostile:
        seal(files)
    return files, hostile


def _replaced(chance: random.Random, about: Any) -> None:
    """Somewhere in it another value, or one less, or one more."""
    while True:
        keys = [*about] if isinstance(about, dict) else [*range(len(about))]
        key = chance.choice(keys)
        inner = about[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
            about = inner
            continue
        kind = chance.randrange(4)
        if kind == 0:
            del about[key]
        elif kind == 1 and isinstance(about, list):
            about.append(inner)
        else:
            about[key] = chance.choice(ODD)
        return


def seal(files: dict[str, bytes]) -> None:
    """Make the digests right again."""
    about = json.loads(files[JSON])
    if not isinstance(about, dict):
        return
    about = {"digest": None} | about | {"digest": ZEROS.decode()}
    of = about.get("files")
    if isinstance(of, dict) and isinstance(of.get("personal"), dict):
        data = files[TENSORS]
        of["personal"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    key = KEY if about.get("seal") == "hmac-sha256" else None
    files[JSON] = sealed(json.dumps(about, indent=1).encode(), key)


def look(
    folder: Path, base: nn.Module, x: torch.Tensor, right: list[torch.Tensor], drawn: bool
) -> str:
    """What the folder is taken for: ``refused``, ``right``, ``other``."""
    for key in (None, KEY):
        try:
            report = finepruning.read_report(folder, key)
            summary(report), format_report(report)
            if drawn:
                page(report)
        except FinepruningError as error:
            _one_line(error)
        try:
            outputs = finepruning.load(folder, base, key=key)(x)
        except FinepruningError as error:
            _one_line(error)
            continue
        return "right" if any(torch.equal(outputs, r) for r in right) else "other"
    return "refused"


def _one_line(error: FinepruningError) -> None:
    if "\n" in str(error):
        raise ValueError(f"more than a line: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 8)
    signal.signal(signal.SIGALRM, _late)
    wrong, taken = 0, Counter[str]()
    with TemporaryDirectory() as place:
        held = artifacts(Path(place), base)
        right = [
            finepruning.load(Path(place, f"{p}-{kind}"), base, key=key)(x)
            for p in range(2)
            for kinds in FITS.values()
            for kind, key in kinds.items()
        ]
        me = Path(place, "me")
        me.mkdir()
        for number in tqdm(range(chosen.start, chosen.start + chosen.count)):
            files, hostile = damaged(random.Random(f"{chosen.seed} {number}"), held)
            for name, data in files.items():
                (me / name).write_bytes(data)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                found = look(me, base, x, right, number % PAGES == 0)
            except BaseException as error:
                found = f"{type(error).__name__}: {str(error)[:200]}"
            signal.setitimer(signal.ITIMER_REAL, 0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            allowed = ("refused", "right", "other") if hostile else ("refused", "right")
            if grown > BYTES:
                found = f"{grown / 1e9:.1f} GB"
            taken[f"{'hostile' if hostile else 'damaged'}: {found.split(':')[0]}"] += 1
            if found not in allowed:
                wrong += 1
                print(f"{number}: {found}", flush=True)
    print(f"{chosen.count} artifacts, {wrong} wrong; {dict(taken)}; {time.process_time():.0f} s")
    sys.exit(bool(wrong))


def _late(*_: object) -> None:
    raise LateError


if __name__ == "__main__":
    main()
