"""The panel: many networks and many kinds of people, by which decisions are judged.

    python benchmarks/panel.py cache [--networks resnet20,...] [--missing]
    python benchmarks/panel.py judge [--methods dense,today,...] [--people 10] [--brief]
    python benchmarks/panel.py choose [--people 2] [--ns 16,32,128]
    python benchmarks/panel.py others
    python benchmarks/panel.py levels [--people 1] [--ns 32,128]
    python benchmarks/panel.py whole [--sparsities 0,0.5,0.7,auto] [--people 2] [--ns 32,128]

``cache`` runs the dense networks once, ``judge`` tries read-outs on what it wrote, in seconds,
``choose`` chooses the read-out's constants with each network left out in turn, ``others`` looks at
networks whose outputs are no classes, ``levels`` tries every sparsity beside the one chosen, and
``whole`` runs all of personalize. Networks whose weights
or packages are not there are named and left out. ``--kinds`` names kinds of people, separated by
``;``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from panel_choose import SIZES as CHOOSE_SIZES
from panel_choose import choose
from panel_judge import comparison, judge, tables, write
from panel_levels import levels
from panel_networks import NETWORKS, cached, write_cache
from panel_others import others
from panel_people import SIZES
from panel_readouts import METHODS
from panel_train import CHECKPOINTS
from panel_whole import SIZES as WHOLE_SIZES
from panel_whole import whole

SMOKE = "digits"


def cache(names: list[str], folder: Path, missing: bool) -> None:
    """Write what the dense networks say of all samples."""
    for name in names:
        if missing and cached(folder / f"{name}.npz"):
            continue
        if lacking := NETWORKS[name].missing():
            print(f"skipped: {name}; {lacking}")
        else:
            write_cache(NETWORKS[name], folder)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("cache", "judge", "choose", "others", "levels", "whole"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--folder", type=Path, default=CHECKPOINTS, help="where the cache is")
    parser.add_argument("--missing", action="store_true", help="cache only what is not there")
    parser.add_argument("--methods", default="dense,today,checked,lame,em,C,C-related")
    parser.add_argument("--people", type=int, help="of each kind")
    parser.add_argument("--ns", help="unlabelled samples, such as 16,128")
    parser.add_argument("--kinds", help="of people, such as '3 equal;everybody'")
    parser.add_argument("--sparsities", default="0,0.5,0.7,auto")
    parser.add_argument("--levels", help="of the sparsities that are tried, only these")
    parser.add_argument("--brief", action="store_true", help="no line for each network and kind")
    parser.add_argument("--smoke", action="store_true", help="one network, one person of each kind")
    args = parser.parse_args()
    names, methods = args.networks.split(","), args.methods.split(",")
    for asked, there in ((names, NETWORKS), (methods, METHODS)):
        if unknown := [x for x in asked if x not in there]:
            parser.error(f"no {unknown[0]!r}; there are {', '.join(there)}")
    kinds = args.kinds.split(";") if args.kinds else None
    sizes = tuple(int(n) for n in args.ns.split(",")) if args.ns else None
    people, folder = args.people, args.folder
    if args.smoke:
        names, people, sizes, folder = [SMOKE], 1, (16,), folder / "smoke"
    if args.part == "cache":
        cache(names, folder, args.missing)
        return
    if args.part == "others":
        print(others(args.smoke))
        return
    there = [name for name in names if (folder / f"{name}.npz").is_file()]
    for name in [n for n in names if n not in there]:
        print(f"skipped: {name}; python benchmarks/panel.py cache --networks {name}")
    if args.part == "judge" and there:
        found = {}
        for method in methods:
            found[method] = judge(
                method, METHODS[method], folder, there, people, sizes or SIZES, kinds, _say
            )
            write(found[method], folder)
            print(f"{tables(found[method], not args.brief)}\n")
        print(comparison(found))
    if args.part == "choose" and there:
        print(choose(there, folder, people or 2, sizes or CHOOSE_SIZES, args.smoke, _say))
    if args.part == "levels" and there:
        there = [name for name in there if not NETWORKS[name].missing()]
        only = [float(s) for s in args.levels.split(",")] if args.levels else []
        print(levels(there, folder, people or 1, sizes or WHOLE_SIZES, kinds, args.smoke, only))
    if args.part == "whole":
        sparsities = args.sparsities.split(",")
        for name in there:
            if lacking := NETWORKS[name].missing():
                print(f"skipped: {name}; {lacking}")
            else:
                whole(
                    name, folder, sparsities, people or 2, sizes or WHOLE_SIZES, kinds,
                    smoke=args.smoke,
                )  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
