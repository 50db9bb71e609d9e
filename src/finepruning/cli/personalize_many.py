"""``finepruning personalize-many``: everybody in a list, over one base, into a bank."""

from __future__ import annotations

import argparse
import csv
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from . import common, options
from .personalize import add_choices, check_choices, config_of, in_pixels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from .. import Loaded
    from ..data.folder import Kind

HELP = "the same for many people over one base, on all cores or a Ray cluster"

COLUMNS = ("name", "data")


def add_options(parser: argparse.ArgumentParser) -> None:
    what = "CSV file with the columns name and data: each person's folder, seen from the file"
    options.add_model_and_data(parser, what, flag="--manifest", metavar="FILE.csv")
    parser.add_argument(
        "--out", required=True, metavar="BANK", help="bank to put them in; who is there is left"
    )
    parser.add_argument(
        "--workers", type=options.positive, metavar="N",
        help="processes of one thread each (one a core)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster (this machine)")
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N",
        help="how often a person is begun again whose worker died (2)",
    )  # fmt: skip
    add_choices(parser)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    people = read_manifest(args.data)
    check_choices(args)
    if args.pixels == "auto":
        raise FinepruningError("--pixels auto: would differ from person to person; give a number")
    _absolute(args)
    args.data = _first(people)
    from .. import Bank, personalize_many

    loaded, _ = _loaded(args)
    bank = Bank(args.out)
    cuda = common.device(args.device) == "cuda"
    with _bar(len(people)) as bar:

        def progress(name: str, why: str) -> None:
            bar.update()
            if why:
                common.say(f"{name}: {why}")

        fleet = personalize_many(
            functools.partial(_base, args),
            {name: functools.partial(_batches, args, data) for name, data in people.items()},
            bank, config=config_of(args, loaded), values=args.values,
            source=options.saved_source(args, loaded),
            workers=args.workers, address=args.address, retries=args.retries, gpus=float(cuda),
            progress=progress,
        )  # fmt: skip
    summary = {
        "out": args.out,
        "done": {n: _short(report, fleet.notes.get(n, ())) for n, report in fleet.done.items()},
        "there": [*fleet.there],
        "failed": fleet.failed,
    }
    left = [f"{name}: left dense" for name, one in summary["done"].items() if not one["personal"]]
    notes = [f"{name}: {line}" for name, lines in fleet.notes.items() for line in lines]
    wrong = [f"{name}: failed ({why})" for name, why in fleet.failed.items()]
    text = (
        f"{len(fleet.done)} done, {len(fleet.there)} there before, {len(fleet.failed)} failed;"
        f" {len(bank)} in {args.out}"
    )
    return summary, "\n".join([text, *left, *notes, *wrong])


def read_manifest(file: str | os.PathLike[str]) -> dict[str, str]:
    """Each person's folder."""
    from ..artifact.store import check_name

    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines, skipinitialspace=True)
            if not {*COLUMNS} <= {*(rows.fieldnames or ())}:
                raise FinepruningError(
                    f"--manifest {file}: its first line is {rows.fieldnames}; name the columns:"
                    f" {','.join(COLUMNS)}"
                )
            people: dict[str, str] = {}
            for row in rows:
                name, data = ((row[column] or "").strip() for column in COLUMNS)
                where = f"--manifest {file}, line {rows.line_num}"
                if not data:
                    raise FinepruningError(f"{where}: no folder; give name,data")
                try:
                    check_name(name)
                except FinepruningError as error:
                    raise FinepruningError(f"{where}: {error}") from error
                if name in people:
                    raise FinepruningError(f"{where}: {name} is there twice")
                people[name] = str(Path(file).absolute().parent / data)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FinepruningError(f"--manifest {file}: cannot be read ({error})") from error
    if not people:
        raise FinepruningError(f"--manifest {file}: nobody is in it")
    return people


def _first(people: dict[str, str]) -> str:
    """The first folder that holds images or audio, which is what all are then taken to hold."""
    from ..hub import folders

    first: FinepruningError | None = None
    for data in people.values():
        try:
            folders.held_kind(data)
            return data
        except FinepruningError as error:
            first = first or error
    assert first is not None
    raise first


def _absolute(args: argparse.Namespace) -> None:
    """Workers may run elsewhere."""
    for name, value in options.source(args).items():
        setattr(args, name, value)
    if "://" not in args.out:
        args.out = os.path.abspath(args.out)


_LOADED: dict[str, tuple[Loaded, Kind]] = {}
"""The last network in this process and what it takes, by the options that say what it is."""


def _loaded(args: argparse.Namespace) -> tuple[Loaded, Kind]:
    asked = repr(sorted(options.source(args).items())) + f" {args.pixels}"
    if asked not in _LOADED:
        _LOADED.clear()
        kind = common.held_kind(args)
        loaded = common.load(args, kind)
        if args.pixels is not None:
            loaded = in_pixels(args, loaded, "cpu")
        _LOADED[asked] = loaded, kind
    return _LOADED[asked]


def _base(args: argparse.Namespace) -> nn.Module:
    return _loaded(args)[0].model


def _batches(args: argparse.Namespace, data: str) -> Iterable[Any]:
    from .. import open_folder
    from ..hub import folders

    (loaded, kind), found = _loaded(args), folders.held_kind(data)
    if found is not kind:
        raise FinepruningError(f"{data}: holds {found.plural}, others {kind.plural}")
    return open_folder(data, loaded, batch_size=args.batch_size, seed=args.seed)


def _short(report: dict[str, Any], notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "sparsity": report["sparsity"],
        "personal": report["check"]["passed"],
        "notes": [*notes],
    }


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="people", disable=None)
