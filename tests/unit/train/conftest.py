"""Two small tasks on the debug backbone, as a study reads them."""

from pathlib import Path

import pytest

from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, SelectorConfig
from igsp_deploy.model.loading import load_backbone
from igsp_train.research.study.method import Setting
from igsp_train.research.study.tokens import TrunkTokens, load_tokens

LEARN = LearnConfig(steps=8, batch_size=8, warmup_steps=2, num_candidates=2, phase1_max_share=0.5, cached_views=2)


@pytest.fixture(scope="session")
def setting() -> Setting:
    model = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    return Setting(backbone=load_backbone("debug"), model=model, learn=LEARN, selector=SelectorConfig())


@pytest.fixture(scope="session")
def tokens(setting: Setting, task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrunkTokens]:
    cache = tmp_path_factory.mktemp("tokens")
    return [
        load_tokens(cache, name, str(task_data / name), setting.backbone, setting.first_block, DataConfig(), 2)
        for name in ("colors", "stripes")
    ]
