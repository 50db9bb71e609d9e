"""The command ``finepruning``: data on stdout, messages and progress on stderr.

Exit codes: 0 done; 1 the job failed, with one line that says why; 2 wrong usage; 130 Ctrl-C.
"""

# Nothing heavy is imported here: --help and a typing error must answer at once.
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import FinepruningError
from ._version import __version__

if TYPE_CHECKING:
    from ._audio import AudioFolder
    from ._data import ImageFolder
    from ._evaluate import Evaluation
    from ._models import Loaded


IMAGE_OPTIONS = ("resize", "crop", "mean", "std", "channels", "interpolation")
AUDIO_OPTIONS = ("rate", "seconds", "front_end")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    >>> main(["inspect", "me/"])  # doctest: +SKIP
    0
    """
    args = _parser().parse_args(argv)
    try:
        result, text = args.run(args)
        print(json.dumps(result, indent=2) if args.format == "json" else text, flush=True)
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FinepruningError, OSError) as error:
        _say(f"error: {' '.join(str(error).split())}")
        return 1
    except Exception as error:
        # PyTorch's, by name: to import torch for it would take a second. Anything else is a bug
        # in this program, and keeps its traceback.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        _say("error: out of memory; give a smaller --batch-size")
        return 1


def _personalize(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = Path(args.out)
    # All that could waste an hour's work is looked at before the work.
    if out.exists() or out.is_symlink():
        raise FinepruningError(f"--out {out}: exists already; remove it or give another name")
    if not os.access(out.absolute().parent, os.W_OK):
        parent = out.absolute().parent
        raise FinepruningError(
            f"--out {out}: cannot write in {parent}; make it first, or go elsewhere"
        )
    audio = _holds_audio(args)

    from . import personalize

    device = _device(args.device)
    loaded = _load(args, audio)
    folder = _folder(args, loaded)
    try:
        result = personalize(
            loaded.model.to(device),
            folder,
            sparsity=args.sparsity,
            effort=args.effort,
            readout=args.readout,
            seed=args.seed,
            device=device,
        )
    finally:  # where too little is left, it is these that are missing
        _say_skipped(folder)
    result.save(out)
    _say(f"saved in {out}")
    summary = {**_about(folder), "out": str(out), "report": result.report.to_dict()}
    return summary, str(result.report)


def _evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import torch

    from ._audio import audio_class_folders
    from ._data import class_folders
    from ._evaluate import evaluate, match_classes, predict

    audio = _holds_audio(args)
    if args.personal is not None and not Path(args.personal).is_dir():
        raise FinepruningError(f"--personal {args.personal}: no such folder")
    device = _device(args.device)
    loaded = _load(args, audio)
    models = {"dense": loaded.model.to(device)}
    if args.personal is not None:
        from . import load

        models["personal"] = load(args.personal, loaded.model).to(device)
    if loaded.writes:
        return _evaluate_transcripts(args, loaded, models, device)
    names = audio_class_folders(args.data) if audio else class_folders(args.data)

    # How many outputs there are, only the network knows: ask it with one sample.
    first = next(iter(_folder(args, loaded, dict.fromkeys(names, 0), batch_size=1)))[0]
    with torch.inference_mode():
        outputs = predict(loaded.model, first, device).shape[1]
    labels = match_classes(names, outputs, names=loaded.classes, file=args.classes)
    folder = _folder(args, loaded, labels)
    found = {name: evaluate(model, folder, device=device) for name, model in models.items()}
    _say_skipped(folder)
    summary = {**_about(folder), **{name: e.to_dict() for name, e in found.items()}}
    return summary, _table(found, outputs)


def _evaluate_transcripts(
    args: argparse.Namespace, loaded: Loaded, models: dict[str, Any], device: str
) -> tuple[dict[str, Any], str]:
    from ._audio import AudioFolder
    from ._transcripts import evaluate_transcripts, find_texts, format_transcriptions

    if loaded.reader is None:
        raise FinepruningError(
            f"--model {args.model}: brings no tokenizer, so that its tokens cannot be read;"
            " save the tokenizer in the model's folder"
        )
    texts = find_texts(args.data, args.transcripts)
    folder = AudioFolder(args.data, loaded.front, batch_size=args.batch_size, texts=texts)
    found = {
        name: evaluate_transcripts(model, loaded.reader, folder, device=device)
        for name, model in models.items()
    }
    _say_skipped(folder)
    summary = {**_about(folder), **{name: t.to_dict() for name, t in found.items()}}
    return summary, format_transcriptions(found)


def _inspect(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from . import read_report
    from ._account import format_report

    report = read_report(args.personal)
    return report, format_report(report)


def _holds_audio(args: argparse.Namespace) -> bool:
    """Whether the folder holds audio, not images; options that mean nothing there are refused."""
    from ._audio import AUDIO
    from ._data import IMAGES
    from ._folder import find_files, kind_of

    kind = kind_of(args.data, [IMAGES, AUDIO])
    find_files(args.data, kind)
    wrong = AUDIO_OPTIONS if kind is IMAGES else IMAGE_OPTIONS
    for name in wrong:
        if getattr(args, name, None) is not None:
            raise FinepruningError(
                f"--{name.replace('_', '-')}: {args.data} holds {kind.plural}; leave it out"
            )
    return kind is AUDIO


def _load(args: argparse.Namespace, audio: bool) -> Loaded:
    """Load the model; the command's options go before what it says of its inputs."""
    from ._models import load_model

    loaded = load_model(args.model, args.weights)
    if audio and loaded.front is None and not loaded.own:
        raise FinepruningError(
            f"--model {args.model}: takes images, but {args.data} holds audio; give a network for"
            " audio, or a folder of images"
        )
    if not audio and loaded.front is not None:
        raise FinepruningError(
            f"--model {args.model}: takes audio, but {args.data} holds images; give a network for"
            " images, or a folder of recordings"
        )
    return _with_audio(args, loaded) if audio else _with_images(args, loaded)


