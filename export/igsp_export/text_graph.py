"""The text side of a bundle as one module: token ids and a task for each text in, embeddings out."""

from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_export.image_graph import answered, count_tasks, sliced, stacked_experts


class TextGraph(nn.Module):
    """The frozen text tower with each text's task folded in: static gates need no router."""

    def __init__(self, backbone: Backbone, stacks: Stacks, *, rank: int) -> None:
        """Take the frozen text tower and the stacked tasks."""
        super().__init__()
        self.experts = stacked_experts(stacks, rank, "static")
        self.tower = Clip(backbone, [("text", int(block)) for block in self.experts], exact=False).text

    def forward(self, ids: Tensor, task: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: int64 `[N, n]`, n up to the context length; all of a text's ids up to its end must be in.
            task: int64 `[N]`: index of a task, or `PLAIN`.

        Returns:
            Normalised embeddings `[N, D]`, not a number for any other `task`.
        """
        x = self.tower.trunk(ids)
        num_tasks = count_tasks(self.experts)
        features = self.tower(x, ids, sliced(self.experts, "text", task, num_tasks))
        return answered(F.normalize(features.float(), dim=-1), task, num_tasks)
