"""The families of the zoo: how each is built, tiny where it can be, and what it is fed.

Needs torchvision, timm and transformers beside PyTorch; ``make zoo`` makes an environment of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

SAMPLES, PARTS = 32, 2


@dataclass(frozen=True)
class Family:
    """One network of a family, with batches that it takes."""

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[int], list[Any]]
    """``data(seed)``: batches of ``SAMPLES`` samples in all."""


def pictures(size: int, seed: int, channels: int = 3, key: str = "") -> list[Any]:
    """Smooth random pictures: noise of each pixel alone would vanish in any pooling."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(SAMPLES, channels, 8, 8, generator=generator)
    x = nn.functional.interpolate(small, (size, size), mode="bilinear")
    x = x + 0.3 * torch.randn(x.shape, generator=generator)
    return [{key: part} if key else part for part in x.chunk(PARTS)]


def tokens(words: int, length: int, seed: int, **more: Any) -> list[Any]:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, words, (SAMPLES, length), generator=generator)
    return [{"input_ids": part} | more for part in ids.chunk(PARTS)]


def sound(length: int, seed: int, key: str = "input_values", bands: int = 0) -> list[Any]:
    """Noise that changes slowly in loudness: samples, or a spectrogram of ``bands``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (SAMPLES, bands, length) if bands else (SAMPLES, length)
    x = torch.randn(shape, generator=generator) * torch.rand(SAMPLES, generator=generator).view(
        -1, *[1] * (len(shape) - 1)
    )
    return [{key: part} for part in x.chunk(PARTS)]


# --- timm


def _timm(name: str, size: int = 64, more: dict[str, Any] | None = None) -> Family:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=20, **(more or {}))

    return Family(f"timm/{name}", build, partial(pictures, size))


_TINY = {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 16}
_TIMM: tuple[tuple[Any, ...], ...] = (
    ("lcnet_050",), ("mobilenetv3_small_050",), ("mobilenetv3_large_100",),
    ("mobilenetv4_conv_small",), ("mobilenetv2_050",), ("ghostnet_050",), ("ghostnetv2_100",),
    ("repghostnet_050",), ("efficientnet_lite0",), ("tf_efficientnet_lite0",),
    ("tf_efficientnet_b0",), ("tf_efficientnet_cc_b0_4e",), ("mixnet_s",), ("tf_mixnet_s",),
    ("mnasnet_small",), ("tinynet_e",), ("hardcorenas_a",), ("fbnetv3_b",),
    ("nf_resnet26",), ("nf_regnet_b0",), ("nfnet_l0",), ("dm_nfnet_f0",),
    ("resnetv2_50x1_bit",), ("resnetv2_18",), ("resnet18",), ("resnext50_32x4d",),
    ("seresnet18",), ("resnest14d",), ("skresnet18",), ("res2net50_14w_8s",), ("ecaresnet26t",),
    ("gernet_s",), ("bat_resnext26ts", 256), ("halonet26t", 256), ("lambda_resnet26t", 64, {"img_size": 64}),
    ("botnet26t_256", 64, {"img_size": 64}), ("regnety_002",), ("regnetz_005",), ("densenet121",), ("dla34",),
    ("dpn48b",), ("hrnet_w18_small",), ("hgnet_tiny",), ("inception_v4", 96), ("xception41", 96),
    ("inception_next_atto",), ("vgg11", 32), ("vovnet39a",), ("selecsls42b",), ("cspresnet50",),
    ("darknet17",), ("repvgg_a0",), ("mobileone_s0",), ("rexnet_100",), ("convnext_atto",),
    ("convnextv2_atto",), ("convmixer_768_32", 64), ("edgenext_xx_small",), ("efficientvit_b0",),
    ("efficientvit_m0", 224), ("efficientformer_l1", 224), ("efficientformerv2_s0", 224),
    ("fastvit_t8",), ("starnet_s050",), ("mobilevit_xxs",), ("mobilevitv2_050",), ("repvit_m0_9",),
    ("swiftformer_xs", 64), ("levit_128s", 224), ("pvt_v2_b0",), ("poolformer_s12",),
    ("caformer_s18",),  ("visformer_tiny", 224), ("tiny_vit_5m_224", 224),
    ("nest_tiny", 64, {"img_size": 64}), ("coatnet_nano_rw_224", 64, {"img_size": 64}),
    ("maxvit_nano_rw_256", 64, {"img_size": 64}), ("gcvit_xxtiny", 64, {"img_size": 64}), ("focalnet_tiny_srf",),
    ("davit_tiny",), ("hiera_tiny_224", 224), ("mvitv2_tiny", 64, {"img_size": 64}), ("nextvit_small",),
    ("vit_tiny_patch16_224", 64, _TINY), ("vit_relpos_small_patch16_224", 64, _TINY),
    ("deit_tiny_distilled_patch16_224", 64, _TINY), ("deit3_small_patch16_224", 64, _TINY),
    ("beit_base_patch16_224", 64, _TINY), ("beitv2_base_patch16_224", 64, _TINY),
    ("eva_giant_patch14_224", 64, _TINY), ("eva02_tiny_patch14_224", 64, _TINY),
    ("naflexvit_base_patch16_gap", 64, {"embed_dim": 64, "depth": 2, "num_heads": 4}),
    ("cait_xxs24_224", 64, _TINY), ("xcit_nano_12_p16_224", 64, _TINY),
    ("volo_d1_224", 64, {"img_size": 64}), ("crossvit_tiny_240", 240), ("pit_ti_224", 224),
    ("tnt_s_patch16_224", 64, {"img_size": 64}), ("twins_pcpvt_small", 64, {"img_size": 64}), ("convit_tiny", 64, _TINY),
    ("coat_lite_tiny", 64, {"img_size": 64}), ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1)}),
    ("swinv2_tiny_window8_256", 64, {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1)}),
    ("swinv2_cr_tiny_224", 64, {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1)}),
    ("mixer_s32_224", 64, {"img_size": 64}), ("gmlp_ti16_224", 64, {"img_size": 64}), ("resmlp_12_224", 64, {"img_size": 64}),
    ("sequencer2d_s", 64, {"img_size": 64}), ("samvit_base_patch16", 64, _TINY),
)  # fmt: skip


# --- torchvision


def _vision(name: str, size: int = 64, more: dict[str, Any] | None = None) -> Family:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **(more or {}))

    return Family(f"torchvision/{name}", build, partial(pictures, size))


_CLASSES = {"num_classes": 20}
_BARE = {"weights_backbone": None, "num_classes": 5}
_VISION: tuple[tuple[Any, ...], ...] = (
    ("alexnet", 64, _CLASSES), ("squeezenet1_1", 64, _CLASSES), ("vgg11_bn", 32, _CLASSES),
    ("googlenet", 64, _CLASSES | {"init_weights": False}),
    ("inception_v3", 96, _CLASSES | {"init_weights": False}),
    ("resnet18", 64, _CLASSES), ("shufflenet_v2_x0_5", 64, _CLASSES), ("mnasnet0_5", 64, _CLASSES),
    ("mobilenet_v2", 64, _CLASSES), ("mobilenet_v3_small", 64, _CLASSES), ("densenet121", 64, _CLASSES),
    ("efficientnet_b0", 64, _CLASSES), ("regnet_y_400mf", 64, _CLASSES), ("convnext_tiny", 64, _CLASSES),
    ("swin_t", 64, _CLASSES), ("swin_v2_t", 64, _CLASSES), ("maxvit_t", 224, _CLASSES),
    ("vit_b_32", 224, _CLASSES), ("lraspp_mobilenet_v3_large", 64, _BARE),
    ("deeplabv3_mobilenet_v3_large", 64, _BARE), ("fcn_resnet50", 64, _BARE),
    ("r3d_18", 0, _CLASSES), ("mvit_v1_b", 0, _CLASSES), ("swin3d_t", 0, _CLASSES),
    ("ssdlite320_mobilenet_v3_large", 320, _BARE),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", 320, _BARE),
)  # fmt: skip


def _video(frames: int, size: int, seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES // 4, 3, frames, 8, 8, generator=generator)
    return [*nn.functional.interpolate(x, (frames, size, size)).chunk(PARTS)]


# --- transformers

_SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 99, "max_position_embeddings": 64, "num_labels": 5, "pad_token_id": 0,
}  # fmt: skip
_KEYS = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SPEECH = {
    "conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "conv_bias": True,
}  # fmt: skip


def _hugging(
    kind: str, config: dict[str, Any], data: Callable[[int], list[Any]], label: str = ""
) -> Family:
    def build() -> nn.Module:
        import transformers

        model = getattr(transformers, kind)
        return model(model.config_class(**{k: v for k, v in config.items() if v is not None}))

    return Family(f"transformers/{kind}{label}", build, data)


def _decoder_data(seed: int) -> list[Any]:
    batches = tokens(99, 12, seed)
    return [b | {"attention_mask": torch.ones_like(b["input_ids"])} for b in batches]


def _texts() -> Iterator[Family]:
    words = partial(tokens, 99, 12)
    heads = "ForSequenceClassification"
    for name, more in {
        "Bert": {},
        "DistilBert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
        "Albert": {"embedding_size": 16},
        "Roberta": {},
        "Electra": {"embedding_size": 16},
        "DebertaV2": {},
        "Funnel": {
            "hidden_size": None,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "intermediate_size": None,
            "max_position_embeddings": None,
            "d_model": 32,
            "d_inner": 64,
            "n_head": 4,
            "d_head": 8,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        "XLNet": {
            "hidden_size": None,
            "num_hidden_layers": None,
            "num_attention_heads": None,
            "max_position_embeddings": None,
            "d_model": 32,
            "n_layer": 2,
            "n_head": 4,
            "d_inner": 64,
        },
        "MobileBert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        "SqueezeBert": {"embedding_size": 32},
        "FNet": {},
        "Nystromformer": {},
        "MPNet": {},
        "ModernBert": {"local_attention": 8},
        "Longformer": {"attention_window": 4},
    }.items():
        yield _hugging(f"{name}{heads}", _SMALL | more, words)
    for name, more in {
        "GPT2": _GPT, "GPTNeo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}, "GPTJ": _GPT | {"rotary_dim": 4}, "GPTNeoX": {}, "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "Bloom": {"n_layer": 2, "n_head": 4}, "Falcon": {}, "Llama": _KEYS, "Mistral": _KEYS, "Qwen2": _KEYS, "Qwen3": _KEYS,
        "Gemma": _KEYS, "Gemma2": _KEYS, "Phi": {}, "Phi3": {}, "StableLm": _KEYS, "Mixtral": _KEYS | _EXPERTS,
        "Qwen2Moe": _KEYS | _EXPERTS | {"shared_expert_intermediate_size": 32}, "Qwen3Moe": _KEYS | _EXPERTS, "Jamba": None, "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    }.items():  # fmt: skip
        if more is not None:
            yield _hugging(f"{name}{heads}", _SMALL | more, _decoder_data)
    yield _hugging("MixtralForCausalLM", _SMALL | _KEYS | _EXPERTS, _decoder_data)
    yield _hugging("GPT2LMHeadModel", _SMALL | _GPT, _decoder_data)
    yield _hugging("LlamaForCausalLM", _SMALL | _KEYS, _decoder_data)
    yield _hugging("GptOssForCausalLM", _SMALL | _KEYS | _EXPERTS, _decoder_data)
    yield _hugging("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99, "decoder_start_token_id": 0}, words)  # fmt: skip
    yield _hugging("BartForSequenceClassification", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 99, "max_position_embeddings": 64, "num_labels": 5}, lambda seed: [{"input_ids": torch.cat([b["input_ids"], torch.full((len(b["input_ids"]), 1), 2)], 1)} for b in tokens(99, 12, seed)])  # fmt: skip
    yield _hugging(
        "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99}, words
    )


def _sights() -> Iterator[Family]:
    heads = "ForImageClassification"
    small = {
        k: v
        for k, v in _SMALL.items()
        if k not in ("vocab_size", "max_position_embeddings", "pad_token_id")
    }
    picture = {"image_size": 32, "patch_size": 8}
    for name, more in {
        "ViT": picture, "DeiT": picture, "Beit": picture, "Dinov2": picture, "Dinov2WithRegisters": picture, "Swin": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "Swinv2": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, "Bit": {"num_groups": 4, "embedding_size": 32, "hidden_sizes": [32, 32], "depths": [1, 1]},
        "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}, "ConvNext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "ConvNextV2": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, "MobileNetV1": {"depth_multiplier": 0.25}, "MobileNetV2": {"depth_multiplier": 0.35},
        "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}, "RegNet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8}, "Segformer": {"num_encoder_blocks": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "sr_ratios": [2, 1], "num_attention_heads": [1, 2], "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2]},
        "PoolFormer": {"num_encoder_blocks": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "patch_sizes": [3, 3], "strides": [2, 2], "padding": [1, 1]}, "Cvt": {}, "LevitForImageClassificationWithTeacher": None, "MobileViT": {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32]}, "Focalnet": None, "PvtV2": {"hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "image_size": 64}, "SwiftFormer": {"image_size": 64}, "EfficientFormer": None,
    }.items():  # fmt: skip
        if more is None:
            continue
        mine = (
            small | more
            if "hidden_sizes" not in more and "embed_dim" not in more
            else {"num_labels": 5} | more
        )
        if name == "EfficientNet":
            mine = {"num_labels": 5} | more
        yield _hugging(
            f"{name}{heads}",
            mine,
            partial(pictures, int(more.get("image_size", 64)), key="pixel_values"),
        )


def _voices() -> Iterator[Family]:
    small = _SMALL | _SPEECH
    for name in (
        "Wav2Vec2",
        "Hubert",
        "WavLM",
        "UniSpeech",
        "SEW",
        "Data2VecAudio",
        "Wav2Vec2Conformer",
    ):
        more = {
            "classifier_proj_size": 16,
            "conv_pos_kernel_size": 5,
            "squeeze_factor": 1,
            "feat_extract_norm": "layer",
        }
        yield _hugging(f"{name}ForSequenceClassification", small | more, partial(sound, 1600))
        if name in ("Wav2Vec2", "WavLM"):
            yield _hugging(f"{name}ForCTC", small | more, partial(sound, 1600))
    yield _hugging("ASTForAudioClassification", _SMALL | {"patch_size": 8, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}, lambda seed: [{"input_values": b["input_values"].transpose(1, 2)} for b in sound(32, seed, bands=16)])  # fmt: skip
    whisper = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_source_positions": 50, "num_mel_bins": 80, "num_labels": 5}  # fmt: skip
    yield _hugging(
        "WhisperForConditionalGeneration",
        whisper,
        partial(sound, 100, key="input_features", bands=80),
    )
    yield _hugging(
        "WhisperForAudioClassification",
        whisper,
        partial(sound, 100, key="input_features", bands=80),
    )
    yield _hugging("MoonshineForConditionalGeneration", {"hidden_size": 64, "intermediate_size": 128, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4}, partial(sound, 16000))  # fmt: skip
    yield _hugging("ParakeetForCTC", {"vocab_size": 99, "encoder_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_mel_bins": 16, "subsampling_conv_channels": 16}}, lambda seed: [{"input_features": b["input_values"].transpose(1, 2)} for b in sound(64, seed, bands=16)])  # fmt: skip


def families() -> list[Family]:
    """All of them."""
    found = [_timm(*one) for one in _TIMM]
    for name, size, more in _VISION:
        family = _vision(name, size, more)
        if not size:
            frames, side = (16, 224) if name.startswith("mvit") else (8, 32)
            family = Family(family.name, family.build, partial(_video, frames, side))
        found.append(family)
    return [*found, *_texts(), *_sights(), *_voices()]
