"""Pretrained networks by name: torchvision, timm, Hugging Face, or a function of the user's."""

from __future__ import annotations

import importlib.util
import pickle
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ._audio import FrontEnd, hub_front_end
from ._data import Preprocess
from ._errors import FinepruningError
from ._resnet import RESNETS, resnet

FORMS = "torchvision:NAME, timm:NAME, FILE.py:function, a local folder, or ORG/NAME on Hugging Face"


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, how its inputs are prepared, its class names where known.

    ``front`` is set where it takes audio: then ``preprocess`` means nothing. ``assumed``: nothing
    said how images are prepared, and ``preprocess`` is ImageNet's usual. ``own``: the user's own
    code, whose ``preprocess`` may be meant for images or for waveforms. ``writes``: its outputs are
    transcripts, whose tokens ``reader``, a Hugging Face tokenizer, turns into text.
    """

    model: nn.Module
    preprocess: Callable[[Any], Any]
    classes: tuple[str, ...] | None = None
    assumed: bool = False
    front: FrontEnd | None = None
    own: bool = False
    writes: bool = False
    reader: Any = None


def load_model(spec: str, weights: str | Path | None = None) -> Loaded:
    """Load a pretrained network, always with pretrained weights, in float32.

    >>> load_model("torchvision:resnet50", "resnet50.safetensors").model  # doctest: +SKIP

    ``spec``: ``torchvision:NAME``; ``timm:NAME``; ``FILE.py:function``, a function without
    arguments that returns the model or ``(model, preprocess)``, where ``preprocess`` turns a
    ``PIL.Image`` into a tensor; a folder saved by Hugging Face's ``save_pretrained``; or the name
    of such a model on its hub. ``weights``: a checkpoint (safetensors; or pt, pth, bin, read
    without running any code in it), which must fit exactly.

    Raises :class:`FinepruningError` where there is no such model, its library is missing, or the
    checkpoint does not fit.
    """
    state = None if weights is None else read_weights(weights)
    library, _, name = spec.partition(":")
    file, _, function = spec.rpartition(":")
    if library == "torchvision":
        loaded = _torchvision(name, state, weights)
    elif library == "timm":
        loaded = _timm(name, state, weights)
    elif file.endswith(".py"):
        loaded = _user_function(Path(file), function, state, weights)
    elif (spec and Path(spec).is_dir()) or re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec):
        loaded = _hugging_face(spec, state, weights)
    else:
        raise FinepruningError(f"--model {spec}: not found; give {FORMS}")
    loaded.model.eval()
    return loaded


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint as a flat dict of tensors on the CPU; wrappers around it are taken off."""
    path = Path(path)
    if not path.is_file():
        raise FinepruningError(f"--weights {path}: no such file")
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FinepruningError(
            f"--weights {path}: holds more than tensors (a whole pickled model?) or is damaged;"
            " save model.state_dict() instead"
        ) from None
    except Exception as error:  # a reader of arbitrary bytes may raise anything at all
        raise FinepruningError(f"--weights {path}: cannot be read: {_line(error)}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FinepruningError(f"--weights {path}: not a dict of tensors; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}  # DataParallel's


def fit_weights(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load ``state`` into ``model``, in the model's dtypes; every tensor must fit."""
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    # Formats that store a shared tensor once leave out its other names; and checkpoints from
    # before PyTorch 0.4.1 have no num_batches_tracked, which no inference needs.
    given = {own[key].data_ptr() for key in own.keys() & state.keys() if own[key].numel()}
    missing = [
        f"{key} {_shape(value)}"
        for key, value in own.items()
        if key not in state
        and value.data_ptr() not in given
        and not key.endswith("num_batches_tracked")
    ]
    problems = [
        ("missing", missing),
        ("unexpected", [f"{key} {_shape(v)}" for key, v in state.items() if key not in own]),
        (
            "of another shape",
            [
                f"{key} {_shape(state[key])} for {_shape(value)}"
                for key, value in own.items()
                if key in state and state[key].shape != value.shape
            ],
        ),
    ]
    found = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in problems
        if keys
    ]
    if found:
        raise FinepruningError(
            f"--weights {source}: does not fit this model ({'; '.join(found)});"
            " give the checkpoint that was made for it"
        )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise FinepruningError(f"--weights {source}: does not fit: {_line(error)}") from None


