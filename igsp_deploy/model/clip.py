"""A frozen CLIP as two towers of blocks, with a place beside every MLP where experts can stand.

With backbone.py the only file that knows how open_clip's models are made. The open_clip model itself is never changed.

A block is `open(x) -> residual, h`, then `y = mlp(h) + delta(h)`, then `close(residual, y) -> x`. That is the same
function as open_clip's block up to rounding, in fewer operations where weights are frozen: the way back through a
frozen layer needs no input, quick GELU keeps one tensor of the MLP's width instead of four, attention copies none of
its inputs, and the last block is computed only at the token that is pooled. An `exact` CLIP runs blocks without experts
by open_clip's own code instead, so that without a task its features are open_clip's to the bit.

Shapes: B samples, n tokens, d width, S image side, D embedding width, N texts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.experts import BesideMlp, Trace, route
from igsp_deploy.model.kernels import pick, quick_gelu_mlp, self_attention
from igsp_deploy.sites import Site, Tower


class Block(nn.Module):
    """One frozen pre-norm transformer block.

    Attributes:
        site: its tower and its index.
        prefix: tokens in front of it that are no positions of the input.
    """

    inner: Any

    def __init__(self, inner: Any, site: Site, *, prefix: int, exact: bool, mlp: nn.Module | None = None) -> None:
        """Take open_clip's block `inner`; `mlp`, where given, stands in for its MLP."""
        super().__init__()
        self.inner = inner
        self.site = site
        self.prefix = prefix
        self.exact = exact
        self.replaced = mlp

    def open(self, x: Tensor, mask: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block up to its MLP.

        Args:
            x: `[B, n, d]`.
            mask: float `[n, n]`, added to the attention's logits.
            rows: int64 `[B]`, the one token of each sample to go on with; all by default.

        Returns:
            The residual stream and the MLP's input, `[B, n, d]`; n is 1 with `rows`.
        """
        kept = x if rows is None else pick(x, rows)
        attention, normed = self.inner.attn, self.inner.ln_1(x)
        weights = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias)
        residual = kept + self.inner.ls_1(self_attention(normed, *weights, attention.num_heads, mask, rows))
        return residual, self.inner.ln_2(residual)

    def mlp(self, hidden: Tensor) -> Tensor:
        """The MLP of `hidden` `[B, n, d]`."""
        mlp: Any = self.inner.mlp if self.replaced is None else self.replaced
        if self.replaced is None and isinstance(mlp.gelu, QuickGELU) and not torch.compiler.is_exporting():
            up, down = mlp.c_fc, mlp.c_proj
            return quick_gelu_mlp(hidden, up.weight, up.bias, down.weight, down.bias)
        return cast(Tensor, mlp(hidden))

    def close(self, residual: Tensor, y: Tensor) -> Tensor:
        """The block's output from the residual stream and what stands in it for the MLP's output."""
        x: Tensor = residual + self.inner.ls_2(y)
        return x

    def forward(
        self,
        x: Tensor,
        experts: BesideMlp | None = None,
        *,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        w: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """Run the block, with experts parallel to its MLP: `y = MLP(h) + w s sum_k p_k B_k A_k h`.

        Args:
            x: `[B, n, d]`.
            experts: none by default.
            mask: float `[n, n]`.
            rows: int64 `[B]`, the one token of each sample to compute.
            w: factor of each sample on what the experts add, `[B]`; 1 by default.
            trace: gets gates and hidden state.

        Returns:
            `[B, n, d]`; n is 1 with `rows`.
        """
        if experts is None and self.exact and self.replaced is None:
            output: Tensor = self.inner(x, attn_mask=mask)
            return output if rows is None else pick(output, rows)
        residual, hidden = self.open(x, mask, rows)
        if experts is None:
            return self.close(residual, self.mlp(hidden))
        gates = experts.gates(route(hidden, experts.router_input, self.prefix))
        delta = experts.delta(hidden, gates)
        if w is not None:
            delta = delta * w.view(-1, 1, 1)
        if trace is not None:
            trace.see(self.site, hidden, gates)
        return self.close(residual, self.mlp(hidden) + delta)


@dataclass(frozen=True, kw_only=True)
class MlpParts:
    """What a block's MLP is made of: `contract(activation(expand(h)))`."""

    expand: nn.Linear
    activation: nn.Module
    contract: nn.Linear


class _ImageEnds(nn.Module):
    """What stands below and above the blocks of the image tower."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def embed(self, pixels: Tensor) -> Tensor:
        """Input of the first block, `[B, n, d]`, of normalised pixels `[B, 3, S, S]`."""
        x: Tensor = self.visual._embeds(pixels.to(self.visual.class_embedding.dtype))
        return x

    def mask(self, length: int) -> Tensor | None:
        """Every token sees every other."""
        return None

    def rows(self, inputs: Tensor, last: BesideMlp | None) -> Tensor | None:
        """The one token of each sample that counts behind the last block: None if others are pooled or routed by."""
        if self.visual.pool_type != "tok" or (last is not None and last.router_input == "mean_token"):
            return None
        return torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        """Embeddings `[B, D]` of the last block's output."""
        pooled, _ = self.visual._pool(x)
        features: Tensor = pooled @ self.visual.proj if self.visual.proj is not None else pooled
        return features


class _TextEnds(nn.Module):
    """What stands below and above the blocks of the text tower."""

    prefix = 0

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.text = text
        own = isinstance(text, CLIP)
        self.pool_type: str = text.text_pool_type if own else text.pool_type
        self.eos_id: int | None = getattr(text, "text_eos_id" if own else "eos_id", None)
        if self.pool_type == "eos" and self.eos_id is None:
            raise UserError("the text tower pools at its end token but does not say which that is.")

    def embed(self, ids: Tensor) -> Tensor:
        """Input of the first block, `[N, n, d]`, of token ids `[N, n]`."""
        dtype = self.text.transformer.get_cast_dtype()
        x: Tensor = self.text.token_embedding(ids).to(dtype) + self.text.positional_embedding[: ids.shape[1]].to(dtype)
        return x

    def mask(self, length: int) -> Tensor | None:
        """A token sees itself and those before it."""
        mask: Tensor = self.text.attn_mask[:length, :length]
        return mask

    def rows(self, inputs: Tensor, last: BesideMlp | None) -> Tensor | None:
        """The end token of each text; it has the highest id, or one that the tower names."""
        if self.pool_type not in ("argmax", "eos"):
            return None
        # As floats, exact below 2^24: onnxruntime's ArgMax for whole numbers runs on the CPU alone.
        ends = inputs if self.pool_type == "argmax" or self.eos_id is None else inputs.eq(self.eos_id)
        return ends.float().argmax(dim=1)

    def head(self, x: Tensor, inputs: Tensor, *, picked: bool) -> Tensor:
        """Embeddings `[N, D]` of the last block's output."""
        x = self.text.ln_final(x)
        rows = None if picked else self.rows(inputs, None)
        if rows is not None:
            x = x.gather(1, rows[:, None, None].expand(-1, 1, x.shape[2]))
        x = text_global_pool(x, inputs, self.pool_type) if rows is None and not picked else x.squeeze(1)
        projection = self.text.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return x


class ClipTower(nn.Module):
    """One tower: `embed`, `blocks`, `head`. Blocks below `first` are the trunk, which all tasks share."""

    def __init__(
        self,
        name: Tower,
        ends: _ImageEnds | _TextEnds,
        blocks: Any,
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
            Block(block, (name, number), prefix=ends.prefix, exact=exact, mlp=mlps.get((name, number)))
            for number, block in enumerate(blocks)
        )

    def trunk(self, inputs: Tensor) -> Tensor:
        """Input of block `first`, `[B, n, d]`."""
        return self.climb(self.ends.embed(inputs), 0, self.first)

    def climb(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Input of block `stop` from that of block `start`, `[B, n, d]`, without experts."""
        mask = self.ends.mask(x.shape[1])
        for block in self.blocks[start:stop]:
            x = block(x, mask=mask)
        return x

    def summary(self, x: Tensor) -> Tensor:
        """What the task selector reads of the input of block `first`, `[B, n, d]`: `[B, F]`.

        Class token and mean of the other tokens, both without their mean and at unit variance, so that no scale of the
        backbone enters; at the first block, where the class token is the same for every image, the latter alone.
        """
        pair = torch.stack([x[:, 0], x[:, self.prefix :].mean(dim=1)], dim=1)
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
        mask, last, rows = self.ends.mask(x.shape[1]), len(self.blocks) - 1, None
        for number, block in enumerate(self.blocks):
            if number < self.first:
                continue
            assert isinstance(block, Block)
            beside = experts.get(block.site)
            if number == last and not (block.exact and beside is None) and not torch.compiler.is_exporting():
                rows = self.ends.rows(inputs, beside)
            x = block(x, beside, mask=mask, rows=rows, w=w, trace=trace)
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
        visual, text, mlps = backbone.visual, backbone.text, mlps or {}
        self.vision = ClipTower(
            "vision", _ImageEnds(visual), visual.transformer.resblocks, self.first_block, exact, mlps
        )
        self.text = ClipTower("text", _TextEnds(text), text.transformer.resblocks, text_first, exact, mlps)
        self.logit_scale = backbone.logit_scale
        self.token_shape: Sequence[int] = tuple(visual.positional_embedding.shape)
        spec, device = backbone.preprocess, backbone.device
        for name, values in (("pixel_mean", spec.mean), ("pixel_std", spec.std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 `[B, S, S, 3]` -> normalised float `[B, 3, S, S]`."""
        return (images.permute(0, 3, 1, 2).float() / 255.0 - self.pixel_mean) / self.pixel_std

    def trunk(self, images: Tensor) -> Tensor:
        """Input of vision block `first_block`, `[B, n, d]`, of uint8 images `[B, S, S, 3]`: shared by all tasks."""
        return self.vision.trunk(self.pixels(images))

    def summary(self, tokens: Tensor) -> Tensor:
        """What the task selector reads of each image's tokens, `[B, F]`; see `ClipTower.summary`."""
        return self.vision.summary(tokens)

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
        """Token ids `[N, ctx]` without the padding after the longest text.

        The tower is causal and reads its end token, so embeddings are the same up to rounding, at a fraction of the
        cost. Id 0 is padding, but a text may hold it as well ("!" before a symbol).
        """
        ends = self.text.ends.rows(ids, None)
        return ids if ends is None else ids[:, : int(ends.max()) + 1]

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

    def mlp_parts(self, site: Site) -> MlpParts:
        """What the MLP of a block is made of."""
        block = self.tower(site[0]).blocks[site[1]]
        assert isinstance(block, Block)
        mlp = block.inner.mlp
        return MlpParts(expand=mlp.c_fc, activation=mlp.gelu, contract=mlp.c_proj)

    def tail(self) -> list[nn.Parameter]:
        """All weights of both towers from the first adapted block on."""
        visual, text = cast(Any, self.vision.ends).visual, cast(Any, self.text.ends).text
        blocks = [cast(Block, b).inner for tower in (self.vision, self.text) for b in tower.blocks[tower.first :]]
        found = [p for part in (*blocks, visual.ln_post, text.ln_final) for p in part.parameters()]
        return found + [p for p in (visual.proj, text.text_projection) if isinstance(p, nn.Parameter)]
