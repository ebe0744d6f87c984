"""A head on disk, alone and in a model folder."""

import dataclasses
import json

import pytest
import torch

from igsp_deploy.config import ModelConfig, SelectorConfig
from igsp_deploy.errors import UserError
from igsp_deploy.files import write_sums
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.head import Head
from igsp_deploy.model.loading import load_backbone
from tests.unit.model.test_folder import learned_task, model

__all__ = ["model"]

VECTORS = torch.arange(10.0).view(2, 5)
HEAD = Head(vectors=VECTORS, text_share=0.5)


def test_it_comes_back_as_it_was() -> None:
    again = Head.from_bytes(HEAD.to_bytes(), 2)
    assert again.vectors is not None
    assert torch.equal(again.vectors, VECTORS)
    assert (again.text_share, again.probe) == (0.5, None)


def test_a_probe_comes_back_as_it_was() -> None:
    again = Head.from_bytes(Head(probe=VECTORS).to_bytes(), 2)
    assert again.probe is not None
    assert torch.equal(again.probe, VECTORS)
    assert (again.vectors, again.text_share) == (None, 0.0)
    assert again.num_parameters() == 10
    assert HEAD.num_parameters() == 11


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors",
        dataclasses.replace(HEAD, vectors=torch.full((2, 5), torch.nan)).to_bytes(),
        dataclasses.replace(HEAD, vectors=torch.zeros(3, 5)).to_bytes(),
        dataclasses.replace(HEAD, vectors=torch.zeros(2)).to_bytes(),
        dataclasses.replace(HEAD, text_share=0.0).to_bytes(),
        Head(probe=torch.zeros(3, 5)).to_bytes(),
        Head(probe=torch.full((2, 5), torch.inf)).to_bytes(),
        dataclasses.replace(HEAD, text_share=-0.5).to_bytes(),
        dataclasses.replace(HEAD, text_share=float("nan")).to_bytes(),
        dataclasses.replace(HEAD, text_share=float("inf")).to_bytes(),
    ],
)
def test_what_is_no_head_of_these_classes_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"(does not hold a head|must hold finite numbers for 2|number above 0, is)"):
        Head.from_bytes(content, 2)


def test_a_temperature_under_one_makes_scores_larger_than_cosines_and_is_kept() -> None:
    again = Head.from_bytes(HEAD.tempered(0.25).to_bytes(), 2)
    assert again.text_share == 2.0
    assert again.vectors is not None
    assert torch.equal(again.vectors, 4 * VECTORS)


def test_a_task_keeps_its_head_and_one_without_has_none(model: ModelFolder) -> None:
    record, learned = learned_task(model, 2)
    without = model.fingerprint(1)
    model.add_task(record, dataclasses.replace(learned, head=HEAD))
    again = ModelFolder.open(model.path)
    assert again.head(1) is None
    kept = again.head(2)
    assert kept is not None
    assert kept.vectors is not None
    assert torch.equal(kept.vectors, VECTORS)
    assert again.fingerprint(1) == without
    assert json.loads((model.path / "config.json").read_text())["format_version"] == 3


def test_the_fingerprint_tells_heads_apart_and_a_damaged_one_is_named(model: ModelFolder) -> None:
    record, learned = learned_task(model, 2)
    model.add_task(record, dataclasses.replace(learned, head=HEAD))
    before, folder = model.fingerprint(2), model.path / "tasks" / "02-task2"
    (folder / "head.safetensors").write_bytes(dataclasses.replace(HEAD, text_share=0.6).to_bytes())
    assert model.fingerprint(2) != before
    with pytest.raises(UserError, match=r"02-task2/head.safetensors is .*Restore"):
        ModelFolder.open(model.path)
    (folder / "head.safetensors").write_bytes(dataclasses.replace(HEAD, vectors=torch.zeros(3, 5)).to_bytes())
    write_sums(folder)
    with pytest.raises(UserError, match=r"head.safetensors is damaged: it must hold finite numbers for 2 classes"):
        ModelFolder.open(model.path)


def test_a_folder_from_before_there_were_heads_opens(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("old") / "model"
    config = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
    folder = ModelFolder.create(path, load_backbone("debug"), config, SelectorConfig())
    folder.add_task(*learned_task(folder, 0))
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**values, "format_version": 1}))
    assert ModelFolder.open(path).head(0) is None


def test_a_folder_that_does_not_say_has_heads_on_summaries_and_keeps_to_them(model: ModelFolder) -> None:
    path = model.path / "config.json"
    values = json.loads(path.read_text())
    assert values["model"].pop("head_features") == "fourier"
    path.write_text(json.dumps({**values, "format_version": 2}))
    older = ModelFolder.open(model.path)
    assert older.config.head_features == "summary"
    older.add_task(*learned_task(older, len(older.tasks)))
    assert json.loads(path.read_text())["format_version"] == 3
    assert ModelFolder.open(model.path).config.head_features == "summary"
