"""`import igsp_deploy as igsp`: three names, loaded when they are asked for."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import igsp_deploy as igsp
from igsp_deploy.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import Bundled


def test_what_classifies_and_asks_loads_no_torch_and_the_package_alone_loads_nothing() -> None:
    code = (
        "import sys, igsp_deploy as igsp\n"
        "print(sorted(m for m in ('numpy', 'pydantic', 'torch', 'httpx2', 'rich') if m in sys.modules))\n"
        "igsp.Model, igsp.Classifier, igsp.Client\n"
        "print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[]", "False True"], done.stderr


def test_it_says_what_it_has() -> None:
    assert {"Classifier", "Client", "Model"} <= set(dir(igsp))
    with pytest.raises(AttributeError, match="Modle"):
        igsp.Modle  # noqa: B018


@pytest.mark.parametrize("kind", [str, Path, Path.read_bytes])
def test_one_image_gives_one_prediction_and_a_list_a_list(bundled: "Bundled", kind: Any) -> None:
    classifier = igsp.Classifier(str(bundled.bundle))
    image = kind(bundled.images("colors")[0])
    one = classifier.classify(image, "colors")
    assert classifier.classify([image], "colors") == [one]
    assert len(one.labels) == 2


def test_wrong_settings_are_told_before_anything_is_made_or_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank must be at least 1, got 0"):
        igsp.Model.create(tmp_path / "model", backbone="debug", rank=0)
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match="not a model folder: it does not exist"):
        igsp.Model.open(str(tmp_path / "model"))
    model = igsp.Model.create(str(tmp_path / "model"), backbone="debug")
    assert model.tasks == []
    for name, settings, text in (
        ("shoes", {"steps": 0}, "steps must be at least 1"),
        ("shoes", {"data": {"val_shares": 0.5}}, "did you mean val_share"),
        ("auto", {}, "a meaning of its own"),
    ):
        with pytest.raises(UserError, match=text):
            model.learn(name, tmp_path / "absent", **settings)
