"""Export: one file that stands alone, with its labels and preprocessing in it."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from .._version import __version__
from ..data.batches import Batch, logits_of, read_batches
from ..data.pictures import Preprocess
from ..network.copying import copied
from .example import example_of
from .runtime import KEY, Deployed

NEAR = 1e-3
"""Of the largest output, how far the file's answers may be from PyTorch's by rounding."""
ENDINGS = (".onnx", ".pt2")
CALIBRATION = 64
"""Samples that int8 ranges are read off, at most: they are the largest values seen."""
VNNI = ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
"""Instructions that add up products of 8 bits without saturating at 16."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Any,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Any = None,
    int8: Iterable[Any] | None = None,
    reduce_range: bool | None = None,
) -> None:
    """Write ``model`` to ``path``: ``.onnx`` for ONNX Runtime, or ``.pt2`` (``torch.export``).

    >>> export(model, "model.onnx", torch.randn(2, 3, 224, 224))  # doctest: +SKIP

    ``example`` is a batch as the network takes it; the file takes batches of any size. ``classes``
    and ``preprocess``, a :class:`finepruning.Preprocess`, go into it. ``int8`` are batches of the
    person's samples: weights and activations become 8-bit integers, in the ranges seen there
    (static quantisation by ONNX Runtime, by channel). ``reduce_range`` leaves weights 7 bits, as
    processors without VNNI need (default: where this one has none).

    Needs ``pip install 'finepruning[deploy]'`` for ONNX. Raises :class:`FinepruningError` where the
    network cannot be exported, or where the file gives other answers than PyTorch does.
    """
    file = check_file(path)
    if int8 is not None and file.suffix != ".onnx":
        raise FinepruningError(f"{file}: int8 is for ONNX Runtime; give a name that ends in .onnx")
    for library in ("onnx", "onnxscript", "onnxruntime") if file.suffix == ".onnx" else ():
        _need(library)
    sample = _two(example_of(model, example))
    answering = _Answering(copied(model).requires_grad_(False).cpu(), sample)
    about = {
        "format": 1, "version": __version__, "classes": None if classes is None else [*classes],
        "preprocess": asdict(preprocess) if isinstance(preprocess, Preprocess) else None,
        "names": [*_inputs(sample)],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".export-") as aside:
        made = Path(aside, "model" + file.suffix)
        with _quietly(file), torch.no_grad():
            if file.suffix == ".pt2":
                extra = {KEY: json.dumps(about)}
                torch.export.save(_program(answering, sample), made, extra_files=extra)
            else:
                _to_onnx(answering, sample, made)
        if file.suffix == ".pt2":
            program = torch.export.load(made).module()
            _compare(answering, sample, lambda x: program(*map(torch.from_numpy, x.values())), file)
        else:
            _label(made, about)
            _compare(answering, sample, Deployed(made).run, file)
            if int8 is not None:
                made = _to_int8(
                    made, int8, not has_vnni() if reduce_range is None else reduce_range
                )
                _label(made, about | {"int8": True})
        os.replace(made, file)


def _need(library: str) -> None:
    try:
        import_module(library)
    except ImportError as error:
        raise FinepruningError(
            f"export: {library} is not installed; pip install 'finepruning[deploy]'"
        ) from error


def check_file(path: str | os.PathLike[str]) -> Path:
    """Raise :class:`FinepruningError` where no file can be written at ``path``."""
    file = Path(path)
    if file.suffix not in ENDINGS:
        raise FinepruningError(f"{file}: give a name that ends in {' or '.join(ENDINGS)}")
    if file.exists():
        raise FinepruningError(f"{file}: exists already; remove it or give another name")
    if not file.absolute().parent.is_dir():
        raise FinepruningError(f"{file}: there is no folder {file.absolute().parent}")
    return file


