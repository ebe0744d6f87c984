"""open_clip's own towers: pre-norm transformers over patches and over tokens of text.

Blocks run in fewer operations than open_clip's where weights are frozen: the way back through a frozen layer needs no
input, quick GELU keeps one tensor of the MLP's width instead of four, attention copies none of its inputs, and the last
block is computed only at the token that is pooled.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from open_clip.model import CLIP
from open_clip.transformer import (
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
    text_global_pool,
)
from torch import Tensor, nn

from igsp_deploy.errors import UserError
from igsp_deploy.model.experts import BesideMlp
from igsp_deploy.model.kernels import pick, quick_gelu_mlp, self_attention
from igsp_deploy.model.towers.block import Block, ImageEnds, MlpParts, TextEnds


class OpenClipBlock(Block):
    """`x + attention(ln_1(x))`, then `x + mlp(ln_2(x))`; its context is a mask added to the attention's logits.

    A mask is float `[n, n]`, or `[B heads, n, n]` where it differs from text to text.
    """

    def plain(self, x: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.inner(x, attn_mask=context))

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept = x if rows is None else pick(x, rows)
        attention, normed = self.inner.attn, self.inner.ln_1(x)
        weights = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias)
        mask, heads = context, attention.num_heads
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, heads))
        residual = kept + self.inner.ls_1(self_attention(normed, *weights, heads, mask, rows))
        return residual, self.inner.ln_2(residual)

    def own_mlp(self, hidden: Tensor) -> Tensor:
        mlp: Any = self.inner.mlp
        if isinstance(mlp.gelu, QuickGELU) and not torch.compiler.is_exporting():
            up, down = mlp.c_fc, mlp.c_proj
            return quick_gelu_mlp(hidden, up.weight, up.bias, down.weight, down.bias)
        return cast(Tensor, mlp(hidden))

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, residual + self.inner.ls_2(y))

    def parts(self) -> MlpParts:
        mlp = self.inner.mlp
        return MlpParts(expand=mlp.c_fc, activation=mlp.gelu, contract=mlp.c_proj)


def readable(transformer: Any) -> bool:
    """Whether all blocks are of the kind that `OpenClipBlock` opens."""
    return transformer.batch_first and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)


class OpenClipImage(ImageEnds):
    """open_clip's vision transformer."""

    kind = OpenClipBlock
    prefix = 1

    def __init__(self, visual: VisionTransformer) -> None:
        """Look at it; convolutions of the patch embedding run faster with the channels innermost (0.75 of the time)."""
        super().__init__()
        self.visual: Any = visual
        self.visual.conv1.to(memory_format=torch.channels_last)

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], self.visual.transformer.resblocks)

    @property
    def width(self) -> int:
        return int(self.visual.class_embedding.shape[0])

    def embed(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.visual._embeds(inputs.to(self.visual.class_embedding.dtype)))

    def rows(self, inputs: Tensor, last: BesideMlp | None) -> Tensor | None:
        alone = self.visual.attn_pool is None and self.visual.pool_type == "tok"
        if not alone or (last is not None and last.router_input == "mean_token"):
            return None
        return torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        pooled, _ = self.visual._pool(x)
        features: Tensor = pooled @ self.visual.proj if self.visual.proj is not None else pooled
        return features

    def top(self) -> list[nn.Parameter]:
        pools = [pool for pool in (self.visual.attn_pool,) if pool is not None]
        found = [p for part in (*pools, self.visual.ln_post) for p in part.parameters()]
        return [*found, *([] if self.visual.proj is None else [self.visual.proj])]


def projected_width(text: Any) -> int:
    """Width of the embeddings of open_clip's text transformer."""
    projection = text.text_projection
    if projection is None:
        return int(text.token_embedding.weight.shape[1])
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])


class OpenClipText(TextEnds):
    """open_clip's text transformer, which its class `CLIP` has within itself."""

    kind = OpenClipBlock

    def __init__(self, text: CLIP | TextTransformer) -> None:
        """Look at it.

        Raises:
            UserError: it pools at an end token without naming it.
        """
        super().__init__()
        self.text: Any = text
        own = isinstance(text, CLIP)
        self.pool_type: str = self.text.text_pool_type if own else self.text.pool_type
        self.eos_id: int | None = getattr(text, "text_eos_id" if own else "eos_id", None)
        # CoCa's: behind the text, and what is pooled whatever `pool_type` says.
        self.class_token = not own and self.text.cls_emb is not None
        self.masked = self.class_token or (not own and self.text.use_pad_mask)
        if self.pool_type == "eos" and self.eos_id is None:
            raise UserError("the text tower pools at its end token but does not say which that is.")

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], self.text.transformer.resblocks)

    @property
    def width(self) -> int:
        return int(self.text.token_embedding.weight.shape[1])

    @property
    def embed_dim(self) -> int:
        return projected_width(self.text)

    def embed(self, inputs: Tensor) -> Tensor:
        if self.class_token:
            return cast(Tensor, self.text._embeds(inputs)[0])
        dtype = self.text.transformer.get_cast_dtype()
        positions = self.text.positional_embedding[: inputs.shape[1]].to(dtype)
        return cast(Tensor, self.text.token_embedding(inputs).to(dtype) + positions)

    def context(self, x: Tensor, inputs: Tensor) -> Tensor | None:
        if self.masked:
            return cast(Tensor, self.text._embeds(inputs)[1])
        if self.text.attn_mask is None:
            return None
        return cast(Tensor, self.text.attn_mask[: x.shape[1], : x.shape[1]])

    def end_id(self, highest: int | None) -> int | None:
        if self.masked or self.text.attn_mask is None:
            return None
        return {"argmax": highest, "eos": self.eos_id}.get(self.pool_type)

    def length(self, ids: Tensor) -> int:
        if self.masked or self.text.attn_mask is None:
            return ids.shape[1]
        ends = self.rows(ids, None)
        return ids.shape[1] if ends is None else int(ends.max()) + 1

    def rows(self, inputs: Tensor, last: BesideMlp | None) -> Tensor | None:
        """The end token of each text: it has the highest id, or one that the tower names."""
        if self.masked or self.pool_type not in ("argmax", "eos"):
            return None
        # As floats, exact below 2^24: onnxruntime's ArgMax for whole numbers runs on the CPU alone.
        ends = inputs if self.pool_type == "argmax" or self.eos_id is None else inputs.eq(self.eos_id)
        return ends.float().argmax(dim=1)

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        x = self.text.ln_final(x[:, -1:] if self.class_token else x)
        rows = None if picked else self.rows(inputs, None)
        if rows is not None:
            x = x.gather(1, rows[:, None, None].expand(-1, 1, x.shape[2]))
        alone = picked or rows is not None or self.class_token
        x = x.squeeze(1) if alone else text_global_pool(x, inputs, self.pool_type, eos_token_id=self.eos_id)
        projection = self.text.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return x

    def top(self) -> list[nn.Parameter]:
        projection = self.text.text_projection
        found = list(self.text.ln_final.parameters())
        if isinstance(projection, nn.Linear):
            return [*found, *projection.parameters()]
        return [*found, *([] if projection is None else [projection])]
