"""A folder saved by Hugging Face's ``save_pretrained``, or the name of such a model on its hub."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .._errors import FinepruningError
from ..data.front_end import FrontEnd, hub_front_end
from ..data.pictures import Preprocess
from .libraries import import_library, one_line
from .loaded import Loaded
from .weights import Checkpoint

FORM = "a local folder, or ORG/NAME on Hugging Face"

IMAGE_TASK, AUDIO_TASK = "AutoModelForImageClassification", "AutoModelForAudioClassification"
CTC_TASK, SEQUENCE_TASK = "AutoModelForCTC", "AutoModelForSpeechSeq2Seq"


def takes(spec: str) -> bool:
    """Whether ``spec`` has this source's form."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec)
    return named is not None or (spec != "" and Path(spec).is_dir())


@dataclass(frozen=True)
class HubPreprocess:
    """A Hugging Face image processor, as a function of one image."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])

    def __str__(self) -> str:
        return f"the model's own {type(self.processor).__name__}"


def load(spec: str, weights: Checkpoint | None) -> Loaded:
    read = _read(spec, weights)
    model, missing = read.model, read.missing
    for name in [key for key in missing if key.endswith("masked_spec_embed")]:
        # Only training uses it. Hugging Face fills it with random numbers; the artifact is tied to
        # the bytes of its base, so that these must be the same at every load.
        model.get_parameter(name).data.zero_()
        missing.remove(name)
    if weights is not None:
        weights.fit_into(model)
    elif missing:
        # Hugging Face only warns, and fills them with random numbers.
        raise FinepruningError(
            f"--model {spec}: has no weights for {', '.join(missing[:3])} ({len(missing)} tensors);"
            " it is not a trained classifier or recogniser: give one that is, or --weights"
        )
    model, config = model.float(), model.config
    names = tuple(config.id2label[i] for i in sorted(config.id2label)) if config.id2label else ()
    classes = None if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names
    if read.task != IMAGE_TASK:
        assumed = read.processor is None
        front = FrontEnd() if assumed else hub_front_end(read.processor)
        return Loaded(model, front, classes, assumed, front, writes=read.writes, reader=read.reader)
    if read.processor is not None:
        return Loaded(model, HubPreprocess(read.processor), classes)
    size = getattr(config, "image_size", 224)
    side = size if isinstance(size, int) else 224
    return Loaded(model, Preprocess(side * 8 // 7, side), classes, assumed=True)


@dataclass(frozen=True)
class _Read:
    """What Hugging Face's library gave for a name."""

    model: Any
    task: str
    processor: Any
    reader: Any
    writes: bool
    missing: list[str]


def _read(spec: str, weights: Checkpoint | None) -> _Read:
    """Read all that a name stands for; the library is kept quiet meanwhile."""
    transformers = import_library("transformers", f"--model {spec}")
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
        if weights is None:
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
        raise FinepruningError(f"--model {spec}: {one_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return _Read(model, task, processor, reader, writes, sorted(info.get("missing_keys", ())))


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
