"""The text side of a bundle as one module: token ids and a task for each text in, embeddings out."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.model.backbone import Backbone
from igsp_export.blocks import (
    StackedExperts,
    answered,
    count_slots,
    plain_block,
    slots,
    stacked_block,
    stacked_experts,
    text_head,
)


class TextGraph(nn.Module):
    """The frozen text tower with each text's task folded in: static gates need no router."""

    def __init__(self, backbone: Backbone, stacks: Stacks, *, rank: int) -> None:
        """Take the frozen text tower and the stacked tasks."""
        super().__init__()
        self.text: Any = backbone.text
        self.experts = stacked_experts(stacks, rank, "static")

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
        num_slots = count_slots(next((cast(StackedExperts, one).down for one in self.experts.values()), None))
        index = slots(task, num_slots)
        x = text.token_embedding(ids) + text.positional_embedding[:length]
        mask = text.attn_mask[:length, :length]
        for number, block in enumerate(text.transformer.resblocks):
            if str(number) in self.experts:
                experts = cast(StackedExperts, self.experts[str(number)])
                x = stacked_block(block, experts, x, index, mask)
            else:
                x = plain_block(block, x, mask)
        return answered(text_head(text, x, ids), task, num_slots)

    def in_precision(self, dtype: torch.dtype) -> "TextGraph":
        """A copy in another floating-point type; ids, tasks and embeddings keep theirs."""
        return copy.deepcopy(self).to(dtype)
