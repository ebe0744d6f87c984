"""The families of towers that open_clip offers, each with its blocks opened where experts can stand.

`text_ends` and `image_ends` look at a model; what is of no known family is taken whole, with experts on its embedding.
"""

from typing import Any

from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from igsp_deploy.errors import UserError
from igsp_deploy.model.towers.block import ImageEnds, TextEnds
from igsp_deploy.model.towers.conv import last_stage
from igsp_deploy.model.towers.opaque import OpaqueImage, OpaqueText
from igsp_deploy.model.towers.openclip import OpenClipImage, OpenClipText, readable
from igsp_deploy.model.towers.vit import timm_vit


def text_ends(clip: nn.Module) -> TextEnds:
    """What stands around the blocks of a model's text tower."""
    text: Any = clip if isinstance(clip, CLIP) else clip.text
    own = isinstance(text, (CLIP, TextTransformer))
    return OpenClipText(text) if own and readable(text.transformer) else OpaqueText(text)


def image_ends(clip: nn.Module, embed_dim: int) -> ImageEnds:
    """What stands around the blocks of a model's image tower, whose embeddings are `embed_dim` wide."""
    visual: Any = clip.visual
    found: ImageEnds | None = None
    if isinstance(visual, TimmModel):
        found = timm_vit(visual) or last_stage(visual)
    elif isinstance(visual, VisionTransformer) and readable(visual.transformer):
        found = OpenClipImage(visual)
    return found or OpaqueImage(visual, embed_dim)


def towers(clip: nn.Module, name: str) -> tuple[ImageEnds, TextEnds]:
    """Both towers of a model of open_clip.

    Raises:
        UserError: it has no image and text tower, or its images are not square.
    """
    if not isinstance(getattr(clip, "visual", None), nn.Module) or not hasattr(clip, "encode_text"):
        raise UserError(f"{name}: a {type(clip).__name__} has no two towers. `igsp backbones` lists models that do.")
    text = text_ends(clip)
    image = image_ends(clip, text.embed_dim)
    height, width = image.shape
    if height != width:
        raise UserError(f"{name} wants images of {height} x {width}; only square inputs are supported.")
    return image, text
