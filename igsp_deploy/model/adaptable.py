"""Which of open_clip's models can be adapted; the others are refused with the part that is in the way."""

from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import nn

from igsp_deploy.errors import UserError


def check_adaptable(clip: nn.Module, name: str) -> None:
    """Refuse a model whose towers are not plain pre-norm transformers, saying which part is in the way.

    Raises:
        UserError: names the tower and what was expected.
    """
    remedy = "Choose an open_clip ViT such as ViT-B-16, ViT-B-32 or ViT-L-14 (or nano)."
    if not isinstance(clip, (CLIP, CustomTextCLIP)):
        raise UserError(f"{name}: a {type(clip).__name__} cannot be adapted. {remedy}")
    visual = clip.visual
    if not isinstance(visual, VisionTransformer):
        raise UserError(f"{name}: its image tower is a {type(visual).__name__}, not a VisionTransformer. {remedy}")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise UserError(f"{name}: its image tower pools by attention, which is not supported. {remedy}")
    text = clip if isinstance(clip, CLIP) else clip.text
    if isinstance(text, TextTransformer):
        if text.cls_emb is not None or text.attn_mask is None or text.use_pad_mask:
            raise UserError(f"{name}: its text tower is not a plain causal transformer. {remedy}")
    elif isinstance(text, CLIP):
        if text.attn_mask is None or text.text_pool_type != "argmax":
            raise UserError(f"{name}: its text tower is not a plain causal transformer. {remedy}")
    else:
        raise UserError(f"{name}: its text tower is a {type(text).__name__}, not open_clip's own. {remedy}")
    for tower, transformer in (("image", visual.transformer), ("text", text.transformer)):
        for block in transformer.resblocks:
            if type(block) is not ResidualAttentionBlock:
                raise UserError(
                    f"{name}: its {tower} blocks are {type(block).__name__}s, which cannot be adapted. {remedy}"
                )
        if not transformer.batch_first:
            raise UserError(f"{name}: its {tower} tower is not batch first, which is not supported. {remedy}")
