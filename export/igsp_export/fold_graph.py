"""One task alone as modules: its experts are rows and columns of the frozen MLPs' own matrices.

An expert is linear and stands beside the MLP, whose activation it bypasses, so it cannot disappear into the MLP's
matrices: they become R units wider. `y = c_proj(act(c_fc(h))) + s sum_k p_k B_k A_k h` is, with the matrices
concatenated, two products instead of four:

    [u; v] = [W_fc; A] h + [b_fc; 0],    y = [W_proj, s B] [act(u); p v] + b_proj

where the gates p are constants (static gates) they are folded into B as well.

Shapes: B images, N texts, n tokens, d width, R = K r rank of all K experts of a block, D embedding width, C classes.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.adapter import BlockAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.router import router_features, static_gates
from igsp_export.blocks import attention, plain_block, text_head
from igsp_export.image_graph import PlainGraph


class WidenedMlp(nn.Module):
    """A frozen MLP with one task's experts as R linear units more."""

    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None

    def __init__(self, mlp: Any, adapter: BlockAdapter) -> None:
        """Concatenate the matrices of `mlp` and `adapter`, which has at least one expert."""
        super().__init__()
        self.hidden = int(mlp.c_fc.weight.shape[0])
        self.activation = mlp.gelu
        self.router_input = adapter.router_input
        static = adapter.router_weight is None or adapter.router_input == "static"
        self.rank = adapter.down.shape[0] // len(adapter.router_bias)
        up = adapter.up * adapter.scale
        if static:
            up = up * static_gates(adapter.router_bias)[0].repeat_interleave(self.rank)
        self.register_buffer("expand_weight", torch.cat([mlp.c_fc.weight, adapter.down]))
        self.register_buffer("expand_bias", F.pad(mlp.c_fc.bias, (0, len(adapter.down))))
        self.register_buffer("contract_weight", torch.cat([mlp.c_proj.weight, up], dim=1))
        self.register_buffer("contract_bias", mlp.c_proj.bias.clone())
        self.register_buffer("router_weight", None if static else adapter.router_weight)
        self.register_buffer("router_bias", None if static else adapter.router_bias)

    def forward(self, h: Tensor) -> Tensor:
        """`[B, n, d]` -> `[B, n, d]`, experts included."""
        wide = F.linear(h, self.expand_weight, self.expand_bias)
        inner = wide[..., self.hidden :]
        if self.router_weight is not None:
            features = router_features(h, self.router_input)
            gates = F.linear(features, self.router_weight, self.router_bias).softmax(-1)
            inner = (inner.unflatten(2, (-1, self.rank)) * gates[:, None, :, None]).flatten(2)
        both = torch.cat([self.activation(wide[..., : self.hidden]), inner], dim=-1)
        return F.linear(both, self.contract_weight, self.contract_bias)


def widen(blocks: Any, adapters: dict[int, BlockAdapter]) -> nn.ModuleDict:
    """The MLPs of the blocks in which a task has experts, by the block's number."""
    return nn.ModuleDict(
        {
            str(number): WidenedMlp(blocks[number].mlp, adapter)
            for number, adapter in adapters.items()
            if len(adapter.router_bias)
        }
    )


def _run(blocks: Any, widened: nn.ModuleDict, x: Tensor, mask: Tensor | None = None) -> Tensor:
    for number, block in enumerate(blocks):
        if str(number) in widened:
            x = x + block.ls_1(attention(block, block.ln_1(x), mask))
            x = x + block.ls_2(widened[str(number)](block.ln_2(x)))
        else:
            x = plain_block(block, x, mask)
    return x


class FoldedImage(nn.Module):
    """Pixels in, embedding and probabilities of one task's classes out."""

    classes: Tensor

    def __init__(
        self, backbone: Backbone, adapters: dict[int, BlockAdapter], classes: Tensor, logit_scale: float
    ) -> None:
        """Take the frozen image tower, the task's experts and its class embeddings `[C, D]`."""
        super().__init__()
        self.tower = PlainGraph(backbone)
        self.widened = widen(backbone.visual.transformer.resblocks, adapters)
        self.register_buffer("classes", classes * logit_scale)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `[B, S, S, 3]` -> normalised embeddings `[B, D]`, probabilities `[B, C]`."""
        tower = self.tower
        features = tower.head(_run(tower.visual.transformer.resblocks, self.widened, tower.embed(images)))
        return features, (features @ self.classes.T).softmax(-1)

    def in_precision(self, dtype: torch.dtype) -> "FoldedImage":
        """A copy in another floating-point type, but for the pixels' normalisation and the class embeddings."""
        graph = copy.deepcopy(self).to(dtype)
        graph.tower = self.tower.in_precision(dtype)
        graph.classes = self.classes.clone()
        return graph


class FoldedText(nn.Module):
    """Token ids in, embedding under one task out: the text gates are static, so they are folded into B."""

    def __init__(self, backbone: Backbone, adapters: dict[int, BlockAdapter]) -> None:
        """Take the frozen text tower and the task's experts."""
        super().__init__()
        self.text: Any = backbone.text
        self.widened = widen(self.text.transformer.resblocks, adapters)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 `[N, n]` -> normalised embeddings `[N, D]`."""
        text, length = self.text, ids.shape[1]
        x = text.token_embedding(ids) + text.positional_embedding[:length]
        x = _run(text.transformer.resblocks, self.widened, x, text.attn_mask[:length, :length])
        return text_head(text, x, ids)

    def in_precision(self, dtype: torch.dtype) -> "FoldedText":
        """A copy in another floating-point type; its inputs and outputs stay the same."""
        return copy.deepcopy(self).to(dtype)
