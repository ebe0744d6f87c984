"""Any tower whatever: all of it is trunk, and its embedding is the one token of one block.

For ResNets, Hugging Face's text encoders, and what comes. The block is `e + delta(e)` of the embedding at unit mean
square; without experts the embedding passes as it is.

Shapes: B samples, D embedding width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from igsp_deploy.model.towers.block import Block, Ends, ImageEnds, TextEnds
from igsp_deploy.model.towers.openclip import projected_width


class EmbeddingBlock(Block):
    """A place for experts on an embedding `[B, 1, D]`."""

    def plain(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # In float32: the square of a half-precision number easily leaves its range.
        scale = x.float().square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
        hidden = x * scale.to(x.dtype)
        return hidden, hidden

    def own_mlp(self, hidden: Tensor) -> Tensor:
        return torch.zeros_like(hidden)

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        return residual + y


def _embedding(output: Any) -> Tensor:
    """Without the tokens that some towers give as well: `[B, 1, D]`."""
    embedding: Tensor = output[0] if isinstance(output, tuple) else output
    return embedding.unsqueeze(1)


class Whole(Ends):
    """A tower that is used as it is: one block, on its embedding."""

    kind = EmbeddingBlock

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        return [nn.Identity()]

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        return x[:, 0]

    def top(self) -> list[nn.Parameter]:
        return []


class OpaqueImage(Whole, ImageEnds):
    """An image tower that is used as it is."""

    def __init__(self, visual: Any, embed_dim: int) -> None:
        """Take open_clip's image tower, whose embeddings are as wide as its texts' `embed_dim`."""
        super().__init__()
        self.visual = visual
        self._width = embed_dim

    @property
    def width(self) -> int:
        return self._width

    def embed(self, inputs: Tensor) -> Tensor:
        return _embedding(self.visual(inputs.to(next(self.visual.parameters()).dtype)))


class OpaqueText(Whole, TextEnds):
    """A text tower that is used as it is; all of the context counts."""

    def __init__(self, text: Any) -> None:
        """Take open_clip's text tower, which its class `CLIP` has within itself."""
        super().__init__()
        self.text = text

    @property
    def width(self) -> int:
        return self.embed_dim

    @property
    def embed_dim(self) -> int:
        return projected_width(self.text) if isinstance(self.text, CLIP) else int(self.text.output_dim)

    def embed(self, inputs: Tensor) -> Tensor:
        return _embedding(self.text.encode_text(inputs) if isinstance(self.text, CLIP) else self.text(inputs))
