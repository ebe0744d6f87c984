"""Running the frozen towers with a task's experts beside their MLPs. The open_clip model itself is never modified.

`lean=True` (learning) computes the same with less work, equal up to float round-off; see igsp_deploy/model/lean.py.

Shapes: B images, N texts, n tokens, d width, D embedding width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.adapter import BlockAdapter, TaskAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.lean import lean_attention, lean_mlp, pick

Gates = dict[int, Tensor]
"""Block index -> routing probabilities of one forward pass."""


def adapted_block(
    block: Any,
    x: Tensor,
    adapter: BlockAdapter,
    attn_mask: Tensor | None = None,
    *,
    lean: bool = False,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One transformer block with experts parallel to its MLP: `y = MLP(h) + s * sum_k p_k B_k A_k h`.

    Args:
        block: open_clip's block.
        x: its input `[B, n, d]`.
        adapter: the experts.
        attn_mask: float `[n, n]`.
        lean: less work.
        rows: int64 `[B]`, the one token of each sample to compute (lean only); n is 1 then in what is returned.

    Returns:
        The block's output `[B, n, d]`, the gates, the MLP's input h, and what the experts added.
    """
    x = _attended(block, x, attn_mask, lean, rows)
    hidden = block.ln_2(x)
    gates = adapter.gates(hidden)
    delta = adapter.delta(hidden, gates)
    mlp = lean_mlp(block.mlp, hidden) if lean else block.mlp(hidden)
    return x + block.ls_2(mlp + delta), gates, hidden, delta


def _attended(block: Any, x: Tensor, attn_mask: Tensor | None, lean: bool, rows: Tensor | None) -> Tensor:
    """The first half of a block: `x + attention(LN(x))`."""
    normed = block.ln_1(x)
    if not lean:
        return x + block.ls_1(block.attention(q_x=normed, attn_mask=attn_mask))
    kept = x if rows is None else pick(x, rows)
    return kept + block.ls_1(lean_attention(block.attn, normed, attn_mask, rows))


def _plain_block(block: Any, x: Tensor, attn_mask: Tensor | None, lean: bool, rows: Tensor | None) -> Tensor:
    """A block without experts; open_clip's own unless `lean`."""
    if not lean:
        output: Tensor = block(x, attn_mask=attn_mask)
        return output
    x = _attended(block, x, attn_mask, lean, rows)
    return x + block.ls_2(lean_mlp(block.mlp, block.ln_2(x)))


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    adapters: dict[int, BlockAdapter],
    *,
    first: int = 0,
    attn_mask: Tensor | None = None,
    gates_out: Gates | None = None,
    lean: bool = False,
    last_rows: Tensor | None = None,
    hidden_out: dict[int, Tensor] | None = None,
) -> Tensor:
    """Run blocks `first`, `first + 1`, ... on `x`; those without an adapter are the frozen block itself.

    Args:
        blocks: of one tower.
        x: input of block `first`, `[B, n, d]`.
        adapters: block index -> experts.
        first: index of the first block to run.
        attn_mask: float `[n, n]`.
        gates_out: gets the gates of every adapted block.
        lean: less work.
        last_rows: int64 `[B]`, the one token of each sample that the last block has to give (lean only).
        hidden_out: gets the input of its MLP, `[B, n, d]`, attached to the graph; n is 1 where `last_rows` applies.

    Returns:
        `[B, n, d]`, or `[B, 1, d]` with `last_rows`.
    """
    for index in range(first, len(blocks)):
        rows = last_rows if index == len(blocks) - 1 else None
        if index in adapters:
            x, gates, hidden, _ = adapted_block(blocks[index], x, adapters[index], attn_mask, lean=lean, rows=rows)
            if gates_out is not None:
                gates_out[index] = gates
            if hidden_out is not None:
                hidden_out[index] = hidden
        else:
            x = _plain_block(blocks[index], x, attn_mask, lean, rows)
    return x


def trunk_tokens(backbone: Backbone, images: Tensor, first_block: int, *, lean: bool = False) -> Tensor:
    """Input of vision block `first_block`, `[B, n, d]`, for normalised images `[B, 3, S, S]`: shared by all tasks."""
    x = backbone.visual._embeds(images)
    for index in range(first_block):
        x = _plain_block(backbone.visual.transformer.resblocks[index], x, None, lean, None)
    return x


