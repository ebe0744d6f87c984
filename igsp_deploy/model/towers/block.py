"""What every tower is made of: frozen blocks with a place beside their MLP, and what stands below and above them.

A block is `open(x) -> residual, h`, then `y = mlp(h) + delta(h)`, then `close(residual, y) -> x`. That is the same
function as the model's own block up to rounding. An `exact` tower runs blocks without experts by the model's own code
instead, so that without a task its features are open_clip's to the bit.

Shapes: B samples, n tokens, d width, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from igsp_deploy.model.experts import BesideMlp, Trace, route
from igsp_deploy.model.kernels import pick
from igsp_deploy.sites import Site


@dataclass(frozen=True, kw_only=True)
class MlpParts:
    """What a block's MLP is made of: `contract(activation(expand(h)))`."""

    expand: nn.Linear
    activation: nn.Module
    contract: nn.Linear


class Block(nn.Module):
    """One frozen block; each family of towers says how its own is opened and closed.

    Attributes:
        inner: the model's own block.
        site: its tower and its index.
        prefix: tokens in front of it that are no positions of the input.
    """

    inner: Any

    def __init__(self, inner: Any, site: Site, *, prefix: int, exact: bool, mlp: nn.Module | None = None) -> None:
        """Take the model's block `inner`; `mlp`, where given, stands in for its MLP."""
        super().__init__()
        self.inner = inner
        self.site = site
        self.prefix = prefix
        self.exact = exact
        self.replaced = mlp

    def plain(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The model's own code, `[B, n, d]` -> `[B, n, d]`."""
        return cast(Tensor, self.inner(x))

    def open(self, x: Tensor, context: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block up to its MLP.

        Args:
            x: `[B, n, d]`.
            context: what its tower gives every block, see `Ends.context`.
            rows: int64 `[B]`, the one token of each sample to go on with; all by default.

        Returns:
            The residual stream and the MLP's input, `[B, n, d]`; n is 1 with `rows`.
        """
        raise NotImplementedError

    def own_mlp(self, hidden: Tensor) -> Tensor:
        """The model's MLP of `hidden` `[B, n, d]`."""
        return cast(Tensor, self.inner.mlp(hidden))

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        """The block's output from the residual stream and what stands in it for the MLP's output."""
        raise NotImplementedError

    def parts(self) -> MlpParts | None:
        """What its MLP is made of; None where that is more than two linear layers."""
        return None

    def mlp(self, hidden: Tensor) -> Tensor:
        """The MLP, or what stands in for it, of `hidden` `[B, n, d]`."""
        return self.own_mlp(hidden) if self.replaced is None else cast(Tensor, self.replaced(hidden))

    def forward(
        self,
        x: Tensor,
        experts: BesideMlp | None = None,
        *,
        context: Tensor | None = None,
        rows: Tensor | None = None,
        w: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Run the block, with experts parallel to its MLP: `y = MLP(h) + w s sum_k p_k B_k A_k h`.

        Args:
            x: `[B, n, d]`.
            experts: none by default.
            context: see `open`.
            rows: int64 `[B]`, the one token of each sample to compute.
            w: factor of each sample on what the experts add, `[B]`; 1 by default.
            trace: gets gates and hidden state.

        Returns:
            `[B, n, d]`; n is 1 with `rows`.
        """
        if experts is None and self.exact and self.replaced is None:
            output = self.plain(x, context)
            return output if rows is None else pick(output, rows)
        residual, hidden = self.open(x, context, rows)
        if experts is None:
            return self.close(residual, self.mlp(hidden))
        gates = experts.gates(route(hidden, experts.router_input, self.prefix))
        delta = experts.delta(hidden, gates)
        if w is not None:
            delta = delta * w.view(-1, 1, 1)
        if trace is not None:
            trace.see(self.site, hidden, gates)
        return self.close(residual, self.mlp(hidden) + delta)


class Ends(nn.Module):
    """What stands below and above the blocks of a tower, and the blocks as the model has them.

    Attributes:
        kind: how its blocks are opened and closed.
        prefix: tokens in front that are no positions of the input; the first is a class token.
    """

    kind: type[Block]
    prefix = 0

    @property
    def inner_blocks(self) -> Sequence[nn.Module]:
        """The model's own blocks, from the lowest."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Width d of the MLPs' inputs."""
        raise NotImplementedError

    def embed(self, inputs: Tensor) -> Tensor:
        """Input of the first block, `[B, n, d]`, of normalised pixels `[B, 3, S, S]` or token ids `[B, n]`."""
        raise NotImplementedError

    def context(self, x: Tensor, inputs: Tensor) -> Tensor | None:
        """What every block gets beside its input `x` `[B, n, d]`: a mask, or the positions that attention turns by."""
        return None

    def rows(self, inputs: Tensor, last: BesideMlp | None) -> Tensor | None:
        """The one token of each sample that counts behind the last block: None if others are pooled or routed by."""
        return None

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        """Embeddings `[B, D]` of the last block's output, which is one token a sample if `picked`."""
        raise NotImplementedError

    def top(self) -> list[nn.Parameter]:
        """The weights above the blocks."""
        raise NotImplementedError


class ImageEnds(Ends):
    """Those of an image tower."""

    visual: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of its images, in pixels."""
        size = self.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def side(self) -> int:
        """Side of its images, in pixels."""
        return self.shape[0]


class TextEnds(Ends):
    """Those of a text tower."""

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        raise NotImplementedError

    def end_id(self, highest: int | None) -> int | None:
        """Id behind whose first place in a text other ids change no embedding; None where all of the context counts.

        Args:
            highest: the highest id of the tokenizer, if that is its end token.
        """
        return None

    def length(self, ids: Tensor) -> int:
        """How many of the ids `[N, n]` have to be read."""
        return ids.shape[1]
