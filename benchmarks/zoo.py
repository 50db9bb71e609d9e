"""Published networks of many families: done or refused in one line, and what is told is true.

    python benchmarks/zoo.py [NAME ...] [--out FILE] [--seconds 600]
    python benchmarks/zoo.py --channels [NAME ...]      whole channels go, and shrink takes them out
    python benchmarks/zoo.py --page docs/zoo.md

Each family runs in a process of its own, on random weights and random samples: what is looked at is
whether all that is said is true, not what is recognised.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo_families import Family, families

SPARSITY, MACS = 0.7, 0.6
WEIGHTS, CHANNELS = Path("build/zoo.jsonl"), Path("build/zoo-channels.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names of families")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--channels", action="store_true")
    parser.add_argument("--seconds", type=float, default=600, help="for one family")
    parser.add_argument("--page", type=Path, help="write what --out holds as a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    given = chosen.out
    chosen.out = given or (CHANNELS if chosen.channels else WEIGHTS)
    if chosen.page:
        found = (chosen.out, *([CHANNELS] if CHANNELS.exists() and not given else []))
        rows: dict[str, dict[str, Any]] = {}
        for row in (json.loads(text) for file in found for text in file.read_text().splitlines()):
            rows[row["name"]] = rows.get(row["name"], {}) | row
        chosen.page.write_text(page([*rows.values()]))
        return
    if chosen.one:
        (family,) = [f for f in families() if f.name == chosen.one]
        print(json.dumps(look_at_channels(family) if chosen.channels else look_at(family)))
        return
    names = [
        f.name for f in families() if not chosen.names or any(n in f.name for n in chosen.names)
    ]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    if chosen.out.exists():  # of a run that was interrupted
        known = {json.loads(row)["name"] for row in chosen.out.read_text().splitlines()}
        names = [name for name in names if name not in known]
    with chosen.out.open("a") as out:
        for name in names:
            row = _apart(name, chosen.seconds, chosen.channels)
            out.write(json.dumps(row) + "\n")
            out.flush()
            print(line(row), flush=True)


def _apart(name: str, seconds: float, channels: bool) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, *["--channels"] * channels],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "outcome": f"over {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"name": name, "outcome": "CRASH " + " ".join(done.stderr.strip().splitlines()[-1:])}
    return json.loads(lines[-1])


def line(row: dict[str, Any]) -> str:
    """A row for reading."""
    if "channels" in row:
        return f"{row['name']:50} {row['channels']}"
    if "sparsity" not in row:
        return f"{row['name']:50} {row['outcome']}"
    flags = (
        ""
        if row["same"] and row["untouched"]
        else f" SAME {row['same']} UNTOUCHED {row['untouched']}"
    )
    return (
        f"{row['name']:50} told {row['sparsity']:.3f} runs {row['runs']:.3f}"
        f" of all {row['of_all']:.3f} unaccounted {row['unaccounted']:.3f}"
        f" error {row['error']:.3f} {row['passes']:.1f} passes"
        f" readout: {row['readout'][:60]} left {row['left'][:80]}{flags}"
    )


PAGE = """# The zoo

Published networks of many families, tiny where they can be, on random weights and random samples
(`make zoo`): each is personalised at 70 % of what can be pruned, and what the report says is
compared with the network that comes back. Written by `benchmarks/zoo.py --page`.

{done} of {all} are done, {refused} refused, {broken} neither; {unbuilt} could not be built here
with the sizes chosen. Of the {done}: told and true sparsity of what runs differ by {apart:.4f} at
most; weights of two and more dimensions that no line accounts for: {lost:.4f} of all at most;
loading the artifact gives the same outputs in {same}, the network given is untouched in
{untouched}.

*of what runs*: zeros of the weights that can be pruned and run, counted in the network that came
back. *of all*: of all its weights of two and more dimensions, embeddings included. *error*: what
the outputs on other samples miss of their variance; random weights amplify what real ones do not,
so compare it within a family only. *passes*: total time in forward passes over the same samples; of
networks as tiny as these most of it is overhead.