class _Answering(nn.Module):
    """The network as a function of tensors, one behind the other, with nothing but its answers."""

    def __init__(self, model: nn.Module, sample: Batch) -> None:
        super().__init__()
        self.model = model.eval()
        named = sample.inputs if isinstance(sample.inputs, dict) else {}
        self.names = [k for k, v in named.items() if isinstance(v, Tensor)]
        self.fixed = {k: v for k, v in named.items() if not isinstance(v, Tensor)}

    def forward(self, *args: Tensor) -> Any:
        if not self.names:
            return logits_of(self.model(*args))
        return logits_of(self.model(**dict(zip(self.names, args, strict=True)), **self.fixed))


def _inputs(sample: Batch) -> dict[str, Tensor]:
    """The tensors of a batch, by name."""
    given = sample.inputs if isinstance(sample.inputs, dict) else {"input": sample.inputs}
    return {k: v for k, v in given.items() if isinstance(v, Tensor)}


def _two(sample: Batch) -> Batch:
    """Two samples: of one, a size that is 1 would be written into the file."""
    if isinstance(sample.inputs, Tensor):
        x = sample.inputs
        return Batch(torch.cat([x, x])[:2] if len(x) < 2 else x[:2], 2)
    inputs = {
        k: (torch.cat([v, v])[:2] if len(v) < 2 else v[:2])
        if isinstance(v, Tensor) and v.ndim and len(v) == sample.size
        else v
        for k, v in sample.inputs.items()
    }
    return Batch(inputs, 2)


def _program(answering: nn.Module, sample: Batch) -> Any:
    """As PyTorch exports it, for batches of any size."""
    batch, given = torch.export.Dim("batch", min=1), [*_inputs(sample).values()]
    sizes = tuple({0: batch} if v.ndim and len(v) == sample.size else None for v in given)
    return torch.export.export(answering, tuple(given), dynamic_shapes=(sizes,))


def _to_onnx(answering: nn.Module, sample: Batch, made: Path) -> None:
    torch.onnx.export(
        _program(answering, sample), (), str(made), input_names=[*_inputs(sample)],
        output_names=["output"], dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip


@contextmanager
def _quietly(file: Path) -> Any:
    """Without what exporters print; whatever they raise becomes one line."""
    try:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    except FinepruningError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise FinepruningError(
            f"{file}: PyTorch cannot export this network ({type(error).__name__}: {said})"
        ) from error
    finally:
        logging.disable(before)


def _label(made: Path, about: dict[str, Any]) -> None:
    """Write labels and preprocessing into the file."""
    import onnx

    model = onnx.load(made)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, made)


def _compare(answering: nn.Module, sample: Batch, run: Callable[[Any], Any], file: Path) -> None:
    """Raise where the file answers otherwise, for two samples or for one."""
    with torch.no_grad():
        wanted = answering(*_inputs(sample).values()).float().numpy()
    given = {k: v.numpy() for k, v in _inputs(sample).items()}
    for rows in (2, 1):
        with torch.no_grad():
            found = run({k: v[:rows] if len(v) == 2 else v for k, v in given.items()})
        found = np.asarray(found)
        if not np.allclose(found, wanted[:rows], atol=NEAR * float(np.abs(wanted).max())):
            apart = float(np.abs(found - wanted[:rows]).max())
            raise FinepruningError(f"{file}: the file's answers differ by {apart:.2g}")


def _to_int8(made: Path, batches: Iterable[Any], reduce_range: bool) -> Path:
    """Static quantisation, in the ranges of some of the person's samples."""
    from onnxruntime import quantization

    def rows() -> Any:
        seen = 0
        for batch in read_batches(batches):
            yield {k: v.numpy() for k, v in _inputs(batch).items()}
            seen += batch.size
            if seen >= CALIBRATION:
                return

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = rows()

        def get_next(self) -> Any:
            return next(self.rows, None)

    ready, small = made.with_name("ready.onnx"), made.with_name("int8.onnx")
    with _quietly(made):
        quantization.quant_pre_process(made, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready, small, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            reduce_range=reduce_range, weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )  # fmt: skip
    return small


def has_vnni() -> bool:
    """Whether this processor adds up 8-bit products without saturating."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(f" {flag}" in flags for flag in VNNI)
