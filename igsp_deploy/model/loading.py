"""From the name of a CLIP and of its weights to a frozen backbone that runs as those weights were trained.

A name is `nano`, `debug`, one of open_clip's architectures, `hf-hub:ORG/NAME`, `local-dir:PATH`, or a short one of
ours or of an installed package. Whether a model can be learned with is looked at before anything large is downloaded,
on torch's meta device.
"""

import dataclasses
import difflib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import _get_hf_config
from torch import Tensor, nn

from igsp_deploy.config import ModelConfig
from igsp_deploy.entry import described
from igsp_deploy.errors import UserError
from igsp_deploy.files import absolute
from igsp_deploy.installed import install_command
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.checkpoint import put_weights, read_weights
from igsp_deploy.model.named import GROUP, named, short_names
from igsp_deploy.model.tokenizing import describe
from igsp_deploy.model.towers import towers

NANO = "nano"
DEBUG = "debug"
RANDOM = "random"
"""In place of a pretrained tag: seeded random weights."""
HUB, LOCAL = "hf-hub:", "local-dir:"
"""What names begin with that bring configuration, weights and tokenizer together."""
_WAYS = ("mean", "std", "interpolation", "resize_mode")
"""What a tag says about images."""

logger = logging.getLogger("igsp_deploy.backbone")
logger.setLevel(logging.WARNING)


def load_backbone(
    name: str, pretrained: str | None = None, preprocess: str | None = None, *, quick_gelu: bool | None = None
) -> Backbone:
    """Load the frozen CLIP.

    Args:
        name: `nano` for the embedded backbone, `debug` for a tiny random one, an open_clip model name (`ViT-B-16`,
            `ViT-B-16-quickgelu`), `hf-hub:ORG/NAME` or `local-dir:PATH` for a model in open_clip's form, or a short
            name that `igsp backbones` lists.
        pretrained: open_clip tag (`openai`, downloaded) or the path of a local checkpoint (safetensors, a PyTorch file
            loaded with `weights_only`, or OpenAI's archive), or `random` for seeded random weights, useful only to
            measure speed. Must be None for names that bring their weights.
        preprocess: of a local checkpoint: the open_clip tag, `TAG` or `NAME:TAG`, with whose images and activation it
            was trained; by default what all tags of `name` have in common.
        quick_gelu: whether QuickGELU takes the place of the architecture's own activation; by default as the weights
            were trained.

    Raises:
        UserError: unknown name or tag, missing or wrong file, or a model that cannot be adapted.
    """
    if name in (NANO, DEBUG):
        _refuse_weights(name, pretrained, preprocess)
        clip = _own(name)
        return Backbone(clip, name, None, open_clip.SimpleTokenizer(context_length=clip.context_length))
    short = named(name)
    if short is not None and short.build is not None:
        _refuse_weights(name, pretrained, preprocess)
        return _built(name, short.build)
    if short is not None and short.architecture is not None:
        name, pretrained = short.architecture, pretrained or short.pretrained
    bundled = name.startswith((HUB, LOCAL))
    if bundled:
        _refuse_weights(name, pretrained, preprocess)
    else:
        _check_name(name, pretrained, preprocess)
    way = {} if bundled else _way(name, pretrained, preprocess, known=quick_gelu is not None)
    force = bool(way.pop("quick_gelu", False)) if quick_gelu is None else quick_gelu
    with _configured(name) as place:
        towers(on_meta(place, name, force), name)
    tokenizer = _tokenizer(name)
    clip = _weighted(name, pretrained, force)
    if way:
        clip.visual.preprocess_cfg = {**clip.visual.preprocess_cfg, **way}
    return Backbone(clip, name, pretrained, tokenizer, quick_gelu=force)


def settled(config: ModelConfig) -> ModelConfig:
    """The same settings with whole names, and with paths that mean the same from any folder."""
    backbone, pretrained = config.backbone, config.pretrained
    short = named(backbone)
    if short is not None and short.architecture is not None:
        backbone, pretrained = short.architecture, pretrained or short.pretrained
    if backbone.startswith(LOCAL):
        backbone = f"{LOCAL}{absolute(backbone.removeprefix(LOCAL))}"
    if pretrained and absolute(pretrained).is_file():
        pretrained = str(absolute(pretrained))
    return dataclasses.replace(config, backbone=backbone, pretrained=pretrained)


def _refuse_weights(name: str, pretrained: str | None, preprocess: str | None) -> None:
    for key, value in (("pretrained", pretrained), ("preprocess", preprocess)):
        if value:
            raise UserError(f"{name} brings its own weights; leave `{key}` empty (got {value!r}).")


def _own(name: str) -> Any:
    if name == NANO:
        from igsp_deploy.backbones.nano import build_nano

        return build_nano()
    from igsp_deploy.backbones.debug import build_debug

    return build_debug()


