"""The uncompacted PyTorch towers of a model folder: what the graphs are held against.

Shapes: B images, S image side, D embedding width, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_deploy.model.adapter import TaskAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.selector import Selector, selector_features
from igsp_deploy.model.towers import class_embeddings, encode_from_trunk, encode_text, normalize_images, trunk_tokens
from igsp_deploy.names import AUTO, PLAIN


@dataclass(frozen=True, kw_only=True)
class TowerOutput:
    """What the towers give for some images.

    Attributes:
        features: L2-normalised embeddings `[B, D]`.
        used_task: `[B]`.
        task_scores: scores minus thresholds, `[B, T]`.
        score_sizes: what errors of the scores are measured by, `[B, T]`.
    """

    features: NDArray[np.float32]
    used_task: NDArray[np.int64]
    task_scores: NDArray[np.float32]
    score_sizes: NDArray[np.float32]


class Towers:
    """Backbone, adapters and selector of a model folder."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load everything onto the CPU.

        Raises:
            UserError: no task is learned, or the backbone cannot be loaded.
        """
        if not folder.tasks:
            raise UserError(
                f"{folder.path} has no learned task yet; `igsp train {folder.path} --task name=folder` adds one."
            )
        selector = folder.selector()
        assert selector is not None, "there are tasks"
        self.folder = folder
        self.backbone: Backbone = folder.load_backbone()
        self.selector: Selector = selector
        self.adapters: list[TaskAdapter] = [folder.adapter(t) for t in range(len(folder.tasks))]
        self.first_block = folder.first_block
        self.place = folder.config.selector_place

    def adapter(self, task: int) -> TaskAdapter | None:
        """Of task `task`; None for `PLAIN`."""
        return None if task == PLAIN else self.adapters[task]

    @torch.no_grad()
    def tokens(self, images: NDArray[np.uint8]) -> Tensor:
        """Trunk output of uint8 images `[B, S, S, 3]`."""
        spec = self.backbone.preprocess
        return trunk_tokens(
            self.backbone, normalize_images(torch.from_numpy(images), spec.mean, spec.std), self.first_block
        )

    @torch.no_grad()
    def run(self, tokens: Tensor, task: NDArray[np.int64]) -> TowerOutput:
        """Embed the images behind `tokens`, each under its own task (`[B]`; -1 chooses, -2 is plain CLIP)."""
        read = selector_features(self.backbone, tokens, self.first_block, self.place)
        asked = torch.from_numpy(task)
        used = torch.where(asked == AUTO, self.selector.choose(read), asked)
        features = torch.zeros(len(tokens), self.backbone.embed_dim)
        for t in used.unique().tolist():
            rows = used == t
            features[rows] = encode_from_trunk(
                self.backbone, tokens[rows], self.adapter(t), self.first_block, normalize=True
            )
        scores = self.selector.scores(read) - self.selector.thresholds
        return TowerOutput(
            features=features.numpy(),
            used_task=used.numpy(),
            task_scores=scores.numpy(),
            score_sizes=self.selector.sizes(read).numpy(),
        )

    @torch.no_grad()
    def embed_text(self, ids: NDArray[np.int64], task: int) -> NDArray[np.float32]:
        """L2-normalised embeddings `[N, D]` of token ids under one task, or `PLAIN`."""
        result: NDArray[np.float32] = encode_text(
            self.backbone, torch.from_numpy(ids), self.adapter(task), normalize=True
        ).numpy()
        return result

    def class_embeddings(self, task: int, adapter: int) -> NDArray[np.float32]:
        """Embeddings `[C, D]` of the classes of `task` under the experts of task `adapter`, or `PLAIN`."""
        record = self.folder.tasks[task]
        embeddings = class_embeddings(self.backbone, self.adapter(adapter), record.display_names, record.templates)
        result: NDArray[np.float32] = embeddings.numpy()
        return result
