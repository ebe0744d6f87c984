"""Running the frozen towers with a task's experts beside their MLPs. The open_clip model itself is never modified.

Shapes: B images, N texts, n tokens, d width, D embedding width.
"""

from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone

Gates = dict[int, Tensor]
"""Block index -> routing probabilities of one forward pass."""


def adapted_block(
    block: Any, x: Tensor, adapter: BlockAdapter, attn_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One transformer block with experts parallel to its MLP: `y = MLP(h) + s * sum_k p_k B_k A_k h`.

    Returns:
        The block's output `[B, n, d]`, the gates, the MLP's input h, and what the experts added.
    """
    x = x + block.ls_1(block.attention(q_x=block.ln_1(x), attn_mask=attn_mask))
    hidden = block.ln_2(x)
    gates = adapter.gates(hidden)
    delta = adapter.delta(hidden, gates)
    return x + block.ls_2(block.mlp(hidden) + delta), gates, hidden, delta


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    adapters: dict[int, BlockAdapter],
    *,
    first: int = 0,
    attn_mask: Tensor | None = None,
    gates_out: Gates | None = None,
    hidden_out: dict[int, Tensor] | None = None,
) -> Tensor:
    """Run blocks `first`, `first + 1`, ... on `x`; those without an adapter are the frozen block itself.

    Args:
        gates_out: gets the gates of every adapted block.
        hidden_out: gets the input of its MLP, `[B, n, d]`, attached to the graph.
    """
    for index in range(first, len(blocks)):
        if index in adapters:
            x, gates, hidden, _ = adapted_block(blocks[index], x, adapters[index], attn_mask)
            if gates_out is not None:
                gates_out[index] = gates
            if hidden_out is not None:
                hidden_out[index] = hidden
        else:
            x = blocks[index](x, attn_mask=attn_mask)
    return x


def trunk_tokens(backbone: Backbone, images: Tensor, first_block: int) -> Tensor:
    """Input of vision block `first_block`, `[B, n, d]`, for normalised images `[B, 3, S, S]`: shared by all tasks."""
    x = backbone.visual._embeds(images)
    for index in range(first_block):
        x = backbone.visual.transformer.resblocks[index](x)
    return x


def encode_from_trunk(
    backbone: Backbone,
    tokens: Tensor,
    adapter: TaskAdapter | None,
    first_block: int,
    *,
    normalize: bool = False,
    gates_out: Gates | None = None,
    hidden_out: dict[int, Tensor] | None = None,
) -> Tensor:
    """Image embeddings `[B, D]` from the output of `trunk_tokens`."""
    visual = backbone.visual
    adapters = adapter.vision if adapter is not None else {}
    x = run_blocks(
        visual.transformer.resblocks, tokens, adapters, first=first_block, gates_out=gates_out, hidden_out=hidden_out
    )
    pooled, _ = visual._pool(x)
    features = pooled @ visual.proj if visual.proj is not None else pooled
    return F.normalize(features, dim=-1) if normalize else features


def encode_image(
    backbone: Backbone, images: Tensor, adapter: TaskAdapter | None = None, *, normalize: bool = False
) -> Tensor:
    """Image embeddings `[B, D]` of normalised images `[B, 3, S, S]`; without an adapter, open_clip's own to the bit."""
    if adapter is None or not adapter.vision:
        features: Tensor = backbone.clip.encode_image(images, normalize=normalize)
        return features
    tokens = trunk_tokens(backbone, images, 0)
    return encode_from_trunk(backbone, tokens, adapter, 0, normalize=normalize)


def encode_text(
    backbone: Backbone,
    tokens: Tensor,
    adapter: TaskAdapter | None = None,
    *,
    normalize: bool = False,
    gates_out: Gates | None = None,
    hidden_out: dict[int, Tensor] | None = None,
    crop: bool = False,
) -> Tensor:
    """Text embeddings `[N, D]` of token ids `[N, ctx]`; without an adapter, open_clip's own to the bit.

    Args:
        crop: drop the padding after the longest text. The tower is causal and reads its end token, so the result is
            the same up to round-off, at a fraction of the cost. Used in training.
    """
    if (adapter is None or not adapter.text) and not crop:
        features: Tensor = backbone.clip.encode_text(tokens, normalize=normalize)
        return features
    text = backbone.text
    pool_type = getattr(text, "text_pool_type", None) or text.pool_type
    if crop and pool_type in ("argmax", "eos"):
        # The end token has the highest id; id 0 is padding, but a text may hold it as well ("!" before a symbol).
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    length = tokens.shape[1]
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:length].to(dtype)
    adapters = adapter.text if adapter is not None else {}
    mask = text.attn_mask[:length, :length]
    x = run_blocks(text.transformer.resblocks, x, adapters, attn_mask=mask, gates_out=gates_out, hidden_out=hidden_out)
    x = text.ln_final(x)
    eos = getattr(text, "text_eos_id", None) if hasattr(text, "text_eos_id") else getattr(text, "eos_id", None)
    x = text_global_pool(x, tokens, pool_type, eos_token_id=eos)
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x, dim=-1) if normalize else x


def class_embeddings(
    backbone: Backbone, adapter: TaskAdapter | None, display_names: list[str], templates: list[str]
) -> Tensor:
    """One embedding a class, `[C, D]`: the normalised mean over templates of normalised text embeddings.

    Prompt ensembling as in CLIP (arXiv 2103.00020, section 3.1.4).
    """
    total: Tensor | None = None
    with torch.no_grad():
        for template in templates:
            tokens = backbone.tokenize([template.format(name) for name in display_names]).to(backbone.device)
            part = torch.cat([encode_text(backbone, chunk, adapter, normalize=True) for chunk in tokens.split(256)])
            total = part if total is None else total + part
    assert total is not None, "a task has at least one template"
    return F.normalize(total, dim=-1)


def normalize_images(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 `[B, H, W, 3]` -> normalised float `[B, 3, H, W]`."""
    x = images.permute(0, 3, 1, 2).float() / 255.0
    shape = (1, 3, 1, 1)
    return (x - torch.tensor(mean, device=x.device).view(shape)) / torch.tensor(std, device=x.device).view(shape)