*channels*: with `--channels`, of which 60 % of the multiply-accumulates are to stay: how many
weights the smaller network has, compared with the one with zeros; or why it is declined.

| family | of what runs | of all | error | passes | left alone, for example | channels |
|---|---|---|---|---|---|---|
"""


def page(rows: list[dict[str, Any]]) -> str:
    """The table of all families."""
    done = [row for row in rows if row["outcome"] == "done"]
    starts = {k: [r for r in rows if r["outcome"].startswith(k)] for k in ("refused", "NOT BUILT")}
    broken = len(rows) - len(done) - sum(map(len, starts.values()))
    text = PAGE.format(
        done=len(done), all=len(rows), refused=len(starts["refused"]), broken=broken,
        unbuilt=len(starts["NOT BUILT"]), same=sum(r["same"] for r in done),
        apart=max((abs(r["sparsity"] - r["runs"]) for r in done), default=0),
        lost=max((abs(r["unaccounted"]) for r in done), default=0),
        untouched=sum(r["untouched"] for r in done),
    )  # fmt: skip
    for row in rows:
        if row["outcome"] == "done":
            left = row["left"].split("; ")[0].replace("|", "/")[:90]
            more = f" ({row['left_count']} in all)" if row["left_count"] > 1 else ""
            text += (
                f"| {row['name']} | {row['runs']:.3f} | {row['of_all']:.3f} | {row['error']:.3f} |"
                f" {row['passes']:.0f} | {left}{more if left else ''} |"
                f" {row.get('channels', '')[:120].replace('|', '/')} |\n"
            )
        else:
            text += f"| {row['name']} | {row['outcome'][:160].replace('|', '/')} | | | | |\n"
    return text


def look_at(family: Family) -> dict[str, Any]:
    """Personalise one network, and check what is told."""
    import finepruning

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    row: dict[str, Any] = {"name": family.name}
    try:
        model = family.build().eval()
        batches, others = family.data(1), family.data(2)
        for p in model.parameters():  # of a last layer that starts at zero nothing would show
            if p.ndim > 1 and not p.any():
                nn.init.normal_(p, std=0.02)
        settle(model, batches)
        with torch.no_grad():
            dense = output(model, others)
            if not bool(dense.isfinite().all()):
                return row | {"outcome": "NOT BUILT: its own output is not finite"}
    except Exception as error:
        return row | {"outcome": f"NOT BUILT: {type(error).__name__} {str(error)[:200]}"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    started = time.perf_counter()
    try:
        result = personalize(model, batches)
    except finepruning.FinepruningError as error:
        return row | {"outcome": f"refused: {error}", "seconds": time.perf_counter() - started}
    except BaseException as error:
        return row | {"outcome": _traceback(error)}
    seconds = time.perf_counter() - started
    report = result.report
    untouched = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    try:
        with torch.no_grad():
            personal = output(result.model, others)
    except Exception as error:
        return row | {"outcome": f"RESULT BROKEN {type(error).__name__} {str(error)[:150]}"}
    path = Path("build/zoo-one") / family.name.replace("/", "-")
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    result.save(path)
    loaded = finepruning.load(path, model)
    with torch.no_grad():
        again = output(loaded, others)
    # The weights are the same bits. Kernels may round otherwise, by where these lie in memory.
    held = [m.state_dict() for m in (result.model, loaded)]
    same = all(torch.equal(held[1][k], v) for k, v in held[0].items()) and torch.allclose(
        again, personal, atol=1e-5 * float(personal.abs().max())
    )
    shutil.rmtree(path)
    with torch.no_grad():
        started = time.perf_counter()
        output(model, batches)
        one = time.perf_counter() - started
    shift = report.to_dict()["readout"]
    told = report.to_dict()
    named = told["left_alone"]
    big = {id(p): (n, p) for n, p in result.model.named_parameters() if p.ndim > 1}
    zeros = sum(int((p == 0).sum()) for _, p in big.values())
    weights = sum(p.numel() for _, p in big.values())
    return row | {
        "outcome": "done", "sparsity": report.sparsity,
        "runs": _runs(result.model, others, result.pruned), "of_all": zeros / weights,
        "unaccounted": 1 - told["all_weights"] / weights, "error": missed(dense, personal),
        "seconds": seconds,
        "passes": seconds / one, "same": same, "untouched": untouched,
        "readout": "" if shift["applied"] else shift["reason"],
        "left": "; ".join(f"{n}: {r}" for n, r in [*named.items()][:2]), "left_count": len(named),
    }  # fmt: skip


def look_at_channels(family: Family) -> dict[str, Any]:
    """Take whole channels out of one network, and compare what is smaller with what has zeros."""
    import finepruning

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    row: dict[str, Any] = {"name": family.name}
    try:
        model = family.build().eval()
        batches, others = family.data(1), family.data(2)
        settle(model, batches)
    except Exception as error:
        return row | {"channels": f"NOT BUILT: {type(error).__name__} {str(error)[:200]}"}
    try:
        result = personalize(model, batches, structure={"macs": MACS})
        small = finepruning.shrink(result.model, batches[0], plain=result.plain)
        with torch.no_grad():
            wanted, found = output(result.model, others), output(small.model, others)
    except finepruning.FinepruningError as error:
        return row | {"channels": f"declined: {error}"}
    except BaseException as error:
        return row | {"channels": _traceback(error)}
    far = float((wanted - found).abs().max() / wanted.abs().max().clamp(min=1e-9))
    before = sum(p.numel() for p in model.parameters())
    stays = sum(p.numel() for p in small.model.parameters()) / before
    done = f"{stays:.0%} of the weights stay" if far < NEAR else f"DIFFERS by {far:.1e}"
    return row | {"channels": done, "named": len(small.left)}


def _traceback(error: BaseException) -> str:
    """What nobody should ever see, and where."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"TRACEBACK {type(error).__name__} {str(error)[:150]} at {place}"


