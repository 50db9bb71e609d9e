"""How few bytes make a network one person's: ResNet-50 for an owner of ten dog breeds.

    python benchmarks/artifacts.py [--draws 3] [--smoke]

70 % of the weights go, 128 unlabelled photos; then what is stored of the others is what each kind
says, and the network is scored as it is loaded again: over all 1,000 outputs with its read-out, and
told the ten classes. ``mask`` is personalised knowing that only a gain of each output and one of
each input are stored.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from device import Photos
from measure import append_row, read_rows, result_file
from networks import load_network, need
from torch import Tensor, nn

import finepruning
from finepruning import Config
from finepruning.research import sizes_of

PIXELS, SPARSITY = 224, 0.7
DENSE = "dense"
KINDS = ("exact", "float16", "int8", "differences", "mask")


@dataclass
class ArtifactRow:
    """How one artifact does."""

    draw: int
    kind: str
    correct: int
    told: int
    total: int
    weights: int
    """That are prunable."""
    bytes: int
    """Of the artifact, without the statistics for later updates."""
    mask: int
    """Of these, those of the mask."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="few small photos, two kinds")
    args = parser.parse_args()
    need("imagenet")
    path = result_file("artifact-resnet50" + "-smoke" * args.smoke)
    path.parent.mkdir(exist_ok=True)
    if args.smoke:
        path.unlink(missing_ok=True)
    done = {(row.draw, row.kind) for row in read_rows(path, ArtifactRow)}
    kinds = ("exact", "differences") if args.smoke else KINDS
    pixels = 64 if args.smoke else PIXELS
    model = load_network("resnet50")
    for draw in range(1 if args.smoke else args.draws):
        photos = Photos(draw, args.smoke)
        own, test = (photos.tensors(n, pixels) for n in (photos.own, photos.test))
        if (draw, DENSE) not in done and not draw:
            append_row(path, _scored(model, photos, test, draw, DENSE))
        for rescaled in (False, True):
            asked = [k for k in kinds if (k == "mask") == rescaled and (draw, k) not in done]
            if not asked:
                continue
            method = "gains" if rescaled else "compensate"
            config = Config(sparsity=SPARSITY, fit={"method": method})
            result = finepruning.personalize(model, own.split(16), config=config, progress=False)
            with TemporaryDirectory() as folder:
                for kind in asked:
                    out = Path(folder, kind)
                    result.save(out, values=kind, base=model)
                    row = _scored(finepruning.load(out, model), photos, test, draw, kind)
                    sizes = sizes_of(out)
                    row.bytes, row.mask = sizes.total, sizes.mask
                    row.weights = result.report.weights
                    append_row(path, row)
                    print(
                        draw, kind, f"{100 * row.correct / row.total:.1f}",
                        f"{100 * row.told / row.total:.1f}", sizes.line(row.weights),
                        f"and {sizes.statistics / 1e6:.1f} MB of statistics", flush=True,
                    )  # fmt: skip


def _scored(model: nn.Module, photos: Photos, test: Tensor, draw: int, kind: str) -> ArtifactRow:
    with torch.no_grad():
        outputs = torch.cat([model(x) for x in test.split(16)])
    labels, told = photos.user.pool.truth[photos.test], torch.tensor(photos.user.classes)
    right = int((outputs.argmax(1) == labels).sum())
    among = int((told[outputs[:, told].argmax(1)] == labels).sum())
    return ArtifactRow(draw, kind, right, among, len(labels), 0, 0, 0)


if __name__ == "__main__":
    main()
