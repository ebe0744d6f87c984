"""timm's vision transformers (SigLIP, ViTamin, MobileCLIP-B) and its Eva (PE, EVA01, EVA02).

Sources: `timm/models/vision_transformer.py` and `timm/models/eva.py` of timm 1.0.
"""

from collections.abc import Sequence
from typing import Any, cast

from timm.layers.mlp import Mlp
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as VitBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from igsp_deploy.model.kernels import self_attention
from igsp_deploy.model.towers.block import Block, ImageEnds, MlpParts


def linear_parts(mlp: Any) -> MlpParts | None:
    """What timm's MLP is made of; None where it has a gate or a norm inside."""
    if type(mlp) is not Mlp or not isinstance(mlp.norm, nn.Identity) or not isinstance(mlp.fc1, nn.Linear):
        return None
    if mlp.fc1.bias is None or mlp.fc2.bias is None:
        return None
    return MlpParts(expand=mlp.fc1, activation=mlp.act, contract=cast(nn.Linear, mlp.fc2))


class TimmBlock(Block):
    """`x + ls1(attention(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`."""

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        residual = x + self.inner.ls1(_attention(self.inner.attn, self.inner.norm1(x)))
        return residual, self.inner.norm2(residual)

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, residual + self.inner.ls2(y))

    def parts(self) -> MlpParts | None:
        return linear_parts(self.inner.mlp)


def _attention(attention: Any, normed: Tensor) -> Tensor:
    """In fewer operations, and as one node of opset 23, where it is the plain kind."""
    more = (attention.q_norm, attention.k_norm, getattr(attention, "norm", None), getattr(attention, "gate", None))
    if not all(part is None or isinstance(part, nn.Identity) for part in more):
        return cast(Tensor, attention(normed))
    qkv, out = attention.qkv, attention.proj
    return self_attention(normed, qkv.weight, qkv.bias, out.weight, out.bias, attention.num_heads)


class EvaPreNorm(Block):
    """Eva's usual block; its context is the rotary embedding `[positions, 2 d / heads]`, if there is one."""

    def plain(self, x: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.inner(x, rope=context))

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed = self.inner.attn(self.inner.norm1(x), rope=context)
        residual = x + (mixed if self.inner.gamma_1 is None else self.inner.gamma_1 * mixed)
        return residual, self.inner.norm2(residual)

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual + (y if self.inner.gamma_2 is None else self.inner.gamma_2 * y)

    def parts(self) -> MlpParts | None:
        return linear_parts(self.inner.mlp)


class EvaPostNorm(EvaPreNorm):
    """Eva's block with its norms behind attention and MLP."""

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        residual = x + self.inner.norm1(self.inner.attn(x, rope=context))
        return residual, residual

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return cast(Tensor, residual + self.inner.norm2(y))


class TimmVit(ImageEnds):
    """timm's vision transformer within open_clip's wrapper."""

    kind: type[Block] = TimmBlock

    def __init__(self, visual: Any) -> None:
        """Look at it."""
        super().__init__()
        self.visual = visual
        self.prefix = int(visual.trunk.num_prefix_tokens)

    @property
    def shape(self) -> tuple[int, int]:
        """The trunk's: some configurations tell open_clip another."""
        height, width = self.visual.trunk.patch_embed.img_size
        return int(height), int(width)

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], self.visual.trunk.blocks)

    @property
    def width(self) -> int:
        return int(self.visual.trunk.embed_dim)

    def patches(self, inputs: Tensor) -> Tensor:
        """`[B, ...]`, of the trunk's own shape, of pixels `[B, 3, S, S]`."""
        trunk = self.visual.trunk
        return cast(Tensor, trunk.patch_embed(inputs.to(next(trunk.parameters()).dtype)))

    def embed(self, inputs: Tensor) -> Tensor:
        trunk = self.visual.trunk
        return cast(Tensor, trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(self.patches(inputs)))))

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        trunk = self.visual.trunk
        return cast(Tensor, self.visual.head(trunk.forward_head(trunk.norm(x))))

    def top(self) -> list[nn.Parameter]:
        trunk = self.visual.trunk
        parts = [trunk.norm, trunk.attn_pool, trunk.fc_norm, trunk.head, self.visual.head]
        return [p for part in parts if part is not None for p in part.parameters()]


class TimmEva(TimmVit):
    """timm's Eva within open_clip's wrapper."""

    def __init__(self, visual: Any) -> None:
        """Look at it."""
        super().__init__(visual)
        post = isinstance(visual.trunk.blocks[0], EvaBlockPostNorm)
        self.kind = EvaPostNorm if post else EvaPreNorm

    def embed(self, inputs: Tensor) -> Tensor:
        trunk = self.visual.trunk
        return cast(Tensor, trunk.norm_pre(trunk._pos_embed(self.patches(inputs))[0]))

    def context(self, x: Tensor, inputs: Tensor) -> Tensor | None:
        trunk = self.visual.trunk
        if trunk.rope is None:
            return None
        sized = hasattr(trunk.rope, "feat_shape")
        found: Tensor = trunk.rope.get_embed() if sized else trunk.rope.get_embed(trunk.patch_embed.grid_size)
        return found


def timm_vit(visual: Any) -> TimmVit | None:
    """The ends of a timm transformer; None where its blocks are of another kind."""
    trunk = visual.trunk
    kinds = {type(block) for block in getattr(trunk, "blocks", ())}
    if type(trunk) is VisionTransformer and kinds == {VitBlock}:
        return TimmVit(visual)
    turned_by_block = getattr(trunk, "rope_mixed", False)
    if type(trunk) is Eva and not turned_by_block and kinds in ({EvaBlock}, {EvaBlockPostNorm}):
        return TimmEva(visual)
    return None
