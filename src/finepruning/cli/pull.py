"""``finepruning pull``: an artifact out of a repository of a Hugging Face hub."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "take an artifact out of a repository of a Hugging Face hub"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="USER/NAME", help="of the repository")
    parser.add_argument("out", metavar="DIR", help="new folder to save in")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import pull

    pull(args.repo, args.out, revision=args.revision)
    return {"out": args.out}, f"{args.repo}: in {args.out}"
