"""Hostile artifacts, guided by which of our code they reach, where fuzz_artifacts.py draws blindly.

    python benchmarks/fuzz_guided.py [--runs 100000] [--corpus FOLDER]

Needs Atheris (``pip install atheris``). Each input is one file of an artifact, changed; the digests
are made right again, as by somebody who means harm, so that what lies behind them is reached.
Nothing but our errors, each in one line, in two seconds and two gigabytes at most. Inputs that
reach something new stay in FOLDER; one that goes wrong is written to a file, and ends the run.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

SECONDS, MEGABYTES, BYTES = 2, 2048, 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--corpus", type=Path)
    chosen = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["finepruning.artifact", "finepruning.report"]):
        import fuzz_artifacts
        import torch
        from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    base = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 8)
    names = (fuzz_artifacts.JSON, fuzz_artifacts.TENSORS)
    with TemporaryDirectory() as folder:
        held = fuzz_artifacts.artifacts(Path(folder), base)
        me, corpus = Path(folder, "me"), chosen.corpus or Path(folder, "corpus")
        me.mkdir()
        corpus.mkdir(exist_ok=True)
        for number, files in enumerate(held):
            for at, name in enumerate(names):
                (corpus / f"{number}-{at}").write_bytes(bytes([2 * number + at]) + files[name])

        def one(data: bytes) -> None:
            if not data:
                return
            files = dict(held[data[0] // 2 % len(held)])
            files[names[data[0] % 2]] = data[1:]
            with suppress(ValueError, RecursionError):  # no JSON: its digest stays wrong
                fuzz_artifacts.seal(files)
            for name, content in files.items():
                (me / name).write_bytes(content)
            fuzz_artifacts.look(me, base, x, [], False)

        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-max_len={BYTES}"]
        atheris.Setup([sys.argv[0], *limits, f"-atheris_runs={chosen.runs}", str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
