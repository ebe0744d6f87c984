"""The whole way with a small CLIP of every family: learn, evaluate, export, verify, predict, by the commands."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fastapi.testclient import TestClient
from torch.onnx._internal.exporter._registration import ONNXRegistry

from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings
from tests.cli import igsp
from tests.cuda.placement import missing, place
from tests.small_clips import ALL, configuration, write_clip

OPSET_18 = ("coca", "eva02", "mobileclip-s", "roberta")
"""Those whose graphs are written for consumers without `Attention`; the others get opset 23."""
FOLDED = ("eva02", "vitamin", "convnext", "mobileclip-s", "resnet")
"""Those that are folded too: MLPs with a gate or a norm inside, with places of a map for tokens, and none at all."""
QUICK = ("learn.steps=6", "learn.batch_size=8", "learn.head=blend")


def done(*arguments: object) -> str:
    told = igsp(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture(scope="module", autouse=True)
def registry_made_once() -> Iterator[None]:
    """torch writes down anew for each graph what ONNX has for each of its operators: a sixth of an export's time."""
    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))):
        yield


@pytest.mark.parametrize("family", ALL)
def test_a_family_goes_the_whole_way(family: str, task_data: Path, tmp_path: Path) -> None:
    config = configuration(family, tmp_path / "text")
    name = write_clip(config, tmp_path / "clip")
    model, bundle, opset = tmp_path / "model", tmp_path / "bundle", 18 if family in OPSET_18 else 23
    tasks = [part for task in ("colors", "stripes") for part in ("--task", f"{task}={task_data / task}")]
    settings = [part for setting in QUICK for part in ("--set", setting)]
    # One task, and then another: what was learned is found again.
    done("train", model, "--backbone", name, *tasks[:2], *settings)
    done("train", model, *tasks, *settings)
    measured = json.loads(done("evaluate", model, "--json"))
    assert measured["tasks"] == ["colors", "stripes"]
    # Export refuses graphs that do not give what PyTorch gives: tasks named, chosen, mixed, texts.
    exported = json.loads(done("export", model, bundle, "--opset", opset, "--no-latency", "--json"))
    assert set(exported["parity"]["fp32"]["tasks"]) == {"colors", "stripes"}
    if missing() is None:
        placement = place(bundle / "image.fp32.onnx", capture=True)
        assert placement.copies == []
        assert placement.capture_refused is None
    for file in ("manifest.json", "README.md"):
        assert str(tmp_path) not in (bundle / file).read_text()
    kept = json.loads((bundle / "manifest.json").read_text())["backbone"]["logit_bias"]
    assert (kept is None) == ("init_logit_bias" not in config)
    assert "yes" in done("verify", bundle)
    image = task_data / "colors" / "test" / "red" / "10.png"
    with TestClient(create_app(bundle, Settings(provider="cpu"))) as client:
        for asked in ({}, {"task": "colors"}, {"prompts": "a red thing, a blue thing"}):
            words = [word for key, value in asked.items() for word in (f"--{key}", value)]
            told: Any = json.loads(done("predict", bundle, image, "--provider", "cpu", "--json", *words))
            assert sum(one["score"] for one in told[0]["predictions"]) == pytest.approx(1, abs=0.01), told
            form = {key: value.split(", ") for key, value in asked.items()}
            served = client.post("/v1/classify", files={"images": image.read_bytes()}, data=form).json()["results"]
            labels = [[one["label"] for one in found["predictions"]] for found in (served[0], told[0])]
            assert labels[0] == labels[1]
    if family in FOLDED:  # compared with PyTorch, or refused
        folded = json.loads(done("export", model, tmp_path / "alone", "--fold", "colors", "--json"))
        assert folded, folded
