"""From the name of a CLIP and of its weights to a frozen backbone."""

import difflib
import logging
from pathlib import Path

import open_clip
import torch

from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone

NANO = "nano"
DEBUG = "debug"
RANDOM = "random"
"""In place of a pretrained tag: seeded random weights."""


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load the frozen CLIP.

    Args:
        name: `nano` for the embedded backbone, `debug` for a tiny random one, else an open_clip model name
            (`ViT-B-16`, `ViT-B-16-quickgelu`).
        pretrained: open_clip tag (`openai`, downloaded) or the path of a local checkpoint (safetensors, or a
            PyTorch file loaded with `weights_only`), or `random` for seeded random weights, useful only to measure
            speed. Must be None for `nano` and `debug`.

    Raises:
        UserError: unknown name or tag, missing file, or a model that cannot be adapted.
    """
    if name == NANO:
        from igsp_deploy.backbones.nano import build_nano

        if pretrained:
            raise UserError(f"nano brings its own weights; leave `pretrained` empty (got {pretrained!r}).")
        nano = build_nano()
        return Backbone(nano, NANO, None, open_clip.SimpleTokenizer(context_length=nano.context_length))
    if name == DEBUG:
        from igsp_deploy.backbones.debug import build_debug

        debug = build_debug()
        return Backbone(debug, DEBUG, None, open_clip.SimpleTokenizer(context_length=debug.context_length))
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, [NANO, *open_clip.list_models()], n=3, cutoff=0.3)
        raise UserError(
            f"there is no backbone {name!r}. Nearest: {', '.join(near) or 'none'}. See open_clip.list_models()."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise UserError(
            f"{name} needs weights: set model.pretrained to a tag ({', '.join(tags) or 'none known'}) or to the path "
            f"of a local checkpoint; {RANDOM!r} gives random ones, useful only to measure speed."
        )
    if pretrained != RANDOM and not Path(pretrained).is_file() and pretrained not in tags:
        raise UserError(
            f"{name} has no pretrained weights {pretrained!r}, and no such file exists. "
            f"Tags: {', '.join(tags) or 'none'}."
        )
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip = open_clip.create_model(name, pretrained=None if pretrained == RANDOM else pretrained)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot load {name} with weights {pretrained!r}: {error}. If they have to be downloaded, check the "
            "network, or give the path of a local checkpoint."
        ) from error
    return Backbone(clip, name, pretrained, open_clip.get_tokenizer(name))
