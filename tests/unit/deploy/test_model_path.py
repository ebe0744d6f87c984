"""What is told to somebody who gave something else where a model belongs."""

from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_deploy.model_path import require_model


def test_a_folder_with_a_configuration_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    require_model(tmp_path)


def test_something_that_is_absent_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist\. `igsp train .*absent --task"):
        require_model(tmp_path / "absent")


def test_a_bundle_is_not_to_be_trained_over(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="but a bundle") as told:
        require_model(tmp_path)
    assert "igsp train" not in str(told.value)


def test_a_folder_of_images_is_not_to_be_trained_over(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"has no config\.json") as told:
        require_model(tmp_path)
    assert f"igsp train {tmp_path}" not in str(told.value)
