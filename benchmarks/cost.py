"""Time and memory of personalising ResNet-50, beside dense inference over the same photos.

    python benchmarks/cost.py [--photos 128] [--batch-size 32] [--rounds 3]

Every measurement is a process of its own, so that peak memory is its own; dense and personalising
processes alternate, and ratios are taken within a round, because absolute times are noisy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch
from protocol import dogs, need, resnet50

import finepruning
from finepruning._memory import PeakMemory


def job(kind: str, photos: int, batch_size: int) -> dict[str, float]:
    """Seconds and peak bytes above the loaded model and data, in this process."""
    model = resnet50()
    batches = list(dogs()[0][:photos].clone().split(batch_size))
    memory = PeakMemory(torch.device("cpu"))
    if kind == "dense":
        with torch.inference_mode():
            model(batches[0])  # the first call sets PyTorch up
            started = time.perf_counter()
            for batch in batches:
                model(batch)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "peak": memory.above_start()}
    started = time.perf_counter()
    report = finepruning.personalize(model, batches, effort=kind).report
    seconds = time.perf_counter() - started
    inner = {k: round(v, 2) for k, v in report.seconds.items()}
    return {
        "seconds": seconds,
        "peak": report.peak_memory or 0,
        "reported_passes": report.dense_passes,
        "forward_passes": report.forward_passes,
        **inner,
    }


def main() -> None:
    """Alternate dense and personalising processes and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    need("imagenet")
    if args.job:
        print(json.dumps(job(args.job, args.photos, args.batch_size)))
        return
    print("effort   seconds   dense s   ratio   peak MB   dense MB   above MB   parts")
    for _ in range(args.rounds):
        found = {}
        for kind in ("dense", "best", "fast"):
            command = [sys.executable, __file__, "--job", kind, "--photos", str(args.photos)]
            command += ["--batch-size", str(args.batch_size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = json.loads(done.stdout)
        dense = found["dense"]
        for kind in ("best", "fast"):
            f = found[kind]
            print(
                f"{kind:<7}{f['seconds']:9.1f}{dense['seconds']:10.1f}"
                f"{f['seconds'] / dense['seconds']:8.2f}{f['peak'] / 1e6:10,.0f}"
                f"{dense['peak'] / 1e6:11,.0f}{(f['peak'] - dense['peak']) / 1e6:11,.0f}   "
                + json.dumps({k: v for k, v in f.items() if k not in ("seconds", "peak")}),
                flush=True,
            )


if __name__ == "__main__":
    main()
