"""Where igsp_deploy points at the parts that stand on it: the commands of `igsp`, and the names of the Python API.

No other file of the package names igsp_train, igsp_export or igsp_serve (tests/unit/test_arrows.py), and this one
imports them when they are used, so that what needs no torch does not load it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igsp_deploy.model.record import TaskRecord
    from igsp_deploy.runtime.classifier import Classifier
    from igsp_serve.client import Client

__all__ = ["COMMANDS", "NAMES", "Classifier", "Client", "Model"]

COMMANDS = {
    "train": "igsp_train.commands.train",
    "import": "igsp_train.commands.import_",
    "drop": "igsp_train.commands.drop",
    "evaluate": "igsp_train.commands.evaluate",
    "backbones": "igsp_deploy.cli.backbones",
    "data": "igsp_train.commands.data",
    "report": "igsp_train.commands.report",
    "export": "igsp_export.commands.export",
    "push": "igsp_export.commands.push",
    "verify": "igsp_deploy.cli.verify",
    "inspect": "igsp_deploy.cli.inspect",
    "predict": "igsp_deploy.cli.predict",
    "serve": "igsp_serve.commands.serve",
    "demo": "igsp_serve.commands.demo",
    "bench": "igsp_export.commands.bench",
    "compare": "igsp_train.commands.compare",
    "quickstart": "igsp_deploy.cli.quickstart",
    "doctor": "igsp_deploy.cli.doctor",
}
"""Command -> module that holds a function of the module's own name; it imports nothing heavy at the top."""

NAMES = {
    "Classifier": "igsp_deploy.runtime.classifier",
    "Client": "igsp_serve.client",
    "Model": "igsp_deploy.doors",
}
"""Name of the Python API -> module that holds it."""


