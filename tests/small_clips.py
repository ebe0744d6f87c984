"""Small random CLIPs of every family that open_clip offers, in folders that `local-dir:` reads.

Each is made of the very modules that the family's large ones are made of, with few and narrow blocks.
"""

import json
import shutil
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.layers.norm import LayerNorm
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit, RepConditionalPosEnc
from timm.models.vision_transformer import VisionTransformer
from timm.models.vitamin import GeGluMlp
from torch import nn

SIDE = 32
DEPTH = 3


def _made(kind: Any, defaults: dict[str, Any], given: dict[str, Any]) -> Any:
    """A model of timm as its own factory leaves it."""
    without = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    model = kind(**(defaults | {key: value for key, value in given.items() if key not in without}))
    model.default_cfg = model.pretrained_cfg = {"pool_size": (1, 1)} if kind in (ConvNeXt, FastVit) else {}
    return model


_VIT: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": DEPTH, "num_heads": 2}


@register_model
def small_siglip(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return _made(VisionTransformer, _VIT | {"class_token": False, "global_pool": "map"}, kwargs)


@register_model
def small_vitamin(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    own = {"class_token": False, "global_pool": "avg", "mlp_layer": GeGluMlp, "init_values": 0.5, "fc_norm": False}
    return _made(VisionTransformer, _VIT | own, kwargs)


@register_model
def small_mci(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    return _made(VisionTransformer, _VIT | {"no_embed_class": True, "qk_norm": True}, kwargs)


@register_model
def small_pe(pretrained: bool = False, **kwargs: Any) -> Eva:
    own = {
        "attn_type": "rope",
        "use_pre_transformer_norm": True,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (4, 4),
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
        "attn_pool_num_heads": 2,
        "global_pool": "map",
        "init_values": 0.5,
        "norm_layer": partial(LayerNorm, eps=1e-5),
    }
    return _made(Eva, _VIT | own, kwargs)


@register_model
def small_eva02(pretrained: bool = False, **kwargs: Any) -> Eva:
    own = {
        "qkv_fused": False,
        "mlp_ratio": 8 / 3,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "scale_attn_inner": True,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (4, 4),
    }
    return _made(Eva, _VIT | own, kwargs)


@register_model
def small_eva02_e(pretrained: bool = False, **kwargs: Any) -> Eva:
    return _made(Eva, _VIT | {"use_post_norm": True}, kwargs)


@register_model
def small_convnext(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    return _made(ConvNeXt, {"depths": (1, 1, 1, 2), "dims": (8, 16, 24, 32), "ls_init_value": 0.5}, kwargs)


@register_model
def small_fastvit(pretrained: bool = False, **kwargs: Any) -> FastVit:
    own = {
        "layers": (1, 1, 1, 2),
        "embed_dims": (16, 16, 32, 32),
        "mlp_ratios": (2, 2, 2, 2),
        "se_downsamples": (False, False, True, True),
        "pos_embs": (None, None, None, partial(RepConditionalPosEnc, spatial_shape=(3, 3))),
        "token_mixers": ("repmixer", "repmixer", "repmixer", "attention"),
        "lkc_use_act": True,
        "layer_scale_init_value": 0.5,
    }
    return _made(FastVit, own, kwargs)


@register_model
def small_fastvit_mixing(pretrained: bool = False, **kwargs: Any) -> FastVit:
    own = {
        "layers": (1, 1, 1, 2),
        "embed_dims": (16, 16, 32, 32),
        "mlp_ratios": (2, 2, 2, 2),
        "token_mixers": ("repmixer",) * 4,
        "layer_scale_init_value": 0.5,
    }
    return _made(FastVit, own, kwargs)


def _timm(name: str, pool: str, proj: str | None, side: int = SIDE) -> dict[str, Any]:
    known = {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}
    return known | {"timm_model_pretrained": False}


_TEXT: dict[str, Any] = {"context_length": 24, "width": 32, "heads": 2, "layers": 2}
_OWN: dict[str, Any] = {"layers": DEPTH, "width": 32, "head_width": 16, "patch_size": 8, "image_size": SIDE}
_SIGLIP_TEXT = _TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}


def _config(vision: dict[str, Any], text: dict[str, Any] = _TEXT, width: int = 32, **more: Any) -> dict[str, Any]:
    return {"embed_dim": width, "vision_cfg": vision, "text_cfg": text, **more}


FAMILIES: dict[str, dict[str, Any]] = {
    "openclip": _config(_OWN),
    "metaclip2": _config(_OWN, _TEXT | {"pool_type": "eos", "eos_id": 49407}),
    "clipa": _config(
        _OWN | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        _TEXT | {"pool_type": "last", "no_causal_mask": True},
    ),
    "siglip": _config(_timm("small_siglip", "map", "none"), _SIGLIP_TEXT, custom_text=True, init_logit_bias=-10.0),
    "vitamin": _config(_timm("small_vitamin", "", "linear"), custom_text=True),
    "mobileclip-b": _config(_timm("small_mci", "token", None), custom_text=True),
    "pe": _config(_timm("small_pe", "map", None), custom_text=True),
    "eva02": _config(_timm("small_eva02", "token", None), custom_text=True),
    "eva02-e": _config(_timm("small_eva02_e", "token", None), custom_text=True),
    "convnext": _config(_timm("small_convnext", "", "mlp", 64)),
    "mobileclip-s": _config(
        _timm("small_fastvit", "avg", None, 64), _TEXT | {"no_causal_mask": True}, custom_text=True
    ),
    "mobileclip-s-mixing": _config(_timm("small_fastvit_mixing", "avg", None, 64), custom_text=True),
    "coca": _config(
        _OWN | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5, "output_tokens": True},
        _TEXT | {"embed_cls": True, "output_tokens": True},
        multimodal_cfg={"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        custom_text=True,
    ),
    "resnet": _config({"layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "image_size": 64}),
}
"""Family -> configuration, as open_clip's files have it."""


_SMALL_TEXT: dict[str, Any] = {"vocab_size": 500, "max_position_embeddings": 40, "pad_token_id": 1}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
HUGGING_FACE: dict[str, tuple[dict[str, Any], str]] = {
    "roberta": (_SMALL_TEXT | _ENCODER | {"model_type": "roberta", "type_vocab_size": 1}, "mean_pooler"),
    "xlm-roberta": (_SMALL_TEXT | _ENCODER | {"model_type": "xlm-roberta", "type_vocab_size": 1}, "mean_pooler"),
    "mt5": (
        {"model_type": "mt5", "vocab_size": 500, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2}
        | {"num_heads": 2, "pad_token_id": 1, "decoder_start_token_id": 1},
        "mean_pooler",
    ),
    "nllb": (
        _SMALL_TEXT
        | {"model_type": "m2m_100", "d_model": 32, "encoder_layers": 2, "decoder_layers": 1}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        "cls_pooler",
    ),
}
"""Kind of text encoder -> its configuration and the pooling that open_clip's model of it has."""
ALL = [*FAMILIES, *HUGGING_FACE]


def configuration(family: str, folder: Path) -> dict[str, Any]:
    """Of a family, as open_clip's files have it; files of one of Hugging Face's text encoders go to `folder`."""
    if family in FAMILIES:
        return FAMILIES[family]
    from tests.tokenizers_at_hand import byte_level

    encoder, pooler = HUGGING_FACE[family]
    byte_level(folder)
    (folder / "config.json").write_text(json.dumps(encoder))
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_pooler_type": pooler}
    return _config(_OWN, text | {"context_length": 16, "hf_proj_type": "mlp"}, custom_text=True)


def write_clip(config: dict[str, Any], folder: Path) -> str:
    """Write a model with seeded random weights; what `--backbone` takes for it.

    Weights that start at zero or one get other values, so that nothing is passed by unseen.
    """
    folder.mkdir(parents=True)
    if "hf_tokenizer_name" in config["text_cfg"]:
        for file in Path(config["text_cfg"]["hf_tokenizer_name"]).glob("*token*"):
            shutil.copyfile(file, folder / file.name)
    side = config["vision_cfg"]["image_size"]
    half = {"size": side, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": half}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        _stir(clip)
        weights = {key: value.contiguous() for key, value in clip.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def _stir(clip: nn.Module) -> None:
    """Give each weight values of its name, shape and first values alone: equal towers of two families are equal."""
    for name, value in [*clip.named_parameters(), *clip.named_buffers()]:
        own = torch.Generator().manual_seed(zlib.crc32(name.removeprefix("text.").encode()))
        with torch.no_grad():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=own)
            elif name.startswith("text_decoder"):  # nobody uses it
                value.fill_(torch.nan)
            elif value.is_floating_point() and "logit" not in name and "attn_mask" not in name and "rope" not in name:
                random = torch.randn(value.shape, generator=own)
                if value.ndim and value.min() == value.max():  # ones or zeros
                    value.add_(0.05 * random)
                else:
                    value.copy_(random * value[:1].numel() ** -0.5 if value.ndim > 1 else random * 0.2)
