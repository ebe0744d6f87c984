"""The presets are valid configurations that say what they are for."""

from pathlib import Path

import pytest

from igsp_deploy.checked import build
from igsp_deploy.config import RunConfig, load_yaml
from igsp_deploy.names import check_task_name

PRESETS = sorted((Path(__file__).resolve().parents[3] / "train" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_accepted_and_documented(path: Path) -> None:
    config = build(RunConfig, load_yaml(path), path.name)
    for name in config.tasks:
        check_task_name(name)
    head = path.read_text(encoding="utf-8").splitlines()[:3]
    for line, word in zip(head, ("Purpose:", "Prerequisite:", "Launch: igsp "), strict=True):
        assert line.startswith(f"# {word}")
