"""Bundles that several tests of serving need, each exported once a process."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from igsp_deploy.bundle.manifest import read_manifest
from igsp_deploy.bundle.preprocess import load_image, to_uint8
from igsp_deploy.config import ModelConfig
from tests.fake_hub import FakeHub, running_hub

DEBUG = ModelConfig(backbone="debug", rank=2, vision_blocks=2)
Export = Callable[..., Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Export:
    """Makes a model of some tasks and exports it; the same arguments give the same model."""
    from igsp_export.export import export_bundle

    def make(config: ModelConfig, tasks: tuple[str, ...]) -> Path:
        root = tmp_path_factory.mktemp("exported")
        make_model(root / "model", config, tasks)
        export_bundle(root / "model", root / "bundle", console=Console(file=io.StringIO()))
        return root / "bundle"

    return make


@pytest.fixture(scope="session")
def first_only(exported: Export) -> Path:
    """The bundle of the model in `bundled` before it learned its second task."""
    return exported(DEBUG, ("colors",))


@pytest.fixture(scope="session")
def images(bundled: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Test images of both tasks, eight each."""
    spec = read_manifest(bundled.bundle).preprocess
    return np.stack([to_uint8(load_image(p), spec) for p in [*bundled.images("colors"), *bundled.images("stripes")]])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A Hub on this machine."""
    with running_hub(monkeypatch, tmp_path_factory.mktemp("hub")) as fake:
        yield fake
