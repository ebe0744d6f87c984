"""Plain CLIP: nothing is learned."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from igsp_deploy.model.experts import SiteExperts
from igsp_deploy.model.head import Head
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_train.research.study.method import Predict, Setting, Stage
from igsp_train.research.study.tokens import TrunkTokens


def predictor(
    setting: Setting, experts: Mapping[str, SiteExperts], heads: Mapping[str, Head | None] | None = None
) -> Predict:
    """Classify by prompts: with experts and head of the task where there are some, with plain CLIP elsewhere."""
    made: dict[str, LearnedClip] = {}

    def predict(task: TrunkTokens, tokens: Tensor) -> Tensor:
        if task.name not in made:
            own = Learned(
                experts=experts.get(task.name, {}),
                display_names=task.classes,
                templates=task.templates,
                head=(heads or {}).get(task.name),
            )
            made[task.name] = LearnedClip(
                setting.backbone, setting.sites, [own], head_features=setting.model.head_features
            )
        return made[task.name].predict(tokens, 0).argmax(1)

    return predict


def words_alone(
    setting: Setting, experts: Mapping[str, SiteExperts], heads: Mapping[str, Head | None]
) -> Predict | None:
    """The same without the heads; None where there are none."""
    return predictor(setting, experts) if any(heads.values()) else None


def learn_zero_shot(setting: Setting, tasks: list[TrunkTokens]) -> Iterator[Stage]:
    """Yield plain CLIP once a task."""
    predict = predictor(setting, {})
    for _ in tasks:
        yield Stage(predict=predict, trained_phase1=0, trained_phase2=0, kept=0)
