"""A bank: a folder of many people's artifacts over one base network."""

from __future__ import annotations

import copy
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from ..network.plain import become
from .aside import aside, sweep
from .fingerprint import fingerprint
from .folder import file_of, read_tensors
from .layout import JSON, read_about
from .load import check_changed, load, read_whole
from .seal import open_file
from .values import restored

_ACTIVE: WeakKeyDictionary[nn.Module, Callable[[], None]] = WeakKeyDictionary()
"""What makes each network in which a person is active the base again, whichever bank did it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}")


def check_name(name: str) -> None:
    """Raise :class:`FinepruningError` where ``name`` is none for a person."""
    if not NAME.fullmatch(name):
        raise FinepruningError(
            f"{name!r}: no name for a person; give letters, digits and . _ @ + -, 127 at most"
        )


class Saves(Protocol):
    """What a :class:`finepruning.Result` does."""

    @property
    def save(self) -> Callable[..., None]: ...


class Bank:
    """Many people's networks over one base, in a folder.

    >>> bank = Bank("bank/", base)  # doctest: +SKIP
    >>> bank.add("user-0042", finepruning.personalize(base, photos))  # doctest: +SKIP
    >>> bank.activate(base, "user-0042")  # base is that person's now, in place  # doctest: +SKIP
    >>> bank.deactivate(base)  # and the base again, bit for bit  # doctest: +SKIP

    ``folder`` is made where it is not there. ``cache`` is how many people's weights are held in
    memory, the last used; ``key`` what all artifacts are sealed with. Threads may share a bank;
    each activates its own copy of the base. Raises :class:`FinepruningError` where ``folder`` is a
    file or cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        base: nn.Module | None = None,
        *,
        cache: int = 0,
        key: bytes | None = None,
    ) -> None:
        self.folder, self.cache, self.key = Path(folder), cache, key
        self._base = base
        self._held: OrderedDict[str, tuple[str, _Delta]] = OrderedDict()
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[nn.Module, tuple[str, Any]] = WeakKeyDictionary()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FinepruningError(f"{self.folder}: cannot be a bank ({error})") from error

    def __iter__(self) -> Iterator[str]:
        """The people's names, sorted."""
        with os.scandir(self.folder) as found:
            yield from sorted(f.name for f in found if NAME.fullmatch(f.name) and f.is_dir())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: str) -> bool:
        return bool(NAME.fullmatch(name)) and (self.folder / name).is_dir()

    def about(self, name: str) -> dict[str, Any]:
        """What a person's artifact says of itself: its JSON, as docs/format.md describes it."""
        self._there(name)
        return read_about(self.folder / name, self.key)

    def add(
        self,
        name: str,
        artifact: Saves | str | os.PathLike[str],
        *,
        replace: bool = False,
        **stored: Any,
    ) -> None:
        """Put in a person: a result, which takes what is ``stored`` as its ``save`` does
        (``values``, ``base``, ``source``), or the folder of an artifact, which is copied. With
        ``replace`` a result takes the place of what is there; readers see one or the other."""
        check_name(name)
        out = self.folder / name
        if not isinstance(artifact, str | os.PathLike):
            artifact.save(out, replace=replace and out.exists(), key=self.key, **stored)
            return
        if out.exists():
            raise FinepruningError(f"{out}: exists already; remove it first")
        about = read_about(artifact, self.key)
        parts = (file_of(Path(artifact), about, part) for part in ("personal", "statistics"))
        files = [Path(artifact, JSON), *(f for f in parts if f is not None and f.exists())]
        with aside(self.folder) as folder:
            try:
                (folder / name).mkdir()
                for file in files:  # ordinary ones, and no others that lie there
                    with open_file(file) as given, (folder / name / file.name).open("wb") as copy_:
                        shutil.copyfileobj(given, copy_)
                    shutil.copymode(file, folder / name / file.name)
                _verify(folder / name, self.key)  # the copy: what is given may change meanwhile
                os.rename(folder / name, out)
            except OSError as error:
                raise FinepruningError(f"{out}: cannot be written ({error})") from error

    def remove(self, name: str) -> None:
        """Take a person out."""
        self._there(name)
        with aside(self.folder) as folder:
            os.rename(self.folder / name, folder / name)
        with self._lock:
            self._held.pop(name, None)

    def verify(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """What is wrong with whom, of these or all: every bit of every artifact is looked at."""
        wrong = {}
        for name in self if names is None else names:
            self._there(name)
            try:
                _verify(self.folder / name, self.key)
            except FinepruningError as error:
                wrong[name] = str(error)
        return wrong

    def gc(self) -> int:
        """Remove what killed processes left; how many folders it was."""
        inner = sum(sweep(self.folder / name) for name in self)
        return sweep(self.folder) + inner

    def load(self, name: str) -> nn.Module:
        """A person's network, a copy of the base. As :func:`finepruning.load`."""
        self._there(name)
        if self._base is None:
            raise FinepruningError("base: none was given; Bank(folder, base)")
        return load(self.folder / name, self._base, key=self.key)

    def activate(self, model: nn.Module, name: str) -> None:
        """Make ``model``, which is the base or another's by this bank, this person's, in place.

        Its parameters stay the same objects and point to other values; the base's are kept, and
        are back with :meth:`deactivate`. Raises :class:`FinepruningError` where the artifact is
        damaged or of another base: ``model`` is the base then.
        """
        self._there(name)
        self.deactivate(model)
        try:
            _ACTIVE[model] = self._delta(model, name).into(model)
        except FinepruningError:
            raise
        except Exception as error:
            raise FinepruningError(
                f"{self.folder / name}: damaged artifact ({' '.join(str(error).split())});"
                " personalise anew"
            ) from error

    def deactivate(self, model: nn.Module) -> None:
        """Make ``model`` the base again, bit for bit; nothing where it is."""
        undo = _ACTIVE.pop(model, None)
        if undo is not None:
            undo()

    def _delta(self, model: nn.Module, name: str) -> _Delta:
        about = read_about(self.folder / name, self.key)
        known = self._fingerprint(model, tuple(about.get("moving", ())))
        with self._lock:
            digest, held = self._held.get(name, ("", None))
            if held is not None and digest == about.get("digest") and known == about["base"]:
                self._held.move_to_end(name)
                return held
        about, tensors = read_whole(self.folder / name, model, self.key, known)
        delta = _Delta(about, tensors, model)
        with self._lock:
            if self.cache:
                self._held[name] = about.get("digest", ""), delta
                while len(self._held) > self.cache:
                    self._held.popitem(last=False)
        return delta

    def _fingerprint(self, model: nn.Module, moving: tuple[str, ...]) -> str:
        """That of ``model``, anew where one of its tensors is another or was written to."""
        state = [v for v in model.state_dict(keep_vars=True).values() if isinstance(v, Tensor)]
        if any(v.is_inference() or v.layout != torch.strided for v in state):
            return fingerprint(model, moving)  # these do not say whether they were written to
        seen = (moving, tuple((v.data_ptr(), v._version) for v in state))
        known = self._known.get(model)
        if known is None or known[1] != seen:
            known = self._known[model] = fingerprint(model, moving), seen
        return known[0]

    def _there(self, name: str) -> None:
        check_name(name)
        if not (self.folder / name).is_dir():
            raise FinepruningError(f"{self.folder}: nobody is called {name!r} there")


def _verify(path: Path, key: bytes | None) -> None:
    about = read_about(path, key)
    for part in about.get("files", ("personal",)):
        file = file_of(path, about, part)
        if part == "personal" or (file is not None and file.exists()):
            read_tensors(
                path, about, part, about.get("files", {}).get(part, {}).get("bytes", 2**40)
            )


class _Delta:
    """All that differs from the base, as it is in memory."""

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor], model: nn.Module) -> None:
        self.plain: dict[str, Any] = about.get("plain", {})
        self.values: dict[str, Tensor] = {}
        kind = about.get("values", "exact")
        with torch.inference_mode(False), torch.no_grad():
            undo = _made_plain(model, self.plain)
            try:
                weights = {n: model.get_parameter(n).detach() for n in about["pruned"]}

                def value_of(name: str) -> Tensor:
                    weight = weights[name]
                    return restored(name, weight, tensors, kind).to(weight.device)

                # What takes the time is spread over as many threads as PyTorch has.
                with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                    self.values.update(zip(weights, pool.map(value_of, weights), strict=True))
                for name in about["changed"]:
                    check_changed(model, name, tensors[name])
                    self.values[name] = tensors[name].to(next(model.parameters()).device)
            finally:
                undo()

    def into(self, model: nn.Module) -> Callable[[], None]:
        """Put it into ``model``; what takes it out again."""
        plain = _made_plain(model, self.plain)
        before: list[tuple[Tensor, Tensor]] = []
        new: list[tuple[nn.Module, str]] = []

        def undo() -> None:
            for tensor, data in before:
                tensor.data = data
            for module, key in new:
                setattr(module, key, None)
            plain()

        for name, value in self.values.items():
            owner, _, key = name.rpartition(".")
            module = model.get_submodule(owner)
            given = getattr(module, key)
            if given is None:
                setattr(module, key, nn.Parameter(value, requires_grad=False))
                new.append((module, key))
            else:
                before.append((given, given.data))
                given.data = value
        return undo


def _made_plain(model: nn.Module, plain: dict[str, Any]) -> Callable[[], None]:
    """Modules that compute their weight made ones that store it; what makes them so again."""
    before = []
    for name, how in plain.items():
        module = model.get_submodule(name)
        held = {key: copy.copy(v) if isinstance(v, dict) else v for key, v in vars(module).items()}
        before.append((module, type(module), held))
        become(module, how)

    def undo() -> None:
        for module, kind, held in reversed(before):
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(held)

    return undo
