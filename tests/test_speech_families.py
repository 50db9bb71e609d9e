"""Speech networks as people have them: small random ones of the real classes, padded and not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import finepruning
from passes import through
from unchecked import personalize

# Transformers' own WavLM mixes two kinds of masks. As an error, that would pass for a network that
# takes no mask.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

CLIPS, WHOLE = 8, 1600
LEARNT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WAVES = {
    **LEARNT, "intermediate_size": 32, "conv_dim": (8, 8), "conv_kernel": (10, 3),
    "conv_stride": (5, 4), "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2, "classifier_proj_size": 12, "vocab_size": 20, "num_labels": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUP: dict[str, Any] = {**WAVES, "feat_extract_norm": "group"}
LAYER: dict[str, Any] = {
    **WAVES, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
DECODER: dict[str, Any] = {
    "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3,
}  # fmt: skip


class Waveform(nn.Module):
    """A keyword spotter on the waveform."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 20, 10), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 12, 3)
        )
        self.head = nn.Linear(12, 4)

    def forward(self, input_values: Tensor) -> Tensor:
        return self.head(self.body(input_values[:, None]).relu().mean(2))


class Spectrogram(nn.Module):
    """A keyword spotter on a spectrogram, with depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 12, 1),
        )  # fmt: skip
        self.head = nn.Linear(12, 4)

    def forward(self, input_features: Tensor) -> Tensor:
        return self.head(self.body(input_features[:, None]).relu().mean((2, 3)))


def ast() -> nn.Module:
    config = hf.ASTConfig(
        **LEARNT, intermediate_size=32, patch_size=8, frequency_stride=6, time_stride=6,
        max_length=WHOLE // 16, num_mel_bins=24, num_labels=4,
    )  # fmt: skip
    return hf.ASTForAudioClassification(config)


def parakeet() -> nn.Module:
    encoder = {
        **LEARNT, "intermediate_size": 32, "num_mel_bins": 16, "subsampling_conv_channels": 8,
        "subsampling_factor": 4, "conv_kernel_size": 3, "num_key_value_heads": 2,
    }  # fmt: skip
    return hf.ParakeetForCTC(
        hf.ParakeetCTCConfig(vocab_size=20, encoder_config=encoder, pad_token_id=0)
    )


def whisper() -> nn.Module:
    return hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            **DECODER, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8,
            max_source_positions=WHOLE // 32, max_target_positions=16, suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )  # fmt: skip


def moonshine() -> nn.Module:
    return hf.MoonshineForConditionalGeneration(
        hf.MoonshineConfig(
            **DECODER, hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=1,
            decoder_num_hidden_layers=1, encoder_num_attention_heads=2,
            decoder_num_attention_heads=2, max_position_embeddings=16,
        )
    )  # fmt: skip


MAKERS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    # what makes it, its input, the number of samples of a clip in one step of the input
    "waveform": (Waveform, "input_values", 1),
    "spectrogram": (Spectrogram, "input_features", 16),
    "ast": (ast, "input_values", 16),
    "wav2vec2": (
        lambda: hf.Wav2Vec2ForSequenceClassification(hf.Wav2Vec2Config(**GROUP)), "input_values", 1
    ),
    "hubert": (
        lambda: hf.HubertForSequenceClassification(hf.HubertConfig(**LAYER)), "input_values", 1
    ),
    "wavlm": (
        lambda: hf.WavLMForSequenceClassification(hf.WavLMConfig(**GROUP)), "input_values", 1
    ),
    "wav2vec2 ctc": (lambda: hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**LAYER)), "input_values", 1),
    "hubert ctc": (lambda: hf.HubertForCTC(hf.HubertConfig(**GROUP)), "input_values", 1),
    "sew ctc": (
        lambda: hf.SEWForCTC(hf.SEWConfig(**GROUP, squeeze_factor=2)), "input_values", 1
    ),
    "parakeet ctc": (parakeet, "input_features", 16),
    "whisper": (whisper, "input_features", 16),
    "moonshine": (moonshine, "input_values", 1),
}  # fmt: skip

WINDOW = ("ast", "whisper")
CLASSIFIERS = ("waveform", "spectrogram", "ast", "wav2vec2", "hubert", "wavlm")


def made(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = MAKERS[name][0]().eval()
    for parameter in model.parameters():  # some start at zero, and would stay there
        if not parameter.any():
            nn.init.normal_(parameter.data, std=0.1)
    return model.to(dtype)


def clips(
    name: str, dtype: torch.dtype = torch.float32, each: bool = False, more: int = 0
) -> list[dict[str, Tensor]]:
    """Padded clips of several lengths with a mask; ``more``: padding of every batch."""
    _, key, step = MAKERS[name]
    whole = WHOLE + (0 if name in WINDOW else more)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([WHOLE, 1200, 1200, 1456, 1008, WHOLE, 1312, 1104])[:CLIPS] // step
    x = torch.randn(CLIPS, WHOLE // step, generator=generator)
    if key == "input_features" or name == "ast":
        bins = {"ast": 24, "whisper": 8}.get(name, 16)
        x = torch.randn(CLIPS, WHOLE // step, bins, generator=generator)
    mask = torch.arange(whole // step) < lengths[:, None]
    x = torch.cat([x, x.new_zeros(CLIPS, whole // step - x.shape[1], *x.shape[2:])], 1)
    x = x * mask.view(*mask.shape, *[1] * (x.ndim - 2))
    x = x.transpose(1, 2) if name == "whisper" else x
    size = 1 if each else 4
    return [
        {key: a.to(dtype), "attention_mask": m.long()}
        for a, m in zip(x.split(size), mask.split(size), strict=True)
    ]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of convolutions and linear layers that are used, parametrised ones too."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("effort", "dtype"), [("best", torch.float32), ("fast", torch.bfloat16)], ids=["best", "fast"]
)
def test_family(name: str, effort: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = made(name, dtype)
    result = personalize(model, clips(name, dtype), sparsity=0.5, effort=effort)
    report = result.report
    again = personalize(model, clips(name, dtype), sparsity=0.5, effort=effort).model.state_dict()
    for key, value in result.model.state_dict().items():
        assert torch.equal(value, again[key]), f"{key}: the same data and seed, the same bits"

    given, now = weights(model), weights(result.model)
    tied = {value.data_ptr() for value in now.values()}
    assert report.samples == CLIPS
    assert report.zeros == round(0.5 * report.weights), "to the weight"
    assert report.weights <= sum(value.numel() for value in given.values())
    zeros = sum(int((value == 0).sum()) for value in now.values())
    assert zeros >= report.zeros
    assert all(value.isfinite().all() for value in now.values())
    assert len(tied) > 2

    named = {layer.name for layer in report.layers} | report.left_alone.keys()
    tied_head = {"proj_out"} if name in ("whisper", "moonshine") else set()
    assert now.keys() - tied_head <= named, "nothing is silently skipped"
    left = {key for key in report.left_alone if key in now} - tied_head
    assert not left, report.left_alone

    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model).state_dict()
    for key, value in result.model.state_dict().items():
        assert torch.equal(value, loaded[key]), key


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in WINDOW])
def test_whatever_the_padding(name: str) -> None:
    """One batch and many, little padding and much, and none at all."""
    model = made(name)
    none = [
        {k: v[:, : int(item["attention_mask"].sum())] for k, v in item.items()}
        for item in clips(name, each=True)
    ]
    results = [
        personalize(model, data, sparsity=0.5, effort="fast").model.state_dict()
        for data in (clips(name), clips(name, more=640), none)
    ]
    for other in results[1:]:
        for key, value in other.items():
            assert torch.allclose(value, results[0][key], atol=1e-6), key


@pytest.mark.parametrize("name", WINDOW)
def test_one_batch_and_many_in_a_window(name: str) -> None:
    model = made(name)
    results = [
        personalize(model, clips(name, each=each), sparsity=0.5, effort="fast").model
        for each in (False, True)
    ]
    first = results[0].state_dict()
    for key, value in results[1].state_dict().items():
        assert torch.allclose(value, first[key], atol=1e-4), key


@pytest.mark.parametrize("name", MAKERS)
def test_classes_are_read_out_and_vocabularies_are_not(name: str) -> None:
    report = personalize(
        made(name), clips(name), sparsity=0.3, effort="fast", task="classes"
    ).report
    assert report.readout["applied"] == (name in CLASSIFIERS)
    if name not in CLASSIFIERS:
        assert "a vocabulary is no list of classes" in report.readout["reason"]


def test_a_weight_normed_convolution_is_pruned_and_stays_one() -> None:
    """Also where whole slices go, whose norm is zero."""
    model = made("wav2vec2")
    result = personalize(model, clips("wav2vec2"), sparsity=0.9)
    conv = "wav2vec2.encoder.pos_conv_embed.conv"
    assert result.model.get_submodule(conv).parametrizations.keys() == {"weight"}
    layer = next(layer for layer in result.report.layers if layer.name == conv)
    weight = result.model.get_submodule(conv).weight
    assert int((weight == 0).sum()) == layer.zeros > 0.5 * layer.weights  # type: ignore[operator]
    assert bool(weight.isfinite().all())  # type: ignore[operator]


def test_wavlms_attention_through_its_projections_is_the_same() -> None:
    model = made("wavlm")
    inputs = clips("wavlm")[0]
    with torch.inference_mode():
        expected = model(**inputs).logits
    output, calls = through(model, inputs)
    assert torch.allclose(output.logits, expected, atol=1e-5)
    attention = "wavlm.encoder.layers.0.attention"
    assert {f"{attention}.{part}_proj" for part in ("q", "k", "v", "out")} <= set(calls)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, expected)