class Model:
    """A model folder: tasks are learned into it one after another, measured, and exported as one bundle.

    Examples:
        >>> model = Model.create("model", backbone="nano")
        >>> model.learn("shoes", "data/shoes", steps=200).metrics["val_accuracy"]
        97.5
        >>> model.export("bundle").classify("photo.jpg").labels[0]
        'boot'
    """

    def __init__(self, path: str | Path) -> None:
        """Use `create` or `open`."""
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, **settings: Any) -> "Model":
        """Make an empty model.

        Args:
            path: its folder; must not exist yet, or be empty.
            settings: of `igsp_deploy.config.ModelConfig`: `backbone`, `pretrained`, `rank`, ...; and `selector`, a
                `SelectorConfig`.

        Raises:
            UserError: a wrong setting, an unknown backbone, or a folder that holds something or cannot be written.
        """
        from igsp_deploy.config import ModelConfig, SelectorConfig
        from igsp_deploy.model.folder import ModelFolder
        from igsp_deploy.model.loading import load_backbone, settled

        selector = settings.pop("selector", None) or SelectorConfig()
        config = settled(ModelConfig(**settings))
        backbone = load_backbone(config.backbone, config.pretrained, config.preprocess)
        ModelFolder.create(Path(path), backbone, config, selector)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "Model":
        """Take a model that is there.

        Raises:
            UserError: `path` is no model folder; says what it is and what to give.
        """
        from igsp_deploy.model_path import require_model

        require_model(Path(path))
        return cls(path)

    @property
    def tasks(self) -> list[str]:
        """Names of the learned tasks, in order."""
        from igsp_deploy.model.folder import ModelFolder

        return [record.name for record in ModelFolder.open(self.path).tasks]

    def learn(
        self,
        name: str,
        source: str | Path,
        *,
        data: Mapping[str, Any] | None = None,
        device: str = "auto",
        track: Sequence[str] = (),
        quiet: bool = True,
        **settings: Any,
    ) -> "TaskRecord":
        """Learn one task; what was interrupted goes on where it stopped, and a task that is there stays as it is.

        Args:
            name: what the task is called.
            source: folder of images, manifest, or one of the other kinds `igsp train --task` takes.
            data: of `igsp_deploy.config.DataConfig`: `val_share`, `shots`, `num_workers`, ...
            device: where to compute: `auto`, `cpu`, `cuda`, `cuda:N`, or `mps` (experimental).
            track: what else is told of every step: `tensorboard`, `wandb`, `mlflow`; it lies in `MODEL.tracking`.
            quiet: show no progress.
            settings: of `igsp_deploy.config.LearnConfig`: `steps`, `batch_size`, `seed`, ...

        Returns:
            What is known of the task; `metrics` holds what was measured.

        Raises:
            UserError: a wrong name, setting or image folder, a name that is taken, or a folder that cannot be written.
        """
        from rich.console import Console

        from igsp_deploy.config import DataConfig, LearnConfig, RunConfig
        from igsp_deploy.model.folder import ModelFolder
        from igsp_deploy.names import check_task_name
        from igsp_train.sequence import train_sequence

        learn, splits = LearnConfig(**settings), DataConfig(**(data or {}))
        folder = ModelFolder.open(self.path)
        config = RunConfig(
            model=folder.config,
            selector=folder.selector_config,
            learn=learn,
            data=splits,
            tasks={check_task_name(name): str(source)},
        )
        console = Console(stderr=True, quiet=quiet)
        folder = train_sequence(self.path, config, console=console, device=device, track=track)
        return folder.tasks[folder.task_index(name)]

    def extend(self, name: str, source: str | Path, *, device: str = "auto", quiet: bool = True) -> "TaskRecord":
        """Add the images and classes that came to the source of a learned task, by its head alone.

        Args:
            name: of the task.
            source: where all of its images are now, the new ones among the old.
            device: where to compute, as of `learn`.
            quiet: say nothing.

        Returns:
            What is known of the task now.

        Raises:
            UserError: there is no such task or no new image, or the folder cannot be written.
        """
        from rich.console import Console

        from igsp_train.extend import extend_task

        return extend_task(self.path, name, str(source), console=Console(stderr=True, quiet=quiet), device=device)

    def drop(self, name: str, *, discard: bool = False) -> None:
        """Take the last task out, as if it had never been learned.

        Args:
            name: of it.
            discard: drop a task too that is unfinished and was begun after it.

        Raises:
            UserError: there is no such task, it is not the last one, or the folder cannot be written.
        """
        from igsp_train.drop import drop_task

        drop_task(self.path, name, discard=discard)

    def evaluate(
        self,
        sources: Mapping[str, str | Path] | None = None,
        *,
        errors: str | Path | None = None,
        device: str = "auto",
    ) -> dict[str, Any]:
        """Measure all tasks on their test images, with the task given and with the task chosen.

        Args:
            sources: task -> where its test images are now; by default where it was learned from.
            errors: CSV file that gets a row for each test image that is wrong.
            device: where to compute, as of `learn`.

        Returns:
            What `igsp evaluate --json` prints.

        Raises:
            UserError: no task, or images that are gone.
        """
        from igsp_train.evaluate import evaluate_model

        places = {name: str(source) for name, source in (sources or {}).items()} or None
        return evaluate_model(self.path, places, errors=None if errors is None else Path(errors), device=device)

    def export(
        self, bundle: str | Path, *, precision: tuple[str, ...] = ("fp32",), quiet: bool = True, **options: Any
    ) -> "Classifier":
        """Write the bundle, checked against PyTorch, and open it.

        Args:
            bundle: folder to make; must not exist yet.
            precision: graphs to write: `fp32`, `fp16`, `int8`, or `bf16` (experimental).
            quiet: show no progress.
            options: of `igsp_export.export.export_bundle`: `opset`, `experts`, `adapters`, `check_limit`.

        Raises:
            UserError: no task, a bundle that exists or cannot be written, or graphs that differ from PyTorch.
        """
        from rich.console import Console

        from igsp_deploy.runtime.classifier import Classifier
        from igsp_export.export import export_bundle

        console = Console(stderr=True, quiet=quiet)
        export_bundle(self.path, Path(bundle), precision=precision, console=console, **options)
        return Classifier(bundle)