def _torchvision(name: str, state: dict[str, Tensor] | None, source: str | Path | None) -> Loaded:
    if state is not None and name in RESNETS:
        head = state.get("fc.weight")
        model = resnet(name, len(head) if head is not None and head.ndim == 2 else 1000)
        fit_weights(model, state, source or "")
        return Loaded(model, Preprocess())
    hint = "; or give --weights FILE.safetensors" if name in RESNETS else ""
    models = _import("torchvision", f"--model torchvision:{name}", hint).models
    try:
        choices = list(models.get_model_weights(name))
        chosen = models.get_model_weights(name).DEFAULT if state is None else choices[0]
        model = models.get_model(name, weights=chosen if state is None else None)
    except Exception as error:  # an unknown name, a network without weights, no connection
        raise FinepruningError(f"--model torchvision:{name}: {_line(error)}") from error
    if state is not None:
        fit_weights(model, state, source or "")
    preset, classes = chosen.transforms(), chosen.meta.get("categories")
    preprocess = Preprocess(
        _square(preset.resize_size),
        _square(preset.crop_size),
        tuple(preset.mean),
        tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    return Loaded(model, preprocess, tuple(classes) if classes and state is None else None)


def _timm(name: str, state: dict[str, Tensor] | None, source: str | Path | None) -> Loaded:
    timm = _import("timm", f"--model timm:{name}")
    try:
        model = timm.create_model(name, pretrained=state is None)
        head = (state or {}).get(f"{model.pretrained_cfg.get('classifier')}.weight")
        if head is not None and len(head) != model.num_classes:
            model = timm.create_model(name, pretrained=False, num_classes=len(head))
    except Exception as error:  # an unknown name, a network without weights, no connection
        raise FinepruningError(f"--model timm:{name}: {_line(error)}") from error
    if state is not None:
        fit_weights(model, state, source or "")
    config = timm.data.resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if config["crop_mode"] == "border" or height != width or config["interpolation"] == "random":
        return Loaded(model.float(), timm.data.create_transform(**config, is_training=False))
    scaled = int(height / config["crop_pct"])
    preprocess = Preprocess(
        (scaled, scaled) if config["crop_mode"] == "squash" else scaled,
        height,
        tuple(config["mean"]),
        tuple(config["std"]),
        channels,
        config["interpolation"],
    )
    return Loaded(model.float(), preprocess)


def _user_function(
    file: Path, function: str, state: dict[str, Tensor] | None, source: str | Path | None
) -> Loaded:
    made = _run_function(file, function, "--model")
    model, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not (preprocess is None or callable(preprocess)):
        raise FinepruningError(
            f"--model {file}:{function}: returned {type(made).__name__};"
            " return a torch.nn.Module, or (module, preprocess)"
        )
    if state is not None:
        fit_weights(model, state, source or "")
    front = preprocess if isinstance(preprocess, FrontEnd) else None
    assumed = preprocess is None
    return Loaded(model, preprocess or Preprocess(), None, assumed, front, own=front is None)


def load_function(spec: str, option: str) -> Callable[..., Any]:
    """The function that ``FILE.py:function`` names; ``option`` is what errors are blamed on."""
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py"):
        raise FinepruningError(f"{option} {spec}: give FILE.py:function")
    return _with_file(Path(file), name, option, lambda function: function)


def _run_function(file: Path, name: str, option: str) -> Any:
    return _with_file(file, name, option, lambda function: function())


def _with_file(
    file: Path, function: str, option: str, use: Callable[[Callable[..., Any]], Any]
) -> Any:
    """Run a Python file of the user's and hand ``use`` the function in it."""
    if not file.is_file():
        raise FinepruningError(f"{option} {file}:{function}: no such file as {file}")
    # A private name: the file's own could shadow a package. Registered, as dataclasses ask for it.
    spec = importlib.util.spec_from_file_location(f"_finepruning_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As under `python FILE.py`: what lies beside the file can be imported, and stays importable
    # for what the model does later.
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not callable(make := getattr(module, function, None)):
            raise FinepruningError(
                f"{option} {file}:{function}: no function {function!r} in {file}"
            )
        return use(make)
    except FinepruningError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        where = f"{file}:{lines[-1]}" if lines else str(file)
        raise FinepruningError(
            f"{option} {file}:{function}: {type(error).__name__} at {where}: {_line(error)}"
        ) from error


@dataclass(frozen=True)
class HubPreprocess:
    """A Hugging Face image processor, as a function of one image."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])

    def __str__(self) -> str:
        return f"the model's own {type(self.processor).__name__}"


def _hugging_face(spec: str, state: dict[str, Tensor] | None, source: str | Path | None) -> Loaded:
    transformers = _import("transformers", f"--model {spec}")
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    info: dict[str, Any] = {}
    try:
        config = transformers.AutoConfig.from_pretrained(spec)
        task = _task(transformers, config)
        auto = getattr(transformers, task)
        if state is None:
            model, info = auto.from_pretrained(spec, output_loading_info=True)
        else:
            model = auto.from_config(config)
        if task == IMAGE_TASK:
            processor = _optional(transformers.AutoImageProcessor, spec)
        else:
            processor = _optional(transformers.AutoFeatureExtractor, spec)
        writes = task in (CTC_TASK, SEQUENCE_TASK)
        reader = _optional(transformers.AutoTokenizer, spec) if writes else None
    except Exception as error:  # no such model, no connection, another task, a missing library...
        raise FinepruningError(f"--model {spec}: {_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(info.get("missing_keys", ()))
    for name in [key for key in missing if key.endswith("masked_spec_embed")]:
        # Only training uses it. Hugging Face fills it with random numbers; the artifact is tied to
        # the bytes of its base, so that these must be the same at every load.
        model.get_parameter(name).data.zero_()
        missing.remove(name)
    if state is not None:
        fit_weights(model, state, source or "")
    elif missing:
        # Hugging Face only warns, and fills them with random numbers.
        raise FinepruningError(
            f"--model {spec}: has no weights for {', '.join(missing[:3])} ({len(missing)} tensors);"
            " it is not a trained classifier or recogniser: give one that is, or --weights"
        )
    config = model.config
    names = tuple(config.id2label[i] for i in sorted(config.id2label)) if config.id2label else ()
    classes = None if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names
    if task != IMAGE_TASK:
        front = FrontEnd() if processor is None else hub_front_end(processor)
        return Loaded(
            model.float(), front, classes, processor is None, front, writes=writes, reader=reader
        )
    if processor is not None:
        return Loaded(model.float(), HubPreprocess(processor), classes)
    size = getattr(config, "image_size", 224)
    side = size if isinstance(size, int) else 224
    return Loaded(model.float(), Preprocess(side * 8 // 7, side), classes, assumed=True)


IMAGE_TASK, AUDIO_TASK = "AutoModelForImageClassification", "AutoModelForAudioClassification"
CTC_TASK, SEQUENCE_TASK = "AutoModelForCTC", "AutoModelForSpeechSeq2Seq"


def _task(transformers: Any, config: Any) -> str:
    """Which of Hugging Face's classes reads this model: by what it was saved as."""
    saved = (getattr(config, "architectures", None) or [""])[0]
    known = {
        task
        for task in (AUDIO_TASK, CTC_TASK, SEQUENCE_TASK)
        if type(config) in getattr(transformers, task)._model_mapping
    }
    if saved.endswith("ForCTC") and CTC_TASK in known:
        return CTC_TASK
    if saved.endswith("ForConditionalGeneration") and SEQUENCE_TASK in known:
        return SEQUENCE_TASK
    return AUDIO_TASK if AUDIO_TASK in known else IMAGE_TASK


def _optional(auto: Any, spec: str) -> Any:
    """What a model may come without: its preprocessing, or its tokens' names."""
    try:
        return auto.from_pretrained(spec)
    except (OSError, ValueError, TypeError) as error:
        if "valid JSON" in str(error):  # it is there, and damaged
            raise
        return None


def _import(library: str, where: str, hint: str = "") -> ModuleType | Any:
    try:
        return importlib.import_module(library)
    except Exception as error:  # a torchvision built for another PyTorch raises RuntimeError
        raise FinepruningError(
            f"{where}: needs {library}, which cannot be imported here ({_line(error)});"
            f" pip install {library}{hint}"
        ) from error


def _square(size: Any) -> int | tuple[int, int]:
    """Torchvision writes a side as ``[224]``, timm and others as ``224`` or ``(224, 224)``."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))


def _line(error: BaseException) -> str:
    """The first two lines of an error's message as one; libraries often put the gist second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
