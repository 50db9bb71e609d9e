"""The command ``finepruning``: data on stdout, messages and progress on stderr.

Exit codes: 0 done; 1 the job failed, with one line that says why; 2 wrong usage; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from .._errors import FinepruningError
from .._version import __version__
from . import (
    bank,
    bench,
    deployed,
    evaluate,
    export,
    inspect,
    monitor,
    personalize,
    personalize_many,
    pull,
    push,
    report,
    shrink,
    update,
)
from .common import messages_aside, printable, say


class Command(Protocol):
    """What a module of this room offers to be a subcommand. It imports nothing heavy by itself."""

    HELP: str

    def add_options(self, parser: argparse.ArgumentParser, /) -> None:
        """Say which options it takes; ``--format`` is there already."""

    def run(self, args: argparse.Namespace, /) -> tuple[dict[str, Any], str]:
        """Do the work; return the result as JSON's values and as a text. Where it holds ``failed``
        parts the exit code is 1."""


COMMANDS: dict[str, Command] = {
    "personalize": personalize,
    "personalize-many": personalize_many,
    "evaluate": evaluate,
    "monitor": monitor,
    "update": update,
    "shrink": shrink,
    "export": export,
    "run": deployed,
    "bench": bench,
    "inspect": inspect,
    "report": report,
    "bank": bank,
    "push": push,
    "pull": pull,
}
"""Another command is a file and a line in this table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["inspect", "me/"])  # doctest: +SKIP
    0
    """
    args = _parser().parse_args(argv)
    try:
        # What the user's code, a library or a download prints is none of the result.
        with messages_aside():
            result, text = args.run(args)
        print(
            json.dumps(result, indent=2) if args.format == "json" else printable(text), flush=True
        )
        return 1 if result.get("failed") else 0
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FinepruningError, OSError) as error:
        say(f"error: {' '.join(str(error).split())}")
        return 1
    except SystemExit as error:  # called by a network's own code: nothing has been done
        say(f"error: the model's code called sys.exit({error.code!r}) before the work was done")
        return 1
    except Exception as error:
        # PyTorch's, by name: to import torch for it would take a second. Anything else is a bug
        # in this program, and keeps its traceback.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        say("error: out of memory; give a smaller --batch-size")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "finepruning",
        description="Make a pretrained network personal: unlabelled data in, a sparse network that"
        " is more accurate for one person out, by forward passes only.",
    )
    parser.add_argument("--version", action="version", version=f"finepruning {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.HELP, description=command.HELP)
        sub.set_defaults(run=command.run)
        sub.add_argument("--format", choices=["text", "json"], default="text", help="of the result")
        command.add_options(sub)
    return parser