def _with_audio(args: argparse.Namespace, loaded: Loaded) -> Loaded:
    from ._audio import FrontEnd, HubFeatures
    from ._models import load_function

    front, assumed = loaded.front or FrontEnd(), loaded.assumed and args.front_end is None
    if args.front_end is not None:
        function: Any = load_function(args.front_end, "--front-end")
    elif loaded.front is None and not loaded.assumed:
        function = loaded.preprocess
    else:
        function = None
    if isinstance(function, FrontEnd):
        front = function
    elif function is not None:
        rate = int(getattr(function, "rate", 16000))
        front = FrontEnd(function, rate, name=args.front_end or "prepared by the model's own code")
    if isinstance(front.function, HubFeatures):
        window = front.function.window or math.inf
        for option, value, own in (
            ("--rate", args.rate, args.rate in (None, front.rate)),
            ("--seconds", args.seconds, (args.seconds or 0) <= window),
        ):
            if not own:
                raise FinepruningError(
                    f"{option} {value:g}: the model's own front end takes {front.rate} Hz and at"
                    f" most {front.longest:g} s; leave {option} out"
                )
    if args.rate is not None:
        front = dataclasses.replace(front, rate=args.rate)
    if args.seconds is not None:
        front = dataclasses.replace(front, longest=args.seconds)
    note = " (assumed; change with --front-end and --rate)" if assumed else ""
    _say(f"audio: {front}{note}")
    return dataclasses.replace(loaded, front=front)


def _with_images(args: argparse.Namespace, loaded: Loaded) -> Loaded:
    from ._data import Preprocess

    given = {name: getattr(args, name) for name in IMAGE_OPTIONS if getattr(args, name) is not None}
    given = {name: None if value == "none" else value for name, value in given.items()}
    preprocess = loaded.preprocess
    if isinstance(preprocess, Preprocess):
        preprocess = dataclasses.replace(preprocess, **given)
    elif {"resize", "crop", "mean", "std"} <= given.keys():
        preprocess = Preprocess(**given)
    elif given:
        raise FinepruningError(
            f"--{next(iter(given))}: {args.model} brings its own preprocessing;"
            " give all of --resize --crop --mean --std to replace it"
        )
    note = " (assumed; change with --resize --crop --mean --std)" if loaded.assumed else ""
    shown = preprocess if isinstance(preprocess, Preprocess) else "prepared by the model's own code"
    _say(f"images: {shown}{'' if given else note}")
    return dataclasses.replace(loaded, preprocess=preprocess)


