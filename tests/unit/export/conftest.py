"""Bundles with all their stacks, for what is written from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from igsp_deploy.bundle.preprocess import load_image, to_uint8
from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.tasks import TaskSet

if TYPE_CHECKING:
    from tests.conftest import Bundled


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle, its engine, the stacks of its graphs, and inputs for them."""

    bundle: Path
    engine: Engine
    stacks: dict[str, Stacks]
    images: NDArray[np.uint8]
    ids: NDArray[np.int64]

    def graph(self, kind: str) -> Path:
        """File of a graph."""
        name: str = getattr(self.engine.variant, kind)
        return self.bundle / name

    def run(self, path: Path, feeds: dict[str, Any], adapter: Path | None = None) -> dict[str, NDArray[Any]]:
        """What plain onnxruntime gives for `path`: output -> value."""
        options, run_options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if adapter is not None:
            loaded = onnxruntime.LoraAdapter()
            loaded.Load(str(adapter))
            run_options.add_active_adapter(loaded)
        names = [value.name for value in session.get_outputs()]
        # onnxruntime's wrapper for Python wants every input in the feed and does not look at adapters; other languages'
        # wrappers and what they all call do.
        run = session.run if adapter is None else session._sess.run
        return dict(zip(names, run(names, feeds, run_options), strict=True))


def _open(bundle: Path, images: list[Path]) -> Opened:
    engine = Engine.open(bundle, "cpu", num_threads=1)
    tasks = TaskSet.read(bundle, engine.manifest)
    ids = np.array([[500, 20, 511, 0], [500, 30, 31, 511], [500, 511, 0, 0]], np.int64)
    padded = np.zeros((3, engine.manifest.backbone.context_length), np.int64)
    padded[:, : ids.shape[1]] = ids
    return Opened(
        bundle=bundle,
        engine=engine,
        stacks={"image": tasks.image | tasks.selector.stacks(), "text": tasks.text},
        images=np.stack([to_uint8(load_image(path), engine.manifest.preprocess) for path in images]),
        ids=padded,
    )


@pytest.fixture(scope="session")
def trunk(bundled: "Bundled") -> Opened:
    """The task is chosen in the image graph."""
    return _open(bundled.bundle, [*bundled.images("colors"), *bundled.images("stripes")])
