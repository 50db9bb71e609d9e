"""``finepruning push``: an artifact into a repository of a Hugging Face hub."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "put an artifact in a repository of a Hugging Face hub, with a card"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    parser.add_argument(
        "repo", metavar="USER/NAME", help="of the repository, made if there is none"
    )
    parser.add_argument("--public", action="store_true", help="everybody may see it")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import push

    address = push(args.personal, args.repo, private=not args.public)
    return {"address": address}, address
