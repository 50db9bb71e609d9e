"""``finepruning bank``: many people's artifacts over one base, in a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import FinepruningError

HELP = "many people's artifacts over one base, in a folder or elsewhere"

DOES = {
    "add": "put in the artifact DIR, as NAME",
    "list": "who is there",
    "remove": "take NAME out",
    "verify": "look at every bit of everybody's, or of NAME's",
    "gc": "remove what killed processes left",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    lines = "; ".join(f"{name}: {what}" for name, what in DOES.items())
    parser.add_argument("does", choices=DOES, help=lines)
    parser.add_argument(
        "bank", metavar="BANK", help="the folder, or a location such as s3://bucket/people"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a person")
    parser.add_argument("personal", metavar="DIR", nargs="?", help="what personalize saved")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    named = args.name is not None
    needs = {"add": args.personal is not None, "remove": named}.get(args.does, True)
    if not needs:
        raise FinepruningError(
            f"bank {args.does}: give NAME{' and DIR' * (args.does == 'add')} after {args.bank}"
        )
    if args.does != "add" and "://" not in args.bank and not Path(args.bank).is_dir():
        raise FinepruningError(f"{args.bank}: there is no such folder; bank add makes it")
    too_many = args.personal if args.does != "add" else None
    if too_many is None and named and args.does in ("list", "gc"):
        too_many = args.name
    if too_many is not None:
        raise FinepruningError(f"bank {args.does}: {too_many}: not asked for; leave it out")

    from .. import Bank

    bank = Bank(args.bank)
    if args.does == "add":
        bank.add(args.name, args.personal)
        return {"added": args.name}, f"{args.name}: added, {len(bank)} in {args.bank}"
    if args.does == "remove":
        bank.remove(args.name)
        return {"removed": args.name}, f"{args.name}: removed, {len(bank)} in {args.bank}"
    if args.does == "gc":
        removed = bank.gc()
        return {"removed": removed}, f"{removed} folders that killed processes left: removed"
    if args.does == "verify":
        wrong = bank.verify() if args.name is None else bank.verify([args.name])
        if wrong:
            raise FinepruningError(
                f"{len(wrong)} of {len(bank)} damaged: {'; '.join(wrong.values())}"
            )
        return {"damaged": wrong}, f"{args.name or len(bank)}: whole"
    names = [*bank]
    return {"names": names}, "\n".join(names)
