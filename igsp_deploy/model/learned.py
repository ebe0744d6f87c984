"""The learned model as one module: a frozen CLIP, the experts of its tasks, and what chooses among them.

Shapes: B images, S image side, n tokens, d width, D embedding width, N texts, T tasks, C classes of a task, F numbers
of a summary, P that heads are compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igsp_deploy.config import HeadFeatures
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.clip import Clip
from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.fourier import directions, fourier
from igsp_deploy.model.head import Head
from igsp_deploy.model.selector import Selector
from igsp_deploy.names import PLAIN
from igsp_deploy.sites import Site, site_name

TEXTS = 256
"""Texts a pass of the text tower."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a task adds to a CLIP.

    Attributes:
        experts: of the blocks that have some; none of them makes it plain CLIP with this task's words.
        display_names: what its classes are called in prompts, in label order.
        templates: prompt templates with one `{}`, all of which are averaged.
        head: of its classes, beside the words or in their place; None compares with words alone.
    """

    experts: SiteExperts
    display_names: Sequence[str]
    templates: Sequence[str]
    head: Head | None = None


class LearnedClip(nn.Module):
    """A frozen CLIP and its learned tasks. A task is an index of the sequence, or `PLAIN`.

    The task is an argument of every call, never a state. Nothing here needs a gradient.

    Attributes:
        sites: blocks that may have experts.
        clip: the frozen towers.
        tasks: what each task adds.
        selector: chooses the task of an image; None where there are no statistics.
        head_features: what heads are compared with.
    """

    def __init__(
        self,
        backbone: Backbone,
        sites: Sequence[Site],
        tasks: Sequence[Learned],
        selector: Selector | None = None,
        *,
        head_features: HeadFeatures = "fourier",
    ) -> None:
        """Put the parts together, on the backbone's device.

        Args:
            backbone: the frozen CLIP's weights and tokenizer.
            sites: blocks that may have experts; those below the first are the trunk.
            tasks: in the order they were learned.
            selector: over the same tasks.
            head_features: what the heads of all tasks are compared with.
        """
        super().__init__()
        self.backbone = backbone
        self.sites = tuple(sites)
        self.clip = Clip(backbone, sites)
        self.tasks = tuple(tasks)
        self.selector = selector
        self.head_features = head_features
        for number, task in enumerate(tasks):
            for site, experts in task.experts.items():
                self.add_module(f"task{number}_{site_name(site).replace('.', '_')}", experts)
        self.to(backbone.device)
        self._vectors: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def open(cls, folder: ModelFolder, backbone: Backbone | None = None) -> "LearnedClip":
        """The model of a folder with all its tasks.

        Args:
            folder: the model folder.
            backbone: its backbone; loaded by default.

        Raises:
            UserError: no task is learned, or the backbone cannot be loaded.
        """
        if not folder.tasks:
            raise UserError(
                f"{folder.path} has no learned task yet; `igsp train {folder.path} --task name=folder` adds one."
            )
        tasks = [
            Learned(
                experts=folder.experts(t),
                display_names=record.display_names,
                templates=record.templates,
                head=folder.head(t),
            )
            for t, record in enumerate(folder.tasks)
        ]
        kind = folder.config.head_features
        return cls(backbone or folder.load_backbone(), folder.sites, tasks, folder.selector(), head_features=kind)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.clip.device

    @torch.no_grad()
    def trunk(self, images: Tensor) -> Tensor:
        """What all tasks share: tokens `[B, n, d]` of uint8 images `[B, S, S, 3]`."""
        return self.clip.trunk(images.to(self.device))

    @torch.no_grad()
    def choose(self, tokens: Tensor, among: Sequence[int] | None = None) -> Tensor:
        """The task of each image, int64 `[B]`, or `PLAIN` where none takes it; `among` as of `Selector.choose`."""
        assert self.selector is not None, "this model was made without a selector"
        return self.selector.choose(self.clip.summary(tokens.float()), among)

    @torch.no_grad()
    def embed(self, tokens: Tensor, task: int | Tensor, *, w: Tensor | None = None) -> Tensor:
        """Normalised embeddings `[B, D]`, each image's under its own task.

        Args:
            tokens: of the trunk, `[B, n, d]`.
            task: of all images, or of each, `[B]`.
            w: factor of each image on what the experts add, `[B]`; 1 by default.
        """
        if isinstance(task, int):
            return self.clip.embed(tokens, self._experts(task), w=w)
        features = tokens.new_zeros(len(tokens), self.backbone.embed_dim, dtype=torch.float32)
        for one in task.unique().tolist():
            rows = task == one
            features[rows] = self.embed(tokens[rows], one, w=None if w is None else w[rows])
        return features

    @torch.no_grad()
    def embed_text(self, ids: Tensor, task: int) -> Tensor:
        """Normalised embeddings `[N, D]` of token ids `[N, ctx]` under a task's experts."""
        return self.clip.embed_text(ids, self._experts(task))

    @torch.no_grad()
    def class_vectors(self, task: int, under: int | None = None) -> Tensor:
        """What embeddings are compared with, `[C, D]`: one vector a class.

        The normalised mean over templates of normalised text embeddings: prompt ensembling as in CLIP (arXiv
        2103.00020, section 3.1.4). Those of a task with a head, under its own experts, are as long as its text share,
        or those of its probe as they are.

        Args:
            task: the task whose classes are meant; `PLAIN` gives those of all tasks, one task after another.
            under: whose experts embed the words; the task's own by default.
        """
        if task == PLAIN:
            return torch.cat([self.class_vectors(t, PLAIN) for t in range(len(self.tasks))])
        under = task if under is None else under
        if (task, under) not in self._vectors:
            head = self.tasks[task].head if under == task else None
            if head is not None and head.probe is not None:
                self._vectors[task, under] = head.probe
            else:
                share = 1.0 if head is None else head.text_share
                self._vectors[task, under] = self._text_vectors(task, under) * share
        return self._vectors[task, under].to(self.device)

    def _text_vectors(self, task: int, under: int) -> Tensor:
        words = self.tasks[task]
        total: Tensor | None = None
        for template in words.templates:
            ids = self.backbone.tokenize([template.format(name) for name in words.display_names]).to(self.device)
            part = torch.cat([self.embed_text(chunk, under) for chunk in ids.split(TEXTS)])
            total = part if total is None else total + part
        assert total is not None, "a task has at least one template"
        return F.normalize(total, dim=-1)

    def for_heads(self, summary: Tensor) -> Tensor:
        """What heads are compared with, `[B, P]`, of summaries `[B, F]`; P is F, or 2F of Fourier features."""
        if self.head_features == "summary":
            return summary
        return fourier(summary, directions(summary.shape[1], summary.device))

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """What heads are compared with, `[B, P]`, of tokens `[B, n, d]`."""
        return self.for_heads(self.clip.summary(tokens.float()))

    def head_vectors(self, task: int) -> Tensor | None:
        """The head of a task, `[C, P]`; None where it has none, and of `PLAIN`."""
        head = None if task == PLAIN else self.tasks[task].head
        return None if head is None or head.vectors is None else head.vectors.to(self.device)

    @torch.no_grad()
    def compare(self, features: Tensor, read: Tensor, task: int, under: int | None = None) -> Tensor:
        """Scores `[B, C]` of a task's classes, or with `PLAIN` of all tasks' classes, in units of a cosine.

        Args:
            features: embeddings `[B, D]`.
            read: what heads are compared with, of the same images, `[B, P]` (see `read`).
            task: whose classes; see `class_vectors`.
            under: whose experts made the embeddings; the task's own by default. Under others there is no head.
        """
        scores = features @ self.class_vectors(task, under).T
        head = self.head_vectors(task) if under in (None, task) else None
        return scores if head is None else scores + read.to(head.dtype) @ head.T

    @torch.no_grad()
    def cosines(self, tokens: Tensor, task: int) -> Tensor:
        """Scores `[B, C]` of tokens `[B, n, d]` under a task, as `compare` gives them."""
        return self.compare(self.embed(tokens, task), self.read(tokens), task)

    @torch.no_grad()
    def predict(self, tokens: Tensor, task: int) -> Tensor:
        """Scores `[B, C]` of a task's classes, or with `PLAIN` of all tasks' classes, before the softmax."""
        return self.clip.logit_scale * self.cosines(tokens, task)

    def _experts(self, task: int) -> SiteExperts:
        return {} if task == PLAIN else self.tasks[task].experts
