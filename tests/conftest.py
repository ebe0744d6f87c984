"""Settings of every test: one thread of torch a process, so that parallel workers do not fight for the cores."""

import dataclasses
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from igsp_deploy.config import ModelConfig

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
THREADS = int(os.environ["OMP_NUM_THREADS"])
# Processes that tests start buffer their output as a user's do.
os.environ.pop("PYTHONUNBUFFERED", None)
# Tests never reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# A shell that runs something in the background lets it, and all that it starts, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Wide enough that messages are not wrapped, and without colours.
os.environ["COLUMNS"] = "200"
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"
# absl (TensorBoard brings it, OpenVINO imports it where it is) keeps the stderr it finds, and closes it when a command
# sets up logging, unless it is Python's own. Here it would find pytest's, which later tests need.
if importlib.util.find_spec("absl"):
    importlib.import_module("absl.logging").get_absl_handler().python_handler.stream = sys.__stderr__


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A model folder, its bundle, and the images its tasks were made from."""

    model: Path
    bundle: Path
    data: Path

    def images(self, task: str) -> list[Path]:
        """Test images of a task."""
        return sorted((self.data / task / "test").rglob("*.png"))


MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def task_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of two classes, told apart by color and by the direction of stripes, as image folders."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("tasks")
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:40]
    for task, classes in (("colors", ("red", "blue")), ("stripes", ("flat", "steep"))):
        for label, name in enumerate(classes):
            for index in range(14):
                if task == "colors":
                    picture = np.full((40, 40, 3), 40.0)
                    picture[..., 2 * label] = 220
                else:
                    wave = np.sin((y if label == 0 else x) / random.uniform(1.0, 1.5))
                    picture = np.repeat(128 + 120 * wave[..., None], 3, axis=2)
                picture += random.normal(0, 12, picture.shape)
                folder = root / task / ("test" if index >= 10 else "train") / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def make_model(task_data: Path) -> MakeModel:
    """Makes a model folder with the tasks of `task_data`: random experts, a real selector, no training."""

    def make(path: Path, config: "ModelConfig", tasks: tuple[str, ...] = ("colors", "stripes")) -> Path:
        import torch

        from igsp_deploy.config import SelectorConfig
        from igsp_deploy.data import load_task_data, read_eval_images
        from igsp_deploy.model.clip import Clip
        from igsp_deploy.model.folder import ModelFolder
        from igsp_deploy.model.head import Head
        from igsp_deploy.model.loading import load_backbone
        from igsp_deploy.model.record import TaskRecord
        from igsp_deploy.model.selector import task_statistics
        from igsp_deploy.model.task_files import LearnedTask

        backbone = load_backbone(config.backbone, config.pretrained)
        folder = ModelFolder.create(path, backbone, config, SelectorConfig())
        for name in tasks:
            generator = torch.Generator().manual_seed(len(folder.tasks))

            def draw(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
                return torch.randn(*shape, generator=generator)

            data = load_task_data(name, str(task_data / name))
            clip, spec, features, labels = Clip(backbone, folder.sites), backbone.preprocess, [], []
            for items in (data.train, data.test):
                images, targets, _ = read_eval_images(items, spec)
                with torch.no_grad():
                    features.append(clip.summary(clip.trunk(torch.from_numpy(images))))
                labels.append(torch.from_numpy(targets))
            # A threshold well under the scores of the test images: each of them is taken for a task.
            calibration = features[0].mean(0) + 3.0 * (features[1] - features[0].mean(0))
            ids = {site: list(range(folder.pool.size(site) + 1)) for site in folder.sites}
            routed = [s for s in folder.sites if s[0] == "vision" and config.router_input != "static"]
            learned = LearnedTask(
                experts={
                    s: (draw(1, config.rank, folder.width(s)) * 0.2, draw(1, folder.width(s), config.rank) * 0.5)
                    for s in folder.sites
                },
                ids=ids,
                router_weights={s: draw(len(ids[s]), folder.width(s)) for s in routed},
                router_biases={s: draw(len(ids[s])) for s in folder.sites},
                statistics=task_statistics(features[0], labels[0], len(data.classes), calibration),
            )
            record = TaskRecord(
                index=len(folder.tasks),
                name=name,
                classes=data.classes,
                display_names=data.display_names,
                templates=["a photo of {}.", "{}"],
                ids=ids,
                trained_parameters=1,
                kept_parameters=1,
                selector_parameters=1,
                source=str(task_data / name),
                data={"val_share": 0.1, "test_share": 0.2, "seed": 0},
            )
            if name == "stripes":  # one task with a head, one without
                width = features[0].shape[1] * (2 if config.head_features == "fourier" else 1)
                head = Head(vectors=draw(len(data.classes), width) * 0.005, text_share=0.6)
                learned = dataclasses.replace(learned, head=head)
            folder.add_task(record, learned)
        return path

    return make


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """What runs in this process may set torch's threads; the tests after it would compute other last bits."""
    yield
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != THREADS:
        sys.modules["torch"].set_num_threads(THREADS)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _traced_once(run_folder: Path) -> Iterator[None]:
    """See tests/traced_once.py; tests that need no torch do without."""
    if "torch" not in sys.modules:
        yield
        return
    from tests.traced_once import traced_once

    with traced_once(run_folder / "traced"):
        yield


@pytest.fixture(scope="session")
def bundled(run_folder: Path, task_data: Path, make_model: MakeModel) -> Bundled:
    """A model of two tasks on the debug backbone, exported once a test run, whatever the number of processes."""
    from tests.traced_once import locked

    root = run_folder / "bundled"
    with locked(root):
        if not (root / "bundle").exists():
            from igsp_deploy.config import ModelConfig
            from igsp_export.export import export_bundle

            make_model(root / "model", ModelConfig(backbone="debug", rank=2, vision_blocks=2))
            export_bundle(root / "model", root / "bundle")
    return Bundled(model=root / "model", bundle=root / "bundle", data=task_data)


@pytest.fixture(scope="session")
def igsp() -> Callable[..., Any]:
    """Runs the `igsp` command in this process; returns what a completed process is, with text."""
    from tests.cli import igsp

    return igsp


@pytest.fixture(scope="session")
def lesson_zip(task_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of class folders, inside one folder as people make them."""
    import zipfile

    path = tmp_path_factory.mktemp("zip") / "hues.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label in ("red", "blue"):
            for file in sorted((task_data / "colors" / "train" / label).glob("*.png")):
                archive.write(file, f"hues/{label}-ish/{file.name}")
        archive.writestr("hues/readme.txt", "not an image")
    return path
