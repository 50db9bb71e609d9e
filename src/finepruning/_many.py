"""Many people over one base, on all cores or a cluster: Ray hands out the work, one task each."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._config import Config
from ._errors import FinepruningError
from ._personalize import personalize
from .artifact.bank import Bank
from .artifact.fingerprint import is_of
from .artifact.layout import Values
from .artifact.store import check_name
from .data.folder import describe_skipped
from .scoring.stored import stays

Opens = Callable[[], Iterable[Any]]
"""Opens a person's batches, in the process that reads them."""

IN_FLIGHT = 1000
"""Tasks that Ray knows of at a time: it keeps a record of each."""
SHARED = 1 << 16
"""Bytes from which a parameter is shared by all processes, not copied."""


@dataclass(frozen=True)
class Fleet:
    """What became of everybody."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each person's report, as :meth:`finepruning.Report.to_dict` gives it."""
    there: tuple[str, ...] = ()
    """Who was in the bank before, from the same base and choices."""
    failed: dict[str, str] = field(default_factory=dict)
    """Whose network there is none of, and why."""
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What should be known of those who are done: samples left out, answers that changed as the
    weights were stored in fewer bits."""


def personalize_many(
    base: Callable[[], nn.Module],
    people: Mapping[str, Opens],
    bank: Bank,
    *,
    config: Config | None = None,
    values: Values = "exact",
    source: dict[str, Any] | None = None,
    workers: int | None = None,
    address: str | None = None,
    retries: int = 2,
    gpus: float = 0,
    progress: Callable[[str, str], None] | None = None,
) -> Fleet:
    """Personalise one base for many people, and put each in the bank as soon as it is done.

    >>> people = {"ann": lambda: read("ann/"), "bob": lambda: read("bob/")}  # doctest: +SKIP
    >>> fleet = personalize_many(make_base, people, Bank("bank/"))  # doctest: +SKIP
    >>> fleet.failed  # doctest: +SKIP
    {'bob': 'batches: there is no data; ...'}

    ``base`` makes the network; it is called in each worker process, as are the ``people`` 's
    functions, which open their batches. What it needs must be there: on a cluster, the same files
    on all machines, and a ``bank`` that all can write in. The values of the network that ``base``
    makes here are the ones that count: workers share them.

    ``workers`` processes of one thread each (default: one a core) run on this machine, or as many
    as there are cores in the Ray cluster at ``address``; where Ray runs in this process already, it
    is used as it is. Each may have a share of ``gpus``. The
    artifacts are the same bits however many there are. Who is in the bank already is left as is:
    after an interruption the same call goes on. A person whose worker dies is begun again, at most
    ``retries`` times; one whose data cannot be used is not. ``progress(name, why)`` is called as
    each is done (``why`` is empty) or has failed.

    Needs Ray (``pip install 'finepruning[fleet]'``). Raises :class:`FinepruningError` where it is
    missing or cannot be reached, and where the bank holds one of these people from another base,
    by other choices, stored otherwise, or from inputs prepared otherwise.
    """
    if retries < 0 or (workers is not None and workers < 1):
        raise FinepruningError(f"workers={workers}, retries={retries}: give 1 and 0 or more")
    if address is not None and workers is not None:
        raise FinepruningError("workers: a cluster has as many as it has; leave it out")
    settings = config or Config()
    model = base().eval()
    there = _there(bank, people, model, settings, values, source or {})
    known_there = {*there}
    todo = [name for name in people if name not in known_there]
    fleet = Fleet(there=there)
    if not todo:
        return fleet
    bytes_ = sum(value.nbytes for value in model.state_dict().values())
    with _ray(workers, address, bytes_) as ray:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(_one)
        known = ray.put(_Known(base, settings, values, source, "cuda" if gpus else "cpu"))
        shared = [known, ray.put(_state_of(model))]
        place = (str(bank.folder), bank.key)
        names = iter(todo)
        waiting = {}
        for name in islice(names, IN_FLIGHT):
            waiting[task.remote(shared, name, people[name], place)] = name
        while waiting:
            (ready,), _ = ray.wait([*waiting])
            name, why = waiting.pop(ready), ""
            try:
                fleet.done[name], notes = ray.get(ready)
                if notes:
                    fleet.notes[name] = notes
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                ours = isinstance(cause, FinepruningError)
                why = str(cause) if ours else f"{type(cause).__name__}: {cause}"
            except ray.exceptions.RayError as error:
                first = str(error).strip().split("\n")[0]
                why = f"its worker died {retries + 1} times ({type(error).__name__}: {first})"
            if why:
                fleet.failed[name] = why
            if progress is not None:
                progress(name, why)
            for name in islice(names, 1):
                waiting[task.remote(shared, name, people[name], place)] = name
    if isinstance(bank.folder, Path):  # elsewhere others may be writing, and nothing tells
        bank.gc()
    return fleet


def _there(
    bank: Bank,
    people: Mapping[str, Opens],
    model: nn.Module,
    settings: Config,
    values: Values,
    source: Mapping[str, Any],
) -> tuple[str, ...]:
    """Who is in the bank already; all others could be put in."""
    found, right = [], ""
    asked = json.loads(json.dumps(settings.to_dict()))
    for name in people:
        if name not in bank:
            check_name(name)
            continue
        about = bank.about(name)
        base, before = about["base"], about.get("source") or {}
        wrong = ""
        if base != right and not is_of(model, base, about.get("moving", ())):
            wrong = "from another base"
        elif about["report"].get("config") != asked:
            wrong = "by other choices"
        elif about.get("values", "exact") != values:
            wrong = f"stored as {about.get('values', 'exact')}"
        elif before.get("inputs") != source.get("inputs"):
            wrong = f"from inputs prepared otherwise ({before.get('inputs')})"
        if wrong:
            raise FinepruningError(
                f"{name}: is in {bank.folder} already, {wrong}; give another bank, or remove it"
                " first"
            )
        right = base
        found.append(name)
    return tuple(found)


@contextlib.contextmanager
def _ray(workers: int | None, address: str | None, bytes_: int) -> Iterator[Any]:
    """Ray, which is ended after the work where it was begun for it."""
    if "ray" not in sys.modules:  # as it is imported it looks at these
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        if address is None and "RAY_AUTH_MODE" not in os.environ:
            # It listens on the network and runs what it is sent: by who knows this alone.
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise FinepruningError(
            "ray: is not installed, and hands out the work; pip install 'finepruning[fleet]'"
        ) from error
    if ray.is_initialized():  # the caller's
        yield ray
        return
    own = address is None
    begun: dict[str, Any] = {"address": address}
    if own:
        cores = workers or _cores()
        memory = 2 * bytes_ + 200_000_000
        begun = {"num_cpus": cores, "object_store_memory": memory, "include_dashboard": False}
        begun["address"] = "local"
    with _own_modules() if own else contextlib.nullcontext():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **begun)
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            where = "on this machine" if own else f"at {address}"
            raise FinepruningError(f"ray: cannot be begun {where} ({first})") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _cores() -> int:
    """That this process may use, where the system says so."""
    may = getattr(os, "sched_getaffinity", None)
    return len(may(0)) if may is not None else os.cpu_count() or 1


@contextlib.contextmanager
def _own_modules() -> Iterator[None]:
    """Processes begun within find the modules that this one finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@dataclass(frozen=True)