NEAR = 1e-3
"""Of the largest output: rounding, added up over a network."""


def personalize(model: nn.Module, batches: list[Any], **options: Any) -> Any:
    """Prune it, and do not look at whether it is better: random networks recognise nothing."""
    import finepruning

    # Neighbours would be asked what random networks answer, and change that.
    config = finepruning.Config(
        **(options or {"sparsity": SPARSITY}), check={"enabled": False}, neighbours={"weight": 0.0}
    )
    return finepruning.personalize(model, batches, config=config, progress=False)


def missed(dense: Tensor, personal: Tensor) -> float:
    """Share of the outputs' variance that is missed."""
    if dense.ndim == 2:  # a read-out shifts all samples alike
        personal = personal - personal.mean(0) + dense.mean(0)
    return float((personal - dense).double().square().mean() / dense.double().var())


def settle(model: nn.Module, batches: list[Any]) -> None:
    """Give batch norms the statistics of some data: those they begin with let nothing through."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for _ in range(2 if norms else 0):  # those behind see what those before give then
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            output(model, batches)
        model.eval()
    for norm in norms:
        norm.momentum = 0.1


def _runs(model: nn.Module, batches: list[Any], pruned: Any) -> float:
    """Zeros of the weights that were pruned."""
    weights = [model.get_parameter(n) for n in pruned]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def output(model: nn.Module, batches: list[Any]) -> Tensor:
    """What it answers."""
    torch.manual_seed(0)
    return torch.cat([_tensor(_call(model, copy.copy(b))) for b in batches]).float()


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict):
        if hasattr(model, "config") and getattr(model.config, "is_encoder_decoder", False):
            key = next(iter(batch))
            if "decoder_input_ids" not in batch and "Classification" not in type(model).__name__:
                batch["decoder_input_ids"] = torch.full((len(batch[key]), 3), 7)
        return model(**batch)
    return model(batch)


def _tensor(output: Any) -> Tensor:
    for key in ("logits", "out", "last_hidden_state"):
        if hasattr(output, key):
            return getattr(output, key)
        if isinstance(output, dict) and key in output:
            return output[key]
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return torch.cat([o["scores"].flatten()[:1] for o in output])[:, None]
    return output if isinstance(output, Tensor) else output[0]


if __name__ == "__main__":
    main()
