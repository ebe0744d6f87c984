"""The last stages of timm's convolutional towers: ConvNeXt, and FastViT (MobileCLIP-S).

Places of the last stage's map are the tokens; the stages below are trunk. Sources: `timm/models/convnext.py` and
`timm/models/fastvit.py` of timm 1.0.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.fastvit import AttentionBlock, FastVit, RepMixerBlock
from torch import Tensor, nn

from igsp_deploy.model.towers.block import Block, ImageEnds, MlpParts
from igsp_deploy.model.towers.vit import linear_parts


def to_map(tokens: Tensor) -> Tensor:
    """`[B, n, d]` -> `[B, d, side, side]`, the same memory."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def to_tokens(places: Tensor) -> Tensor:
    """`[B, d, side, side]` -> `[B, n, d]`, the same memory."""
    return places.flatten(2).transpose(1, 2)


class MapBlock(Block):
    """A block that works on maps."""

    def plain(self, x: Tensor, context: Tensor | None) -> Tensor:
        return to_tokens(self.inner(to_map(x)))

    def own_mlp(self, hidden: Tensor) -> Tensor:
        return to_tokens(self.inner.mlp(to_map(hidden)))


class NextBlock(MapBlock):
    """ConvNeXt's: `x + gamma mlp(norm(conv(x)))`."""

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed = self.inner.conv_dw(to_map(x))
        if self.inner.use_conv_mlp:
            return x, to_tokens(self.inner.norm(mixed))
        return x, self.inner.norm(to_tokens(mixed))

    def own_mlp(self, hidden: Tensor) -> Tensor:
        return super().own_mlp(hidden) if self.inner.use_conv_mlp else cast(Tensor, self.inner.mlp(hidden))

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual + (y if self.inner.gamma is None else y * self.inner.gamma)

    def parts(self) -> MlpParts | None:
        return None if self.inner.use_conv_mlp else linear_parts(self.inner.mlp)


class MixerBlock(MapBlock):
    """FastViT's with convolutions: `m + scale mlp(m)` of `m = mixer(x)`."""

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mixed = to_tokens(self.inner.token_mixer(to_map(x)))
        return mixed, mixed

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual + to_tokens(self.inner.layer_scale(to_map(y)))


class MapAttentionBlock(MapBlock):
    """FastViT's with attention: `x + scale attention(norm(x))`, then `x + scale mlp(x)`."""

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        places = to_map(x)
        mixed = self.inner.layer_scale_1(self.inner.token_mixer(self.inner.norm(places)))
        residual = to_tokens(places + mixed)
        return residual, residual

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual + to_tokens(self.inner.layer_scale_2(to_map(y)))


class LastStage(ImageEnds):
    """A convolutional tower whose last stage's blocks may have experts."""

    def __init__(self, visual: Any, kind: type[Block]) -> None:
        """Look at it."""
        super().__init__()
        self.visual = visual
        self.kind = kind

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], self.visual.trunk.stages[-1].blocks)

    @property
    def width(self) -> int:
        return int(self.visual.trunk.feature_info[-1]["num_chs"])

    def embed(self, inputs: Tensor) -> Tensor:
        trunk = self.visual.trunk
        x = trunk.stem(inputs.to(next(trunk.parameters()).dtype))
        *below, last = trunk.stages
        for stage in below:
            x = stage(x)
        x = last.downsample(x)
        # ConvNeXt has none.
        return to_tokens(last.pos_emb(x) if hasattr(last, "pos_emb") else x)

    def _above(self) -> nn.Module:
        trunk = self.visual.trunk
        return cast(nn.Module, trunk.norm_pre if isinstance(trunk, ConvNeXt) else trunk.final_conv)

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        return cast(Tensor, self.visual.head(self.visual.trunk.forward_head(self._above()(to_map(x)))))

    def top(self) -> list[nn.Parameter]:
        return [p for part in (self._above(), self.visual.trunk.head, self.visual.head) for p in part.parameters()]


_KINDS: dict[type, type[Block]] = {
    ConvNeXtBlock: NextBlock,
    RepMixerBlock: MixerBlock,
    AttentionBlock: MapAttentionBlock,
}


def last_stage(visual: Any) -> LastStage | None:
    """The ends of a convolutional tower; None where it is of another kind."""
    if type(visual.trunk) not in (ConvNeXt, FastVit):
        return None
    kinds = {type(block) for block in visual.trunk.stages[-1].blocks}
    if len(kinds) != 1 or not kinds <= _KINDS.keys():
        return None
    return LastStage(visual, _KINDS[kinds.pop()])
