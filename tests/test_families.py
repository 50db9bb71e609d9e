"""Networks as people have them: small random ones of real classes, in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import finepruning
from finepruning import Result
from unchecked import personalize

SAMPLES = 16
GENERATOR = torch.Generator().manual_seed(0)


def images() -> list[Tensor]:
    return list(torch.randn(SAMPLES, 3, 32, 32, generator=GENERATOR).split(6))


def texts() -> list[dict[str, Tensor]]:
    """Token numbers with padding at the end, as a tokenizer gives them."""
    ids = torch.randint(1, 50, (SAMPLES, 9), generator=GENERATOR)
    length = torch.randint(3, 10, (SAMPLES, 1), generator=GENERATOR)
    mask = (torch.arange(9) < length).long()
    return [
        {"input_ids": i, "attention_mask": m}
        for i, m in zip((ids * mask).split(6), mask.split(6), strict=True)
    ]


def sounds() -> list[dict[str, Tensor]]:
    waves = torch.randn(SAMPLES, 600, generator=GENERATOR)
    return [{"input_values": w} for w in waves.split(6)]


def vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8, num_labels=5,
        )
    )  # fmt: skip


def resnet() -> nn.Module:
    return hf.ResNetForImageClassification(
        hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], num_labels=5,
            layer_type="bottleneck",
        )
    )  # fmt: skip


def convnext() -> nn.Module:
    return hf.ConvNextForImageClassification(
        hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5)
    )


def mobilenet() -> nn.Module:
    return hf.MobileNetV2ForImageClassification(
        hf.MobileNetV2Config(depth_multiplier=0.1, image_size=32, num_labels=5)
    )


def bit() -> nn.Module:
    """Its convolutions standardise their weights: they are left alone."""
    return hf.BitForImageClassification(
        hf.BitConfig(
            embedding_size=32, hidden_sizes=[32, 32], depths=[1, 1], num_labels=5, num_groups=8
        )
    )


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, num_labels=5,
        )
    )  # fmt: skip


def albert() -> nn.Module:
    """One layer, called four times."""
    return hf.AlbertForSequenceClassification(
        hf.AlbertConfig(
            vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=4,
            num_attention_heads=2, intermediate_size=32, num_labels=5,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    return hf.GPT2ForSequenceClassification(
        hf.GPT2Config(
            vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, num_labels=5,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def language() -> nn.Module:
    """A language model whose last layer is tied to the embedding."""
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    )


def wav2vec2() -> nn.Module:
    """With a weight-normalised convolution, which is pruned."""
    return hf.Wav2Vec2ForSequenceClassification(
        hf.Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            conv_dim=(8, 8), conv_kernel=(8, 4), conv_stride=(4, 4), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=4, num_labels=5,
            classifier_proj_size=8,
        )
    )  # fmt: skip


def transformer() -> nn.Module:
    return nn.Sequential(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=True
        ),
        nn.Flatten(),
        nn.Linear(16 * 4, 5),
    )


def sequences() -> Tensor:
    return torch.randn(SAMPLES, 4, 16, generator=GENERATOR)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], set[str]]] = {
    "vit": (vit, images, set()),
    "resnet": (resnet, images, set()),
    "convnext": (convnext, images, set()),
    "mobilenet": (mobilenet, images, set()),
    "bit": (bit, images, set()),
    "bert": (bert, texts, set()),
    "albert": (albert, texts, set()),
    "gpt2": (gpt2, texts, set()),
    "language": (language, texts, {"Linear"}),
    "wav2vec2": (wav2vec2, sounds, set()),
    "transformer": (transformer, sequences, set()),
}
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D)


def outputs(model: nn.Module, data: Any) -> list[Tensor]:
    with torch.inference_mode():
        out = []
        for batch in data.split(6) if isinstance(data, Tensor) else data:
            y = model(**batch) if isinstance(batch, dict) else model(batch)
            out.append(y if isinstance(y, Tensor) else y.logits)
    return out


def check(model: nn.Module, data: Any, result: Result, alone: set[str], sparsity: float) -> None:
    """Every weight is accounted for, once; the zeros are counted; the outputs are sound."""
    report = result.report
    # Read-only names: an attention's projections are listed as its q, k and v.
    listed = {la.name.removesuffix(".q").removesuffix(".k").removesuffix(".v")
              for la in report.layers}  # fmt: skip
    weights: dict[int, Tensor] = {}
    for name, module in result.model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            assert name in listed
            weights[id(module.in_proj_weight)] = module.in_proj_weight
        elif isinstance(module, KINDS):
            if name in report.left_alone:
                assert report.left_alone[name]
                assert type(module).__name__ in alone or "never called" in report.left_alone[name]
            else:
                assert name in listed, f"{name} is silently skipped"
                weights[id(module.weight)] = module.weight
    left = {
        type(m).__name__
        for n, m in model.named_modules()
        if isinstance(m, KINDS) and "never called" not in report.left_alone.get(n, "never called")
    }
    assert left == alone
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    assert zeros == report.zeros
    assert sum(w.numel() for w in weights.values()) == sum(la.weights for la in report.layers)
    assert report.sparsity == zeros / report.weights >= sparsity
    assert report.sparsity == pytest.approx(sparsity, abs=0.01)
    for mine, dense in zip(outputs(result.model, data), outputs(model.eval(), data), strict=True):
        assert mine.isfinite().all()
        assert mine.shape == dense.shape
        assert mine.dtype == dense.dtype


@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, effort: str, tmp_path: Path) -> None:
    make, data_of, alone = FAMILIES[family]
    torch.manual_seed(0)
    model, data = make(), data_of()
    # What is left alone cannot become zero.
    sparsity = {"bit": 0.01, "language": 0.2}.get(family, 0.6)
    options = {"sparsity": sparsity, "effort": effort, "task": "classes"}
    result = personalize(model, data, **options)
    check(model, data, result, alone, sparsity)
    assert result.report.readout["applied"] == (family != "language")

    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    for one, two in zip(outputs(result.model, data), outputs(loaded, data), strict=True):
        assert torch.equal(one, two)
    with torch.no_grad():  # the model as personalised gives what the parts gave
        again = personalize(model, data, **options)
    for one, two in zip(outputs(result.model, data), outputs(again.model, data), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["vit", "resnet", "gpt2", "transformer"])
def test_half_precision(family: str, dtype: torch.dtype, effort: str, tmp_path: Path) -> None:
    make, data_of, alone = FAMILIES[family]
    torch.manual_seed(0)
    model, data = make().to(dtype), data_of()
    if isinstance(data, Tensor):
        data = data.to(dtype)
    else:
        data = [x.to(dtype) if isinstance(x, Tensor) else x for x in data]
    result = personalize(model, data, sparsity=0.6, effort=effort)
    check(model, data, result, alone, 0.6)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    for name, value in loaded.state_dict().items():
        assert value.dtype == result.model.state_dict()[name].dtype
        assert torch.equal(value, result.model.state_dict()[name])


def test_half_precision_comes_close_to_single() -> None:
    """Statistics are kept in float32: only weights and activations are rounded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 5))
    x = torch.randn(64, 16, generator=GENERATOR)
    single = personalize(model, x, readout=False)
    half = personalize(model.bfloat16(), x.bfloat16(), readout=False)
    error = outputs(half.model, x.bfloat16())[0].float() - outputs(single.model, x)[0]
    assert error.abs().mean() < 0.05
