"""Ridge classifiers on frozen features, one a task: what the features are worth without adapting them, or words."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from igsp_train.head import RidgeSums, take_in
from igsp_train.research.baselines.zero_shot import predictor
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import open_reader, seen_views, split_features
from igsp_train.research.study.tokens import TrunkTokens

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths relative to the features' mean variance; the one with the best validation accuracy is taken."""


def ridge_features(setting: Setting, tokens: Tensor) -> Tensor:
    """CLIP's image embedding and the mean trunk token, both normalised: `[B, D + d]`."""
    with torch.no_grad():
        image = setting.clip.embed(tokens)
        return torch.cat([image, F.normalize(tokens[:, 1:].mean(1), dim=-1)], dim=1)


def solve_ridge(features: Tensor, labels: Tensor, num_classes: int, strength: float) -> Tensor:
    """Weights `[F + 1, C]` (bias last) of least squares on one-hot labels: `(X^T X + s I)^-1 X^T Y`."""
    mean = features.double().mean(0)
    x = features.double() - mean
    target = F.one_hot(labels, num_classes).double()
    share = target.mean(0)
    gram = x.T @ x
    gram += strength * float(gram.diagonal().mean()) * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (target - share))
    return torch.cat([weight, (share - mean @ weight)[None]])


def apply_ridge(weights: Tensor, features: Tensor) -> Tensor:
    """Class of each image, `[B]`."""
    return (features.double() @ weights[:-1] + weights[-1]).argmax(1)


def learn_head_alone(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """The closed-form head of a task by itself: no experts, no words. The control of everything that has a head."""
    plain, reader = predictor(setting, {}), open_reader(setting)
    learned: dict[str, Tensor] = {}

    def predict(task: TrunkTokens, tokens: Tensor) -> Tensor:
        if task.name not in learned:
            return plain(task, tokens)
        return (reader.read(tokens) @ learned[task.name].T).argmax(1)

    for task in tasks:
        summaries = [split_features(setting, task, "train"), *seen_views(setting, task)]
        sums = RidgeSums(len(task.classes), reader.for_heads(summaries[0][:1]).shape[1])
        for some in summaries:
            take_in(sums, reader, some, task.splits["train"][1])
        learned[task.name] = sums.solve()
        size = learned[task.name].numel()
        yield Stage(predict=predict, trained_phase1=size, trained_phase2=size, kept=size)


def learn_ridge(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """One classifier a task; a task that is not learned yet is left to plain CLIP."""
    plain = predictor(setting, {})
    learned: dict[str, Tensor] = {}

    def predict(task: TrunkTokens, tokens: Tensor) -> Tensor:
        if task.name not in learned:
            return plain(task, tokens)
        return apply_ridge(learned[task.name], ridge_features(setting, tokens))

    for task in tasks:
        read = {s: ridge_features(setting, t) for s, (t, _) in task.splits.items() if s != "test"}
        fits = [solve_ridge(read["train"], task.splits["train"][1], len(task.classes), s) for s in STRENGTHS]
        right = [int((apply_ridge(w, read["val"]) == task.splits["val"][1]).sum()) for w in fits]
        learned[task.name] = fits[max(range(len(fits)), key=lambda i: (right[i], i))]
        size = learned[task.name].numel()
        yield Stage(predict=predict, trained_phase1=size, trained_phase2=size, kept=size)
