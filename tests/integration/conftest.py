"""What several of the tests that run commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def first_only(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    """The bundle before the second task was learned."""
    import io

    from rich.console import Console

    from igsp_deploy.config import ModelConfig
    from igsp_export.export import export_bundle

    root = tmp_path_factory.mktemp("first")
    make_model(root / "model", ModelConfig(backbone="debug", rank=2, vision_blocks=2), ("colors",))
    export_bundle(root / "model", root / "bundle", console=Console(file=io.StringIO()))
    return root / "bundle"
