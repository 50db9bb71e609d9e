"""A bank: a folder of many people's artifacts over one base network."""

from __future__ import annotations

import copy as copies
import os
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
from .fingerprint import fingerprint
from .layout import read_about
from .load import check_changed, load, read_whole
from .store import check_name, copy, store_at, verify, whole
from .values import restored

_ACTIVE: WeakKeyDictionary[nn.Module, Callable[[], None]] = WeakKeyDictionary()
"""What makes each network in which a person is active the base again, whichever bank did it."""


class Saves(Protocol):
    """What a :class:`finepruning.Result` does."""

    @property
    def save(self) -> Callable[..., None]: ...


class Bank:
    """Many people's networks over one base, in a folder or any location that fsspec knows.

    >>> bank = Bank("bank/", base)  # doctest: +SKIP
    >>> bank.add("user-0042", finepruning.personalize(base, photos))  # doctest: +SKIP
    >>> bank.activate(base, "user-0042")  # base is that person's now, in place  # doctest: +SKIP
    >>> bank.deactivate(base)  # and the base again, bit for bit  # doctest: +SKIP

    ``folder`` is made where it is not there; it may be a location, as ``s3://bucket/people`` (with
    s3fs). ``cache`` is how many people's weights are held in
    memory, the last used; ``key`` what all artifacts are sealed with. Threads may share a bank;
    each activates its own copy of the base. Raises :class:`FinepruningError` where ``folder`` is a
    file or cannot be made or reached.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        base: nn.Module | None = None,
        *,
        cache: int = 0,
        key: bytes | None = None,
    ) -> None:
        self._store = store_at(folder)
        self.folder, self.cache, self.key = self._store.folder, cache, key
        self._base = base
        self._held: OrderedDict[str, tuple[str, _Delta]] = OrderedDict()
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[nn.Module, tuple[str, Any]] = WeakKeyDictionary()

    def __iter__(self) -> Iterator[str]:
        """The people's names, sorted."""
        return iter(self._store.names())

    def __len__(self) -> int:
        return len(self._store.names())

    def __contains__(self, name: str) -> bool:
        return self._store.has(name)

    def about(self, name: str) -> dict[str, Any]:
        """What a person's artifact says of itself: its JSON, as docs/format.md describes it."""
        self._there(name)
        with self._store.at(name, self.key, whole=False) as folder:
            return read_about(folder, self.key)

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
        if isinstance(artifact, str | os.PathLike):
            given = Path(artifact)
            files = whole(given, self.key)

            def write(folder: Path) -> None:
                copy(files, folder)
                verify(folder, self.key)  # the copy: what is given may change meanwhile

        else:

            def write(folder: Path) -> None:
                artifact.save(folder, replace=folder.exists(), key=self.key, **stored)

            if replace:
                self._store.put(name, write, self.key)
                return
        if name in self:
            raise FinepruningError(f"{self.folder}/{name}: exists already; remove it first")
        self._store.put(name, write, self.key)

    def remove(self, name: str) -> None:
        """Take a person out."""
        self._there(name)
        self._store.remove(name)
        with self._lock:
            self._held.pop(name, None)

    def verify(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """What is wrong with whom, of these or all: every bit of every artifact is looked at."""
        wrong = {}
        for name in self if names is None else names:
            self._there(name)
            try:
                with self._store.at(name, self.key) as folder:
                    verify(folder, self.key)
            except FinepruningError as error:
                wrong[name] = str(error)
        return wrong

    def gc(self) -> int:
        """Remove what killed processes left; how many folders it was."""
        return self._store.gc()

    def load(self, name: str) -> nn.Module:
        """A person's network, a copy of the base. As :func:`finepruning.load`."""
        self._there(name)
        if self._base is None:
            raise FinepruningError("base: none was given; Bank(folder, base)")
        with self._store.at(name, self.key) as folder:
            return load(folder, self._base, key=self.key)

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
                f"{self.folder}/{name}: damaged artifact ({' '.join(str(error).split())});"
                " personalise anew"
            ) from error

    def deactivate(self, model: nn.Module) -> None:
        """Make ``model`` the base again, bit for bit; nothing where it is."""
        undo = _ACTIVE.pop(model, None)
        if undo is not None:
            undo()

    def _delta(self, model: nn.Module, name: str) -> _Delta:
        with self._store.at(name, self.key, whole=False) as folder:
            about = read_about(folder, self.key)
        known = self._fingerprint(model, tuple(about.get("moving", ())))
        with self._lock:
            digest, held = self._held.get(name, ("", None))
            if held is not None and digest == about.get("digest") and known == about["base"]:
                self._held.move_to_end(name)
                return held
        with self._store.at(name, self.key) as folder:
            about, tensors = read_whole(folder, model, self.key, known)
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
        if name not in self:
            raise FinepruningError(f"{self.folder}: nobody is called {name!r} there")


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
        held = {
            key: copies.copy(v) if isinstance(v, dict) else v for key, v in vars(module).items()
        }
        before.append((module, type(module), held))
        become(module, how)

    def undo() -> None:
        for module, kind, held in reversed(before):
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(held)

    return undo
