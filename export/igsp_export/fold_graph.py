"""One task alone as modules: its experts are rows and columns of the frozen MLPs' own matrices.

An expert is linear and stands beside the MLP, whose activation it bypasses, so it cannot disappear into the MLP's
matrices: they become R units wider (an MLP with a gate or a norm inside keeps them beside it).
`y = c_proj(act(c_fc(h))) + s sum_k p_k B_k A_k h` is, with the matrices concatenated, two products instead of four:

    [u; v] = [W_fc; A] h + [b_fc; 0],    y = [W_proj, s B] [act(u); p v] + b_proj

where the gates p are constants (static gates) they are folded into B as well.

Shapes: B images, N texts, n tokens, d width, R = K r rank of all K experts of a block, D embedding width, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import Experts, SiteExperts, route
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.model.towers.block import Block, MlpParts
from igsp_deploy.sites import Site
from igsp_export.image_graph import HeadReader, Pixels, image_features


class WidenedMlp(nn.Module):
    """A frozen MLP with one task's experts as R linear units more."""

    expand_weight: Tensor
    expand_bias: Tensor
    contract_weight: Tensor
    contract_bias: Tensor
    router_weight: Tensor | None
    router_bias: Tensor | None

    def __init__(self, mlp: MlpParts, experts: Experts, prefix: int) -> None:
        """Concatenate the matrices.

        Args:
            mlp: the block's own.
            experts: at least one.
            prefix: tokens of the tower that are no positions.
        """
        super().__init__()
        self.hidden = int(mlp.expand.weight.shape[0])
        self.activation = mlp.activation
        self.router_input, self.prefix, self.rank = experts.router_input, prefix, experts.rank
        static = experts.router_weight is None
        up = experts.up * experts.scale
        if static:
            up = up * experts.gates(None)[0].repeat_interleave(self.rank)
        self.register_buffer("expand_weight", torch.cat([mlp.expand.weight, experts.down]))
        self.register_buffer("expand_bias", F.pad(mlp.expand.bias, (0, len(experts.down))))
        self.register_buffer("contract_weight", torch.cat([mlp.contract.weight, up], dim=1))
        self.register_buffer("contract_bias", mlp.contract.bias.clone())
        self.register_buffer("router_weight", experts.router_weight)
        self.register_buffer("router_bias", None if static else experts.router_bias)

    def forward(self, h: Tensor) -> Tensor:
        """`[B, n, d]` -> `[B, n, d]`, experts included."""
        wide = F.linear(h, self.expand_weight, self.expand_bias)
        inner = wide[..., self.hidden :]
        read = route(h, self.router_input, self.prefix)
        if read is not None and self.router_weight is not None:
            gates = F.linear(read, self.router_weight, self.router_bias).softmax(-1)
            inner = (inner.unflatten(2, (-1, self.rank)) * gates[:, None, :, None]).flatten(2)
        both = torch.cat([self.activation(wide[..., : self.hidden]), inner], dim=-1)
        return F.linear(both, self.contract_weight, self.contract_bias)


class AccompaniedMlp(nn.Module):
    """A frozen MLP that is more than two linear layers, with one task's experts beside it as they are."""

    def __init__(self, block: Block, experts: Experts) -> None:
        """Take the block with the MLP, and at least one expert."""
        super().__init__()
        self.block, self.experts = block, experts

    def forward(self, h: Tensor) -> Tensor:
        """`[B, n, d]` -> `[B, n, d]`, experts included."""
        gates = self.experts.gates(route(h, self.experts.router_input, self.block.prefix))
        return self.block.own_mlp(h) + self.experts.delta(h, gates)


def with_experts(block: Block, experts: Experts) -> nn.Module:
    """What takes the place of a block's MLP."""
    parts = block.parts()
    return AccompaniedMlp(block, experts) if parts is None else WidenedMlp(parts, experts, block.prefix)


def folded_clip(backbone: Backbone, experts: SiteExperts, sites: Sequence[Site] = ()) -> Clip:
    """A CLIP with the MLPs widened in the blocks in which a task has experts; `sites` say where its trunk ends."""
    plain = Clip(backbone, [], exact=False)
    mlps = {site: with_experts(plain.block(site), beside) for site, beside in experts.items() if len(beside)}
    return Clip(backbone, sites, exact=False, mlps=mlps)


class FoldedImage(nn.Module):
    """Pixels in, embedding and probabilities of one task's classes out; with a head also what that one reads."""

    class_vectors: Tensor
    class_vectors_head: Tensor | None

    def __init__(self, learned: LearnedClip, task: int) -> None:
        """Take the frozen image tower, a task's experts and its class vectors."""
        super().__init__()
        backbone, head = learned.backbone, learned.head_vectors(task)
        self.pixels = Pixels(backbone.preprocess)
        self.tower = folded_clip(backbone, learned.tasks[task].experts, learned.sites).vision
        self.register_buffer("class_vectors", learned.class_vectors(task) * backbone.logit_scale)
        self.register_buffer("class_vectors_head", None if head is None else head * backbone.logit_scale)
        self.reader = HeadReader(learned.head_features, learned.clip.summary_width)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 `[B, S, S, 3]` -> normalised embeddings `[B, D]`, probabilities `[B, C]` and, with a head, `[B, P]`."""
        x = self.tower.trunk(self.pixels(images))
        features = image_features(self.tower, x)
        logits = features @ self.class_vectors.T
        if self.class_vectors_head is None:
            return features, logits.softmax(-1)
        read = self.reader(self.tower.summary(x.float()))
        return features, (logits + read @ self.class_vectors_head.T).softmax(-1), read


class FoldedText(nn.Module):
    """Token ids in, embedding under one task out: the text gates are static, so they are folded into B."""

    def __init__(self, backbone: Backbone, experts: SiteExperts) -> None:
        """Take the frozen text tower and the task's experts."""
        super().__init__()
        self.tower = folded_clip(backbone, experts).text

    def forward(self, ids: Tensor) -> Tensor:
        """int64 `[N, n]` -> normalised embeddings `[N, D]`."""
        return F.normalize(self.tower(self.tower.trunk(ids), ids, {}).float(), dim=-1)