def _built(name: str, build: Callable[[], tuple[Any, Any]]) -> Backbone:
    """A backbone that an installed package makes.

    Raises:
        UserError: it fails, or what it gives cannot be adapted.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip, tokenizer = build()
    except Exception as error:  # whatever a package of others raises
        raise UserError(f"{described(GROUP, name, 'backbone')} cannot be made: {_line(error)}.") from error
    describe(tokenizer)  # what could not be exported is not learned
    return Backbone(clip, name, None, tokenizer)


def _check_name(name: str, pretrained: str | None, preprocess: str | None) -> None:
    """Refuse what open_clip does not know.

    Raises:
        UserError: says what is nearest.
    """
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, [NANO, *short_names(), *open_clip.list_models()], n=3, cutoff=0.3)
        raise UserError(
            f"there is no backbone {name!r}. Nearest: {', '.join(near) or 'none'}. `igsp backbones` lists them; a "
            f"model of the hub is {HUB}ORG/NAME, one in a folder {LOCAL}PATH. If a package brought it, install that."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise UserError(
            f"{name} needs weights: set model.pretrained to a tag ({', '.join(tags) or 'none known'}) or to the path "
            f"of a local checkpoint; {RANDOM!r} gives random ones, useful only to measure speed."
        )
    if pretrained != RANDOM and pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(
            f"{name} has no pretrained weights {pretrained!r}, and no such file exists. "
            f"Tags: {', '.join(tags) or 'none'}."
        )
    if preprocess is not None and (pretrained == RANDOM or pretrained in tags):
        raise UserError(
            f"model.preprocess is for local checkpoints; {pretrained!r} says itself how it was trained. Leave it out."
        )


def _way(name: str, pretrained: str | None, preprocess: str | None, *, known: bool) -> dict[str, Any]:
    """What weights were trained with: `mean`, `std`, `interpolation`, `resize_mode`, `quick_gelu`, as far as tags say.

    A local checkpoint of an architecture whose tags differ is said, unless the caller has `known` it before.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        return _way_of(name, str(pretrained))
    if preprocess is not None:
        other, _, tag = preprocess.rpartition(":")
        other = other or name
        if tag not in open_clip.list_pretrained_tags_by_model(other):
            others = ", ".join(open_clip.list_pretrained_tags_by_model(other)) or "none"
            raise UserError(f"model.preprocess={preprocess!r}: {other} has no tag {tag!r}. Tags: {others}.")
        return _way_of(other, tag)
    ways = [_way_of(name, tag) for tag in tags]
    common = {key: ways[0][key] for key in ways[0] if all(way[key] == ways[0][key] for way in ways)} if ways else {}
    unknown = [key for key in (ways[0] if ways else {}) if key not in common]
    if unknown and not known and pretrained != RANDOM:
        logger.warning(
            "%s: nothing says how the weights of %s were trained, and the tags of %s differ in %s. Images are prepared "
            "as OpenAI's CLIP does it, and the activation is the one of the name. If they were trained otherwise, set "
            "model.preprocess to the tag they come from (%s).",
            pretrained,
            name,
            name,
            ", ".join(unknown),
            ", ".join(tags),
        )
    return common


def _way_of(name: str, tag: str) -> dict[str, Any]:
    cfg = open_clip.get_pretrained_cfg(name, tag)
    defaults = asdict(open_clip.transform.PreprocessCfg())
    return {key: cfg.get(key) or defaults[key] for key in _WAYS} | {"quick_gelu": bool(cfg.get("quick_gelu"))}


@contextmanager
def _configured(name: str) -> Iterator[str]:
    """A name with which open_clip builds the architecture without the weights: of the hub only the configuration."""
    if not name.startswith(HUB):
        yield name
        return
    try:
        config = _get_hf_config(name.removeprefix(HUB))
    except Exception as error:
        raise UserError(
            f"cannot fetch the configuration of {name}: {_line(error)}. Check the name and the network; the repository "
            "must have an open_clip_config.json."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "open_clip_config.json").write_text(json.dumps(config))
        yield f"{LOCAL}{folder}"


def on_meta(place: str, name: str, quick_gelu: bool = False) -> nn.Module:
    """An architecture of open_clip without numbers: 0.3 s.

    Args:
        place: what open_clip knows it by.
        name: what people know it by.
        quick_gelu: see `load_backbone`.

    Raises:
        UserError: it cannot be built.
    """
    # open_clip says on the root logger that such a model has no weights.
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return open_clip.create_model(
                place, device="meta", load_weights=False, force_quick_gelu=quick_gelu, pretrained_text=False
            )
    except Exception as error:
        raise UserError(f"cannot build {name}: {_line(error)}") from error


def _tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    try:
        tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(name)
    except ImportError as error:
        raise UserError(
            f"{name} has one of Hugging Face's tokenizers, and {error.name or 'transformers'} is not installed: "
            f"{install_command('transformers')} (for learning and export; serving does without)."
        ) from error
    except Exception as error:
        raise UserError(f"cannot load the tokenizer of {name}: {_line(error)}. Check the network.") from error
    describe(tokenizer)  # what could not be exported is not learned
    return tokenizer


def _weighted(name: str, pretrained: str | None, quick_gelu: bool) -> Any:
    """The model with its weights.

    Raises:
        UserError: they cannot be fetched, read, or are of another model.
    """
    file = None
    if pretrained not in (None, RANDOM, *open_clip.list_pretrained_tags_by_model(name)):
        file = Path(str(pretrained))
    weights = read_weights(file) if file else None
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            clip = open_clip.create_model(
                name,
                pretrained=None if file or pretrained == RANDOM else pretrained,
                force_quick_gelu=quick_gelu,
                require_pretrained=not file and pretrained != RANDOM,
                pretrained_text=False,
            )
    except Exception as error:
        where = f"with weights {pretrained!r}" if pretrained else "with its weights"
        raise UserError(
            f"cannot load {name} {where}: {_line(error)}. If they have to be downloaded, check the network, or give "
            "the path of a local checkpoint."
        ) from error
    if file and weights is not None:
        put_weights(clip, weights, name, file)
    if hasattr(clip, "text_decoder"):
        del clip.text_decoder  # CoCa's, which writes captions
    broken = [key for key, value in clip.named_parameters() if not value.isfinite().all()]
    if broken:
        raise UserError(f"the weights of {name} are damaged: {broken[0]} has numbers that are not finite.")
    return clip


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 300 else f"{text[:300]}...").rstrip(".")
