"""Personalise a small network for two people, with the command line: python demo/run.py

Everything happens in a temporary folder; ``--keep DIR`` leaves images and networks in DIR, so that
the commands that are printed can be tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from people import PEOPLE, PHOTOS, Person, write_images

MODEL = f"{os.path.relpath(Path(__file__).with_name('digits.py'))}:digits"
SPARSITY = "0.7"


def finepruning(*arguments: str) -> dict[str, Any]:
    """Print and run a command, and return the JSON that it writes."""
    arguments = (*arguments, "--format", "json")
    print(f"$ {shlex.join(['finepruning', *arguments])}", flush=True)
    # `python -m` finds the package also where the script `finepruning` is not on the PATH.
    command = [sys.executable, "-m", "finepruning", *arguments]
    # One thread is enough for so small a network, and more only wait where others use the cores.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
        raise SystemExit(done.returncode if done.returncode > 0 else 1)
    return json.loads(done.stdout)


def personalise(person: Person, folder: Path) -> dict[str, Any]:
    """Write a person's images and make their network, ``folder/<name>/network``."""
    mine = folder / person.name
    write_images(person, mine)
    data = ("--data", str(mine / "photos"))
    # Of ten outputs and a hand that the network does not know it hardly shows which digits are
    # theirs; they know.
    only = ",".join(map(str, person.digits))
    options = ("--out", str(mine / "network"), "--sparsity", SPARSITY, "--only-classes", only)
    return finepruning("personalize", "--model", MODEL, *data, *options)["report"]


def evaluate(network: Person, data: Person, folder: Path) -> dict[str, Any]:
    """Evaluate one person's network, and the generic one, on the test images of a person."""
    return finepruning(
        "evaluate",
        *("--model", MODEL),
        *("--personal", str(folder / network.name / "network")),
        *("--data", str(folder / data.name / "test")),
    )


def score(found: dict[str, Any]) -> list[str]:
    """Return the cells of the table: over all outputs, and told the person's digits."""
    cells = []
    for prefix in ("", "told_"):
        k, n, (low, high) = found[f"{prefix}correct"], found["n"], found[f"{prefix}interval"]
        cells.append(f"{k}/{n} = {k / n:.1%} [{low:.1%}, {high:.1%}]")
    return cells


def table(rows: list[list[str]]) -> str:
    """Return rows as aligned text; a row of one cell is a heading."""
    widths = [
        max(map(len, column)) for column in zip(*(r for r in rows if len(r) > 1), strict=True)
    ]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def demo(folder: Path) -> str:
    """Run the commands for both people; return the table, and in two sentences what it says."""
    reports = {person: personalise(person, folder) for person in PEOPLE}
    rows = [["", "all 10 outputs", "told the digits", "zeros", "seconds"]]
    gains, strangers = [], []
    for person, stranger in (PEOPLE, PEOPLE[::-1]):
        own = evaluate(person, person, folder)
        other = evaluate(stranger, person, folder)
        rows.append([f"{person.name} writes {', '.join(map(str, person.digits))}"])
        rows.append(["  generic network", *score(own["dense"]), "", ""])
        for network, found in ((person, own), (stranger, other)):
            report = reports[network]
            cells = [f"{report['sparsity']:.1%}", f"{report['seconds']['total']:.1f}"]
            rows.append([f"  {network.name}'s network", *score(found["personal"]), *cells])
        n, more = own["personal"]["n"], own["personal"]["correct"] - own["dense"]["correct"]
        gains.append(f"{more:+} of {n} for {person.name} ({more / n * 100:+.1f} points)")
        strangers.append(f"{other['personal']['accuracy']:.0%} right on {person.name}'s")
    return (
        f"{table(rows)}\n[95 % Wilson interval; no network has seen a test image]\n\n"
        f"With {float(SPARSITY):.0%} of the weights gone, after {PHOTOS} images without labels, and"
        f" told which digits there are,\nright answers change by {' and by '.join(gains)}.\n"
        "'Told the digits' lets a network choose among the person's digits only, so a difference"
        " there is not\njust knowing which digits come; and each network is for one person:"
        f" the other's gets\n{' and '.join(strangers)} images."
    )


def main() -> None:
    """Run the demo in a temporary folder, or in the one to keep."""
    parser = argparse.ArgumentParser(description="Personalise a small network for two people.")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="new folder for all files")
    keep = parser.parse_args().keep
    if keep is not None:
        if keep.exists():
            parser.error(f"--keep {keep}: exists already; give another name")
        text = demo(keep)
    else:
        with tempfile.TemporaryDirectory(prefix="finepruning-") as folder:
            text = demo(Path(folder))
    print(f"\n{text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
