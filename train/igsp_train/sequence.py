"""Learning a sequence of tasks into one model folder: what `igsp train` does."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console

from igsp_deploy.config import ModelConfig, RunConfig, SelectorConfig
from igsp_deploy.data import TaskData, load_task_data
from igsp_deploy.data.test_items import check_same_images
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import load_backbone, settled
from igsp_deploy.model_path import locked_model, weights_at
from igsp_train.checkpoint import clear_checkpoint
from igsp_train.device import find_device
from igsp_train.learn_task import learn_task
from igsp_train.ranks import ALONE, Ranks
from igsp_train.steps import Reporter
from igsp_train.tracking import check_trackers, followed


class Options(TypedDict):
    """What `igsp train` is asked for besides its settings: keywords of `train_sequence`."""

    discard: bool
    device: str
    track: Sequence[str]
    given: Collection[str]


def train_sequence(
    model_path: Path,
    config: RunConfig,
    *,
    console: Console | None = None,
    discard: bool = False,
    report: Reporter | None = None,
    stop: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
    device: str = "auto",
    track: Sequence[str] = (),
    given: Collection[str] = (),
) -> ModelFolder:
    """Learn the tasks of `config` one after another into the model at `model_path`, which is made if it is not there.

    Tasks that the model already has are passed over, so the same command continues a run that was interrupted; their
    data may be gone, or lie in another source by now.

    Args:
        model_path: the model folder.
        config: all settings and the tasks.
        console: where progress goes; stderr by default.
        discard: drop an unfinished task of other settings instead of refusing.
        report: gets every step's report, besides the progress bar.
        stop: asked after every step; True ends after a checkpoint.
        ranks: processes that learn together, all of which call this; only the first writes and prints.
        device: where to compute, see `find_device`; several processes have theirs already.
        track: words of `tracking.PACKAGES`: what else is told of every step.
        given: settings that somebody gave, as `model.rank`: they count where they say the default, too.

    Returns:
        The model with all tasks.

    Raises:
        UserError: whatever is wrong with tasks, data, settings, device or disk. What was learned before it stays.
    """
    console = console or Console(stderr=True)
    if not ranks.first:
        console = Console(quiet=True)
    if not config.tasks:
        raise UserError("there is nothing to learn: give at least one task, for example --task shoes=data/shoes")
    place = ranks.device or find_device(device)
    track = track if ranks.first else ()
    check_trackers(track)
    learned = _learned_names(model_path)
    data = {name: _load(name, config) for name in config.tasks if name not in learned}
    config = dataclasses.replace(config, model=settled(config.model))
    fresh = not (model_path / "config.json").exists()
    # Before the folder is made, for what is wrong with it is said before anything is written.
    backbone = load_backbone(*_named(config.model)) if fresh and ranks.first else None
    with locked_model(model_path) if ranks.first else nullcontext():
        if ranks.first:
            folder, backbone = open_or_create(model_path, config, backbone, given)
            if discard:
                clear_checkpoint(model_path)
        ranks.wait()
        if not ranks.first:
            _check_shared(model_path, ranks)
            folder, backbone = open_or_create(model_path, config, None)
        assert backbone is not None
        backbone.to(place)
        for name, source in config.tasks.items():
            known = {record.name: record for record in folder.tasks}
            if name in known:
                check_same_images(known[name], source, folder.split(known[name].index))
                console.print(f"{name}: already learned, passed over", markup=False)
                continue
            task = data[name] if name in data else _load(name, config)
            with followed(track, model_path, name, config) as follower:
                record = learn_task(
                    backbone,
                    folder,
                    task,
                    config,
                    console=console,
                    report=report,
                    follow=follower.step,
                    stop=stop,
                    ranks=ranks,
                )
                follower.learned(record)
    return folder


def _learned_names(model_path: Path) -> set[str]:
    """Names of the tasks of a model at first sight: their data is not read again."""
    return {path.parent.name.partition("-")[2] for path in model_path.glob("tasks/[0-9]*-*/task.json")}


def _load(name: str, config: RunConfig) -> TaskData:
    data, source = config.data, config.tasks[name]
    return load_task_data(
        name, source, val_share=data.val_share, test_share=data.test_share, seed=data.seed, shots=data.shots
    )


def _named(config: ModelConfig) -> tuple[str, str | None, str | None]:
    return config.backbone, config.pretrained, config.preprocess


def open_or_create(
    model_path: Path, config: RunConfig, backbone: Backbone | None, given: Collection[str] = ()
) -> tuple[ModelFolder, Backbone]:
    """The model as it is under the lock: another process may have made it, or added to it, since the first look."""
    if not (model_path / "config.json").exists():
        backbone = backbone or load_backbone(*_named(config.model))
        return ModelFolder.create(model_path, backbone, config.model, config.selector), backbone
    folder = ModelFolder.open(model_path)
    _check_same_settings(folder, config, given)
    if backbone is None:
        with weights_at(Path(config.model.pretrained) if config.model.pretrained else None):
            return folder, folder.load_backbone()
    folder.check_backbone(backbone)
    return folder, backbone


def _check_same_settings(folder: ModelFolder, config: RunConfig, given: Collection[str]) -> None:
    """Settings of the model are fixed by its first task; other ones given now would be ignored, so they are refused."""
    pairs: list[tuple[str, Any, Any, Any]] = [
        ("model", config.model, folder.config, ModelConfig()),
        ("selector", config.selector, folder.selector_config, SelectorConfig()),
    ]
    for section, asked, stored, default in pairs:
        for field in dataclasses.fields(asked):
            if field.name == "pretrained":
                continue  # a checkpoint may have moved: the hash of its weights decides
            value = getattr(asked, field.name)
            meant = value != getattr(default, field.name) or f"{section}.{field.name}" in given
            if meant and value != getattr(stored, field.name):
                raise UserError(
                    f"{folder.path} was made with {section}.{field.name} = {getattr(stored, field.name)!r}, "
                    f"got {value!r}. Leave it out, or start a new model folder."
                )


def _check_shared(model_path: Path, ranks: Ranks) -> None:
    if not (model_path / "config.json").exists():
        raise UserError(
            f"process {ranks.rank} does not see {model_path}, which process 0 made. All machines must see the model "
            "folder under the same path, on a shared file system."
        )