class _Known:
    """What is the same for everybody."""

    base: Callable[[], nn.Module]
    config: Config
    values: Values
    source: dict[str, Any] | None
    device: str


def _state_of(model: nn.Module) -> dict[str, tuple[Any, torch.dtype, torch.Size]]:
    """Bytes, dtype and shape of all parameters and buffers."""
    state = {n: v for n, v in model.state_dict().items() if isinstance(v, Tensor)}
    flat = {name: value.detach().cpu().contiguous().view(-1) for name, value in state.items()}
    return {n: (v.view(torch.uint8).numpy(), v.dtype, state[n].shape) for n, v in flat.items()}


def _take(model: nn.Module, state: Mapping[str, tuple[Any, torch.dtype, torch.Size]]) -> None:
    """Give ``model`` these values. Large parameters point to the memory that all processes share,
    where nobody can write; buffers, which some networks write to, are copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writ")
        given = {n: torch.from_numpy(v).view(dtype).view(s) for n, (v, dtype, s) in state.items()}
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(tensor, nn.Parameter) and tensor.nbytes >= SHARED:
                tensor.data = given[name]
            elif isinstance(tensor, Tensor):
                tensor.copy_(given[name])


_OPENED: dict[Any, tuple[_Known, nn.Module]] = {}
"""In a worker: the base it has made, by the reference to what is known."""


def _opened(shared: list[Any]) -> tuple[_Known, nn.Module]:
    """The base in this process, its large parameters those that all processes share."""
    if shared[0] not in _OPENED:
        import ray

        torch.set_num_threads(1)
        known, values = ray.get(shared)
        model = known.base().eval()
        _take(model, values)
        _OPENED.clear()
        _OPENED[shared[0]] = known, model.to(known.device)
    return _OPENED[shared[0]]


def _one(
    shared: list[Any], name: str, opens: Opens, place: tuple[str, bytes | None]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """One person's task: the report, and what else should be known."""
    known, model = _opened(shared)
    bank = Bank(place[0], model, key=place[1])
    if name in bank:  # put in just before the worker died
        return bank.about(name)["report"], ()
    batches = opens()
    result = personalize(model, batches, config=known.config, progress=False)
    bank.add(name, result, values=known.values, source=known.source, base=model)
    notes = [str(line) for line in result.report.warnings]
    if skipped := getattr(batches, "skipped", ()):  # of a folder
        notes.append(describe_skipped(skipped, limit=3))
    if known.values != "exact":
        found = stays(result.model, bank.load(name), opens())
        if found is not None:
            notes.append(f"stored as {known.values}: {found.line(result.report.task == 'values')}")
    return result.report.to_dict(), tuple(notes)