def encode_from_trunk(
    backbone: Backbone,
    tokens: Tensor,
    adapter: TaskAdapter | None,
    first_block: int,
    *,
    normalize: bool = False,
    gates_out: Gates | None = None,
    lean: bool = False,
    hidden_out: dict[int, Tensor] | None = None,
) -> Tensor:
    """Image embeddings `[B, D]` from the output of `trunk_tokens`."""
    visual = backbone.visual
    adapters = adapter.vision if adapter is not None else {}
    blocks = visual.transformer.resblocks
    rows = None
    if lean and first_block < len(blocks) and _only_the_class_token_counts(visual, adapters.get(len(blocks) - 1)):
        rows = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    x = run_blocks(
        blocks,
        tokens,
        adapters,
        first=first_block,
        gates_out=gates_out,
        lean=lean,
        last_rows=rows,
        hidden_out=hidden_out,
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


def _only_the_class_token_counts(visual: Any, last: BlockAdapter | None) -> bool:
    """Whether the other tokens of the last block's output are dropped: neither pooled nor read by a router."""
    return visual.pool_type == "tok" and (last is None or last.router_input != "mean_token")


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
        backbone: the frozen CLIP.
        tokens: token ids.
        adapter: the task's experts.
        normalize: divide every embedding by its length.
        gates_out: gets the gates of every adapted block.
        hidden_out: gets the input of every adapted MLP.
        crop: drop the padding after the longest text. The tower is causal and reads its end token, so the result is
            the same up to round-off, at a fraction of the cost.
    """
    if (adapter is None or not adapter.text) and not crop:
        features: Tensor = backbone.clip.encode_text(tokens, normalize=normalize)
        return features
    trunk = text_trunk(backbone, tokens, 0, crop=crop)
    return encode_from_text_trunk(
        backbone, trunk, adapter, normalize=normalize, gates_out=gates_out, hidden_out=hidden_out
    )


@dataclass(frozen=True, kw_only=True)
class TextTrunk:
    """Texts as they come out of the frozen text blocks below the first adapted one.

    Attributes:
        ids: token ids `[N, n]`, cropped or not.
        hidden: input of block `first_block`, `[N, n, d]`.
        first_block: the block to go on with.
    """

    ids: Tensor
    hidden: Tensor
    first_block: int


def text_trunk(
    backbone: Backbone, tokens: Tensor, first_block: int, *, crop: bool = False, lean: bool = False
) -> TextTrunk:
    """Run the text tower on token ids `[N, ctx]` up to block `first_block`; `crop` as in `encode_text`."""
    text = backbone.text
    if crop and _text_pool_type(text) in ("argmax", "eos"):
        # The end token has the highest id; id 0 is padding, but a text may hold it as well ("!" before a symbol).
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    length = tokens.shape[1]
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:length].to(dtype)
    mask = text.attn_mask[:length, :length]
    for index in range(first_block):
        x = _plain_block(text.transformer.resblocks[index], x, mask, lean, None)
    return TextTrunk(ids=tokens, hidden=x, first_block=first_block)


def encode_from_text_trunk(
    backbone: Backbone,
    trunk: TextTrunk,
    adapter: TaskAdapter | None,
    *,
    normalize: bool = False,
    gates_out: Gates | None = None,
    lean: bool = False,
    hidden_out: dict[int, Tensor] | None = None,
) -> Tensor:
    """Text embeddings `[N, D]` from the output of `text_trunk`."""
    text = backbone.text
    length = trunk.ids.shape[1]
    blocks = text.transformer.resblocks
    pool_type = _text_pool_type(text)
    adapters = adapter.text if adapter is not None else {}
    rows = None
    if lean and trunk.first_block < len(blocks) and pool_type == "argmax":
        rows = trunk.ids.argmax(dim=1)
    x = run_blocks(
        blocks,
        trunk.hidden,
        adapters,
        first=trunk.first_block,
        attn_mask=text.attn_mask[:length, :length],
        gates_out=gates_out,
        lean=lean,
        last_rows=rows,
        hidden_out=hidden_out,
    )
    x = text.ln_final(x)
    if rows is not None:
        x = x[:, 0]
    else:
        eos = getattr(text, "text_eos_id", None) if hasattr(text, "text_eos_id") else getattr(text, "eos_id", None)
        x = text_global_pool(x, trunk.ids, pool_type, eos_token_id=eos)
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return F.normalize(x, dim=-1) if normalize else x


def _text_pool_type(text: Any) -> str:
    kind: str = getattr(text, "text_pool_type", None) or text.pool_type
    return kind


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