def _folder(
    args: argparse.Namespace,
    loaded: Loaded,
    labels: dict[str, int] | None = None,
    batch_size: int | None = None,
) -> ImageFolder | AudioFolder:
    from ._audio import AudioFolder
    from ._data import ImageFolder

    size = batch_size or args.batch_size
    if loaded.front is not None:
        seed = args.seed if labels is None else None
        return AudioFolder(args.data, loaded.front, batch_size=size, labels=labels, seed=seed)
    return ImageFolder(args.data, loaded.preprocess, batch_size=size, labels=labels)


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FinepruningError("--device cuda: PyTorch sees no CUDA device; give --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _about(folder: ImageFolder | AudioFolder) -> dict[str, Any]:
    skipped = [{"path": str(path), "reason": reason} for path, reason in folder.skipped]
    return {"data": str(folder.root), folder.kind.counted: folder.files, "skipped": skipped}


def _say_skipped(folder: ImageFolder | AudioFolder) -> None:
    from ._folder import describe_skipped

    if folder.skipped:
        _say(f"{folder.files} {folder.kind.counted}; {describe_skipped(folder.skipped, limit=10)}")


def _table(found: dict[str, Evaluation], outputs: int) -> str:
    told = len(next(iter(found.values())).classes)
    rows = [["", f"all {outputs} outputs", f"told the {told} classes", "ms a sample"]]
    for name, e in found.items():
        cells = [(e.correct, e.interval), (e.told_correct, e.told_interval)]
        rows.append(
            [name]
            + [f"{k}/{e.n} = {k / e.n:.1%} [{low:.1%}, {high:.1%}]" for k, (low, high) in cells]
            + [f"{1000 * e.latency:.1f}"]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n[95 % Wilson interval]"


def _say(message: str) -> None:
    print(f"finepruning: {message}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "finepruning",
        description="Make a pretrained network personal: unlabelled data in, a sparse network that"
        " is more accurate for one person out, by forward passes only.",
    )
    parser.add_argument("--version", action="version", version=f"finepruning {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help_: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.set_defaults(run=run)
        sub.add_argument("--format", choices=["text", "json"], default="text", help="of the result")
        return sub

    personalize = command("personalize", _personalize, "prune and adapt a network to a person")
    _add_model_and_data(personalize, "folder of the person's images or audio, unlabelled")
    personalize.add_argument("--out", required=True, metavar="DIR", help="new folder to save in")
    personalize.add_argument(
        "--sparsity", type=_sparsity, default=0.7, help="share of weights to remove (0.7)"
    )
    personalize.add_argument("--effort", choices=["fast", "best", "paper"], default="best")
    personalize.add_argument(
        "--no-readout", dest="readout", action="store_false", help="leave the output layer's bias"
    )
    personalize.add_argument("--seed", type=int, default=0)

    evaluate = command("evaluate", _evaluate, "count correct answers on labelled data")
    _add_model_and_data(evaluate, "folder with one folder of images or audio for each class")
    evaluate.add_argument("--personal", metavar="DIR", help="what personalize saved")
    evaluate.add_argument(
        "--classes",
        metavar="FILE",
        help="what the class folders mean: text, line number = output; or JSON {folder: output}",
    )

    evaluate.add_argument(
        "--transcripts",
        metavar="FILE",
        help="of the recordings: csv, tsv or txt of name and text; else NAME.txt beside NAME.wav",
    )

    inspect = command("inspect", _inspect, "show what personalize did and what it cost")
    inspect.add_argument("personal", metavar="DIR", help="what personalize saved")
    return parser


def _add_model_and_data(parser: argparse.ArgumentParser, data: str) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="torchvision:NAME, timm:NAME, FILE.py:function, or a Hugging Face folder or id",
    )
    parser.add_argument("--weights", metavar="FILE", help="checkpoint: safetensors, pt or pth")
    parser.add_argument("--data", required=True, metavar="DIR", help=data)
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    images = parser.add_argument_group("images", "instead of the model's own preprocessing")
    images.add_argument("--resize", type=_size, metavar="N", help="shorter side, HxW, or none")
    images.add_argument("--crop", type=_size, metavar="N", help="centre: side, HxW, or none")
    images.add_argument("--mean", type=_floats, nargs="+", action=_Tuple, metavar="X")
    images.add_argument("--std", type=_floats, nargs="+", action=_Tuple, metavar="X")
    images.add_argument("--channels", type=int, choices=[1, 3], help="grey or RGB")
    images.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, ...")
    audio = parser.add_argument_group("audio", "instead of the model's own front end")
    audio.add_argument(
        "--front-end", metavar="FILE.py:FUNCTION", help="from a waveform to the network's input"
    )
    audio.add_argument("--rate", type=_positive, metavar="HZ", help="that the front end takes")
    audio.add_argument(
        "--seconds", type=_seconds, metavar="S", help="longer recordings are cut (30)"
    )


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(x for group in values for x in group))


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.replace(",", " ").split()]


def _size(text: str) -> int | tuple[int, int] | str:
    if text == "none":
        return text
    sides = [_positive(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise ValueError
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return value


def _seconds(text: str) -> float:
    if not 0.1 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number of 0.1 or more")
    return value


def _sparsity(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 0 up to, not including, 1")
    return value
