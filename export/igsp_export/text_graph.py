"""The text side of a bundle as one module: token ids and a task for each text in, embeddings out."""

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.model.backbone import Backbone
from igsp_export.blocks import StackedExperts, plain_block, stacked_block
from igsp_export.compact import Stack


class TextGraph(nn.Module):
    """The frozen text tower with each text's task folded in: static gates need no router."""

    def __init__(self, backbone: Backbone, stacks: dict[int, Stack], num_tasks: int) -> None:
        """Take the frozen text tower and the stacked tasks."""
        super().__init__()
        self.text = backbone.text if isinstance(backbone.text, nn.Module) else backbone.clip
        self.num_tasks = num_tasks
        self.experts = nn.ModuleDict({str(b): StackedExperts(s, "static") for b, s in stacks.items()})
        self.pool_type = getattr(self.text, "text_pool_type", None) or self.text.pool_type
        eos = getattr(self.text, "text_eos_id", None)
        self.eos_id = eos if eos is not None else getattr(self.text, "eos_id", None)

    def forward(self, ids: Tensor, task: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: int64 `[N, ctx]`.
            task: int64 `[N]`: index of a task, or -2 for plain CLIP.

        Returns:
            Normalised embeddings `[N, D]`.
        """
        text = self.text
        index = torch.where(task < 0, torch.full_like(task, self.num_tasks), task)
        x = text.token_embedding(ids) + text.positional_embedding
        for number, block in enumerate(text.transformer.resblocks):
            if str(number) in self.experts:
                x = stacked_block(block, self.experts[str(number)], x, index, text.attn_mask)
            else:
                x = plain_block(block, x, text.attn_mask)
        x = text_global_pool(text.ln_final(x), ids, self.pool_type, eos_token_id=self.eos_id)
        projection = text.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return F.normalize(x, dim=-1)
