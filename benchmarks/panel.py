"""The panel: many networks and many kinds of people, by which decisions are judged.

    python benchmarks/panel.py cache [--networks resnet20,...] [--folder build/panel]
    python benchmarks/panel.py judge [--networks ...] [--methods dense,today,...] [--people 10]
    python benchmarks/panel.py whole [--networks ...] [--sparsities 0,0.5,0.7] [--people 2]

``cache`` runs the dense networks once, ``judge`` tries read-outs on what it wrote, in seconds, and
``whole`` runs all of personalize. Networks whose weights or packages are not there are named and
left out.
"""

from __future__ import annotations

import argparse
import time
import sys
from pathlib import Path

from panel_networks import CHECKPOINTS, NETWORKS, write_cache


def cache(names: list[str], folder: Path, smoke: bool) -> None:
    """Write what the dense networks say of all samples."""
    for name in names:
        if lacking := NETWORKS[name].missing():
            print(f"skipped: {name}; {lacking}")
        else:
            write_cache(NETWORKS[name], folder)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("cache", "judge", "whole"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    names = args.networks.split(",")
    if unknown := [n for n in names if n not in NETWORKS]:
        parser.error(f"no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    cache(names, args.folder, args.smoke)


if __name__ == "__main__":
    sys.exit(main())
