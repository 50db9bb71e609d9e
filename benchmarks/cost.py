"""Time and memory of personalising ResNet-50, beside dense inference over the same photos.

    python benchmarks/cost.py [--photos 128] [--batch-size 32] [--rounds 3] [--smoke]

Every measurement is a process of its own, so that peak memory is its own; dense and personalising
processes alternate, and ratios are taken within a round, because absolute times are noisy. The
rows go to a file in ``results/``; rounds that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
from measure import append_row, read_rows, result_file
from networks import load_network, need
from users import dogs

import finepruning
from finepruning.research import PeakMemory


@dataclass
class CostRow:
    """One effort in one round. Peaks are above the loaded network and photos."""

    photos: int
    batch_size: int
    round: int
    effort: str
    seconds: float
    solve_seconds: float
    forward_passes: float
    peak_mb: float
    dense_seconds: float
    dense_peak_mb: float

    @property
    def ratio(self) -> float:
        """Seconds in units of the dense network's for the same photos in the same round."""
        return self.seconds / self.dense_seconds


def job(kind: str, photos: int, batch_size: int) -> dict[str, float]:
    """Seconds and peak memory of dense inference, or of an effort, in this process."""
    model = load_network("resnet50")
    pool, own, _ = dogs()
    batches = list(torch.split(pool[own[:photos]], batch_size))
    del pool
    if kind == "dense":
        with PeakMemory(torch.device("cpu")) as memory, torch.inference_mode():
            model(batches[0])  # the first call sets PyTorch up
            started = time.perf_counter()
            for batch in batches:
                model(batch)
            seconds = time.perf_counter() - started
            return {"dense_seconds": seconds, "dense_peak_mb": memory.above_start() / 1e6}
    started = time.perf_counter()
    report = finepruning.personalize(model, batches, effort=kind).report
    return {
        "seconds": time.perf_counter() - started,
        "solve_seconds": report.seconds["solve"],
        "forward_passes": report.forward_passes,
        "peak_mb": (report.peak_memory or 0) / 1e6,
    }


def in_process(kind: str, photos: int, batch_size: int) -> dict[str, float]:
    """What :func:`job` finds in a process of its own."""
    command = [sys.executable, __file__, "--job", kind, "--photos", str(photos)]
    command += ["--batch-size", str(batch_size)]
    found: dict[str, float] = json.loads(subprocess.check_output(command, text=True))
    return found


def main() -> None:
    """Alternate dense and personalising processes; write and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="4 photos, one round, only fast")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    need("imagenet")
    photos, batch_size, rounds = args.photos, args.batch_size, args.rounds
    efforts: tuple[str, ...] = ("best", "fast")
    if args.job:
        print(json.dumps(job(args.job, photos, batch_size)))
        return
    path = result_file("cost-resnet50" + ("-smoke" if args.smoke else ""))
    path.parent.mkdir(exist_ok=True)
    if args.smoke:
        photos, rounds, efforts = 4, 1, ("fast",)
        path.unlink(missing_ok=True)
    there = {(row.photos, row.batch_size, row.round) for row in read_rows(path, CostRow)}
    print("effort  photos   seconds   dense s   ratio   solve s   peak MB   dense MB")
    for number in range(rounds):
        if (photos, batch_size, number) in there:
            continue
        dense = in_process("dense", photos, batch_size)
        found = {effort: in_process(effort, photos, batch_size) for effort in efforts}
        for effort, cost in found.items():
            row = CostRow(photos, batch_size, number, effort, **cost, **dense)
            append_row(path, row)
            print(
                f"{effort:<8}{photos:6}{row.seconds:10.1f}{row.dense_seconds:10.1f}"
                f"{row.ratio:8.2f}{row.solve_seconds:10.1f}{row.peak_mb:10,.0f}"
                f"{row.dense_peak_mb:11,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
