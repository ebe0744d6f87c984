"""The text side of a bundle as one module: token ids and a task for each text in, embeddings out."""

import copy
from typing import Any, cast

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.model.backbone import Backbone
from igsp_export.blocks import StackedExperts, answered, plain_block, slots, stacked_block, stacked_experts


class TextGraph(nn.Module):
    """The frozen text tower with each text's task folded in: static gates need no router."""

    def __init__(self, backbone: Backbone, stacks: Stacks, *, rank: int) -> None:
        """Take the frozen text tower and the stacked tasks."""
        super().__init__()
        self.text: Any = backbone.text
        self.experts = stacked_experts(stacks, rank, "static")
        self.pool_type = getattr(self.text, "text_pool_type", None) or self.text.pool_type
        eos = getattr(self.text, "text_eos_id", None)
        self.eos_id = eos if eos is not None else getattr(self.text, "eos_id", None)

    def num_slots(self) -> int:
        """Slices of the stacks, plain CLIP's included."""
        return next((cast(StackedExperts, experts).down.shape[0] for experts in self.experts.values()), 1)

    def forward(self, ids: Tensor, task: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: int64 `[N, n]`, n up to the context length; all of a text's ids up to its end must be in.
            task: int64 `[N]`: index of a task, or -2 for plain CLIP.

        Returns:
            Normalised embeddings `[N, D]`, not a number for any other `task`.
        """
        text = self.text
        length = ids.shape[1]
        index = slots(task, self.num_slots())
        x = text.token_embedding(ids) + text.positional_embedding[:length]
        mask = text.attn_mask[:length, :length]
        for number, block in enumerate(text.transformer.resblocks):
            if str(number) in self.experts:
                experts = cast(StackedExperts, self.experts[str(number)])
                x = stacked_block(block, experts, x, index, mask)
            else:
                x = plain_block(block, x, mask)
        x = text_global_pool(text.ln_final(x), ids, self.pool_type, eos_token_id=self.eos_id)
        projection = text.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return answered(F.normalize(x, dim=-1).float(), task, self.num_slots())

    def in_precision(self, dtype: torch.dtype) -> "TextGraph":
        """A copy in another floating-point type; ids, tasks and embeddings keep theirs."""
        return copy.deepcopy(self).to(dtype)
