"""Plain CLIP: nothing is learned."""

from collections.abc import Iterator

import torch
from torch import Tensor

from igsp_deploy.model.adapter import TaskAdapter
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.towers import class_embeddings, encode_from_trunk
from igsp_train.research.study.method import Predict, Setting, Stage
from igsp_train.research.study.tokens import TaskTokens


def predictor(backbone: Backbone, adapters: dict[str, TaskAdapter], first_block: int) -> Predict:
    """Classify by prompts: with the adapter of the task where there is one, with plain CLIP elsewhere."""
    classes: dict[str, Tensor] = {}

    def predict(task: TaskTokens, tokens: Tensor) -> Tensor:
        adapter = adapters.get(task.name)
        if task.name not in classes:
            classes[task.name] = class_embeddings(backbone, adapter, task.classes, task.templates)
        with torch.no_grad():
            return (encode_from_trunk(backbone, tokens, adapter, first_block) @ classes[task.name].T).argmax(1)

    return predict


def learn_zero_shot(setting: Setting, tasks: list[TaskTokens]) -> Iterator[Stage]:
    """Yield plain CLIP once a task."""
    predict = predictor(setting.backbone, {}, setting.first_block)
    for _ in tasks:
        yield Stage(predict=predict, trained_phase1=0, trained_phase2=0, kept=0)
