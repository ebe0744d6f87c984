"""A frozen CLIP as two towers of blocks, with a place beside every MLP where experts can stand.

How open_clip's towers are made is known to `igsp_deploy.model.towers` alone. The open_clip model is never changed.

Shapes: B samples, n tokens, d width, S image side, D embedding width, N texts.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.experts import BesideMlp, Trace
from igsp_deploy.model.towers.block import Block, Ends, TextEnds
from igsp_deploy.sites import Site, Tower


class ClipTower(nn.Module):
    """One tower: `embed`, `blocks`, `head`. Blocks below `first` are the trunk, which all tasks share."""

    def __init__(
        self,
        name: Tower,
        ends: Ends,
        first: int,
        exact: bool,
        mlps: Mapping[Site, nn.Module],
    ) -> None:
        """Use `Clip`."""
        super().__init__()
        self.ends = ends
        self.prefix = ends.prefix
        self.first = first
        self.blocks = nn.ModuleList(
            ends.kind(block, (name, number), prefix=ends.prefix, exact=exact, mlp=mlps.get((name, number)))
            for number, block in enumerate(ends.inner_blocks)
        )

    def trunk(self, inputs: Tensor) -> Tensor:
        """Input of block `first`, `[B, n, d]`."""
        return self.climb(self.ends.embed(inputs), 0, self.first, inputs)

    def climb(self, x: Tensor, start: int, stop: int, inputs: Tensor | None = None) -> Tensor:
        """Input of block `stop` from that of block `start`, `[B, n, d]`, without experts; of a text with its ids."""
        context = self.ends.context(x, x if inputs is None else inputs)
        for block in self.blocks[start:stop]:
            x = block(x, context=context)
        return x

    def summary(self, x: Tensor) -> Tensor:
        """What the task selector reads of the input of block `first`, `[B, n, d]`: `[B, F]`.

        Class token and mean of the other tokens, both without their mean and at unit variance, so that no scale of the
        backbone enters; at the first block, where the class token is the same for every image, the latter alone.
        """
        pair = torch.cat([x[:, :1], x[:, self.prefix :].mean(dim=1, keepdim=True)], dim=1)
        pair = F.layer_norm(pair, pair.shape[-1:])
        return pair[:, 1] if self.first == 0 or not self.prefix else pair.flatten(1)

    def forward(
        self,
        x: Tensor,
        inputs: Tensor,
        experts: Mapping[Site, BesideMlp],
        *,
        w: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """From the trunk's output to embeddings.

        Args:
            x: input of block `first`, `[B, n, d]`.
            inputs: what `embed` was given; of a text its ids, of images anything as long.
            experts: of the blocks that have some.
            w: factor of each sample on what experts add, `[B]`.
            trace: gets gates and hidden states.

        Returns:
            `[B, D]`, not normalised.
        """
        context, last, rows = self.ends.context(x, inputs), len(self.blocks) - 1, None
        for number, block in enumerate(self.blocks):
            if number < self.first:
                continue
            assert isinstance(block, Block)
            beside = experts.get(block.site)
            if number == last and not (block.exact and beside is None) and not torch.compiler.is_exporting():
                rows = self.ends.rows(inputs, beside)
            x = block(x, beside, context=context, rows=rows, w=w, trace=trace)
        return self.ends.head(x, inputs, picked=rows is not None)


NO_EXPERTS: dict[Site, BesideMlp] = {}
"""Plain CLIP."""


class Clip(nn.Module):
    """A frozen CLIP.

    Attributes:
        vision: the image tower.
        text: the text tower.
        first_block: first adapted vision block: all before it are the trunk that every task shares.
        logit_scale: factor on the cosine of an image and a text.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        sites: Iterable[Site],
        *,
        exact: bool = True,
        mlps: Mapping[Site, nn.Module] | None = None,
    ) -> None:
        """Look at a backbone's towers; no weight is copied.

        Args:
            backbone: its weights.
            sites: blocks that may have experts.
            exact: run blocks without experts by open_clip's own code; False for learning and export.
            mlps: what stands in for a block's MLP.
        """
        super().__init__()
        adapted = list(sites)
        self.first_block = min((b for tower, b in adapted if tower == "vision"), default=backbone.vision_depth)
        text_first = min((b for tower, b in adapted if tower == "text"), default=backbone.text_depth)
        self.vision = ClipTower("vision", backbone.image_ends, self.first_block, exact, mlps or {})
        self.text = ClipTower("text", backbone.text_ends, text_first, exact, mlps or {})
        self.logit_scale = backbone.logit_scale
        spec, device = backbone.preprocess, backbone.device
        self.side = spec.size
        for name, values in (("pixel_mean", spec.mean), ("pixel_std", spec.std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    @cached_property
    def token_shape(self) -> Sequence[int]:
        """Tokens and width of what the trunk gives of one image, `(n, d)`."""
        with torch.no_grad():
            blank = torch.zeros(1, 3, self.side, self.side, device=self.device)
            return tuple(self.vision.trunk(blank).shape[1:])

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 `[B, S, S, 3]` -> normalised float `[B, 3, S, S]`."""
        return (images.permute(0, 3, 1, 2).float() / 255.0 - self.pixel_mean) / self.pixel_std

    def trunk(self, images: Tensor) -> Tensor:
        """Input of vision block `first_block`, `[B, n, d]`, of uint8 images `[B, S, S, 3]`: shared by all tasks."""
        return self.vision.trunk(self.pixels(images))

    def summary(self, tokens: Tensor) -> Tensor:
        """What the task selector reads of each image's tokens, `[B, F]`; see `ClipTower.summary`."""
        return self.vision.summary(tokens)

    @property
    def summary_width(self) -> int:
        """Numbers F of a summary."""
        return self.summary(torch.zeros(1, *self.token_shape)).shape[1]

    def embed(
        self,
        tokens: Tensor,
        experts: Mapping[Site, BesideMlp] = NO_EXPERTS,
        *,
        w: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Normalised image embeddings `[B, D]` from the trunk's tokens `[B, n, d]`; see `ClipTower.forward`."""
        return F.normalize(self.vision(tokens, tokens, experts, w=w, trace=trace).float(), dim=-1)

    def crop(self, ids: Tensor) -> Tensor:
        """Token ids `[N, ctx]` without those behind the longest text, where the tower reads none of them.

        A causal tower that reads its end token gives the same embeddings up to rounding, at a fraction of the cost.
        Id 0 is padding, but a text may hold it as well ("!" before a symbol).
        """
        return ids[:, : cast(TextEnds, self.text.ends).length(ids)]

    def embed_text(
        self,
        ids: Tensor,
        experts: Mapping[Site, BesideMlp] = NO_EXPERTS,
        *,
        trunk: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Normalised text embeddings `[N, D]`.

        Args:
            ids: token ids `[N, n]`.
            experts: of the blocks that have some.
            trunk: `text.trunk(ids)`, where that was computed before.
            trace: gets gates and hidden states.
        """
        x = self.text.trunk(ids) if trunk is None else trunk
        return F.normalize(self.text(x, ids, experts, trace=trace).float(), dim=-1)

    def tower(self, name: Tower) -> ClipTower:
        """The tower of that name."""
        return self.vision if name == "vision" else self.text

    def block(self, site: Site) -> Block:
        """The block of that tower and index."""
        return cast(Block, self.tower(site[0]).blocks[site[1]])

    def tail(self) -> list[nn.Parameter]:
        """All weights of both towers from the first adapted block on."""
        towers = (self.vision, self.text)
        blocks = [cast(Block, block).inner for tower in towers for block in tower.blocks[tower.first :]]
        return [p for part in blocks for p in part.parameters()] + [p for tower in towers for p in tower.ends.top()]
