"""``finepruning bench``: latency and size on this machine, dense against personal."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from . import common, opening, options

if TYPE_CHECKING:
    from torch import nn

HELP = "time dense, zeros and small networks on this machine, in one paired run"


def add_options(parser: argparse.ArgumentParser) -> None:
    opening.add_options(parser)
    parser.add_argument("--rounds", type=options.positive, default=15, metavar="N")
    parser.add_argument("--threads", type=options.positive, metavar="N", help="(all cores)")
    parser.add_argument("--int8", action="store_true", help="with 8-bit files too")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import torch

    from ..deploy.bench import processor
    from ..deploy.shrink import shrink

    found = opening.opened(args)
    if not isinstance(found.example, torch.Tensor):
        raise FinepruningError(f"{args.data}: bench times networks that take one tensor")
    threads = args.threads or os.cpu_count() or 1
    models: dict[str, nn.Module] = {"dense": found.loaded.model}
    if not Path(args.personal, opening.SMALL).is_file():
        models["with zeros"] = found.model
        small = shrink(found.model, found.example, plain=found.plain)
        if small.removed:
            models["small"] = small.model
    else:
        models["small"] = found.model
    with tempfile.TemporaryDirectory() as folder:
        files = _files(args, models, found, Path(folder))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            rows = _rows(models, files, found.example, args.rounds, threads)
        finally:
            torch.set_num_threads(before)
    summary = {"threads": threads, "processor": processor(), "rows": rows}
    return summary, _table(summary)


def _files(
    args: argparse.Namespace, models: dict[str, nn.Module], found: opening.Opened, folder: Path
) -> dict[str, Path]:
    """Each as a file for ONNX Runtime."""
    from ..deploy.export import export

    files: dict[str, Path] = {}
    for name, model in models.items():
        for int8 in (False, True) if args.int8 else (False,):
            label = name + ", int8" * int8
            file = folder / f"{len(files)}.onnx"
            try:
                export(model, file, found.example, int8=found.folder if int8 else None)
                files[label] = file
            except FinepruningError as error:
                common.say(f"{label}: left out of ONNX Runtime's rows ({error})")
    return files


def _rows(
    models: dict[str, nn.Module], files: dict[str, Path], example: Any, rounds: int, threads: int
) -> list[dict[str, Any]]:
    from dataclasses import asdict

    import torch

    from ..deploy.bench import paired, sizes
    from ..deploy.runtime import Deployed

    deployed = {name: Deployed(file, threads) for name, file in files.items()}
    rows: list[dict[str, Any]] = []
    for batch in (1, 16):
        x = torch.cat([example] * (-(-batch // len(example))))[:batch]
        calls: dict[str, Any] = {f"PyTorch: {n}": _torch_call(m, x) for n, m in models.items()}
        ours = {f"ONNX Runtime: {n}": _onnx_call(d, x.numpy()) for n, d in deployed.items()}
        for group in (calls, ours):
            if not group:
                continue
            for timing in paired(group, next(iter(group)), rounds):
                row = {"batch": batch, **asdict(timing)}
                name = timing.name.partition(": ")[2]
                if group is ours:
                    row["bytes"], row["download"] = sizes([files[name]])
                rows.append(row)
    return rows


def _torch_call(model: nn.Module, x: Any) -> Any:
    import torch

    def call() -> None:
        with torch.inference_mode():
            model(x)

    return call


def _onnx_call(deployed: Any, x: Any) -> Any:
    return lambda: deployed.run(x)


def _table(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['processor']}, {summary['threads']} threads; medians with quartiles, paired",
        f"{'':36} batch       ms (25 % - 75 %)     times    file MB   gzip MB",
    ]
    for row in summary["rows"]:
        size = f"{row['bytes'] / 1e6:10.1f}{row['download'] / 1e6:10.1f}" if "bytes" in row else ""
        lines.append(
            f"{row['name']:36} {row['batch']:5} {row['median']:8.1f}"
            f" ({row['low']:.1f} - {row['high']:.1f}){row['times']:10.2f}{size}"
        )
    return "\n".join(lines)
