"""The model folder on disk: safetensors and JSON only, one folder a task, committed by one rename.

    model/  config.json
            tasks/00-shoes/  task.json split.json experts.safetensors router.safetensors selector.safetensors
                             head.safetensors SHA256SUMS extended-001/

A task's new experts lie in its own folder and the pool is their union, so adding a task can never damage another one.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.checked import build
from igsp_deploy.config import ModelConfig, RouterInput, SelectorConfig
from igsp_deploy.data.frozen import FrozenSplit
from igsp_deploy.errors import UserError
from igsp_deploy.files import check_sums, explain_os_error, new_folder, read_json, remove_folder, write_json
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.experts import Experts, SiteExperts, concatenate_down, concatenate_up
from igsp_deploy.model.head import Head
from igsp_deploy.model.loading import load_backbone
from igsp_deploy.model.pool import Pool
from igsp_deploy.model.record import TaskRecord
from igsp_deploy.model.selector import Selector, TaskStatistics
from igsp_deploy.model.task_files import (
    REMEDY,
    LearnedTask,
    expert_tensors,
    load_learned,
    router_tensors,
    save_tensors,
    write_record,
)
from igsp_deploy.model_path import (
    EXTENDED,
    SPLIT,
    current_folder,
    is_unused,
    locked_model,
    require_model,
    task_fingerprint,
    weights_place,
)
from igsp_deploy.sites import Site, site_name

FORMAT_VERSION = 3
"""In format 1 no task has a head, and held-out images set its threshold; up to format 2 heads are compared with the
summary itself. They are read as before."""


class ModelFolder:
    """A model on disk and in memory: configuration, pool, tasks in the order they were learned."""

    def __init__(self, path: Path, identity: dict[str, Any], model: ModelConfig, selector: SelectorConfig) -> None:
        """Use `create` or `open`."""
        self.path = path
        self.identity = identity
        self.config = model
        self.selector_config = selector
        self.tasks: list[TaskRecord] = []
        self.pool = Pool(model.rank)
        self._learned: list[LearnedTask] = []

    @classmethod
    def create(cls, path: Path, backbone: Backbone, model: ModelConfig, selector: SelectorConfig) -> "ModelFolder":
        """Start an empty model for `backbone` at `path`.

        Raises:
            UserError: `path` exists and is not an empty folder, cannot be written, the placement does not fit, or
                another process is at it.
        """
        adapted_blocks(backbone.vision_depth, model.vision_blocks, "model.vision_blocks")
        adapted_blocks(backbone.text_depth, model.text_blocks, "model.text_blocks")
        values = {
            "format_version": FORMAT_VERSION,
            "backbone": {
                **backbone.identity(),
                "vision_depth": backbone.vision_depth,
                "text_depth": backbone.text_depth,
                "vision_width": backbone.vision_width,
                "text_width": backbone.text_width,
            },
            "model": dataclasses.asdict(model),
            "selector": dataclasses.asdict(selector),
        }
        with locked_model(path):
            try:
                if not is_unused(path):
                    raise UserError(f"{path} exists already and is not empty. Choose another name or empty it first.")
                (path / "tasks").mkdir(exist_ok=True)
            except OSError as error:
                raise explain_os_error(error, path / "tasks") from error
            # Last, and whole or absent: it is what makes the folder a model. The folder itself may be a mount point.
            write_json(path / "config.json", values)
            return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """Load the model at `path`, checking every file against its checksum.

        Raises:
            UserError: not a model folder, a newer format, or a missing, truncated or changed file.
        """
        require_model(path)
        values = read_json(path / "config.json", "model configuration")
        if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
            raise UserError(f"{path / 'config.json'} is not a model configuration. {REMEDY}")
        if values["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path} has format {values['format_version']}; this version reads up to {FORMAT_VERSION}. "
                "Upgrade igsp-deploy."
            )
        where = f"{path / 'config.json'}"
        try:
            settings = dict(values["model"])
            if settings.pop("selector_place", "trunk") != "trunk":
                raise UserError(
                    f"{path} chooses tasks by plain CLIP's embedding (model.selector_place=embedding), which chose "
                    "worse at the cost of a second pass, and is gone. Its experts cannot be given another selector "
                    "without their images: learn its tasks again into a new model folder, with `igsp train`."
                )
            model = build(ModelConfig, {"head_features": "summary", **settings}, where)
            # A model from before there was a background keeps the selector that its figures were measured with.
            selector = build(SelectorConfig, {"background": 0.0, **values["selector"]}, where)
            identity = dict(values["backbone"])
            folder = cls(path, identity, model, selector)
            identity["name"], identity["weight_hash"], identity["vision_depth"], identity["text_depth"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{where} lacks {error}. {REMEDY}") from error
        folder.refresh()
        return folder

    def refresh(self) -> None:
        """Take in the tasks on disk that are not in memory yet: another process may have added them.

        Raises:
            UserError: a file of theirs is missing, truncated or changed.
        """
        names = self._task_folders()
        for index, name in enumerate(names[len(self.tasks) :], start=len(self.tasks)):
            self._load_task(index, self.path / "tasks" / name)

    def _task_folders(self) -> list[str]:
        """Names of the tasks' folders on disk, in order."""
        tasks = self.path / "tasks"
        if not tasks.is_dir():
            return []
        return sorted((p.name for p in tasks.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_position)

    def load_backbone(self) -> Backbone:
        """Load the backbone this model was made with.

        Raises:
            UserError: it cannot be loaded, or its weights are not the ones the model was made with.
        """
        place = weights_place() or self.config.pretrained
        try:
            gelu = bool(self.identity.get("quick_gelu", False))  # before it was kept: the activation of the name
            backbone = load_backbone(self.config.backbone, place, self.config.preprocess, quick_gelu=gelu)
        except UserError as error:
            if place is None or Path(place).exists():
                raise
            raise UserError(
                f"{error} If the checkpoint lies elsewhere now, name its place: --pretrained PATH."
            ) from error
        self.check_backbone(backbone)
        return backbone

    def check_backbone(self, backbone: Backbone) -> None:
        """Compare `backbone` with the one this model was made with, and let it decode images as that one did.

        Raises:
            UserError: names both.
        """
        if backbone.weight_hash != self.identity["weight_hash"]:
            raise UserError(
                f"{self.path} was made with backbone {self.identity['name']} (weights "
                f"{self.identity['weight_hash'][:12]}), got {backbone.name} (weights {backbone.weight_hash[:12]}). "
                "Use the same name and weights, or start a new model folder."
            )
        backbone.preprocess = self._preprocess(backbone.preprocess)

    def _preprocess(self, now: PreprocessSpec) -> PreprocessSpec:
        """How images were prepared when this model was made; `now` is how they would be today."""
        if "preprocess" in self.identity:
            return build(PreprocessSpec, self.identity["preprocess"], f"{self.path / 'config.json'}")
        # From before there was a choice: always the shortest side, and at first always whole images.
        return dataclasses.replace(now, resize_mode="shortest", decoding=self.identity.get("decoding", "plain"))

    @property
    def sites(self) -> list[Site]:
        """All adapted blocks, vision first."""
        vision = adapted_blocks(self.identity["vision_depth"], self.config.vision_blocks, "model.vision_blocks")
        text = adapted_blocks(self.identity["text_depth"], self.config.text_blocks, "model.text_blocks")
        return [("vision", b) for b in vision] + [("text", b) for b in text]

    @property
    def first_block(self) -> int:
        """First adapted vision block: all before it are the trunk that every task shares."""
        return min(block for tower, block in self.sites if tower == "vision")

    def width(self, site: Site) -> int:
        """Width d of one block."""
        return int(self.identity["vision_width" if site[0] == "vision" else "text_width"])

    def task_index(self, name: str) -> int:
        """Index of the task called `name`.

        Raises:
            UserError: unknown; suggests the nearest.
        """
        import difflib

        names = [task.name for task in self.tasks]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Learned: {', '.join(names) or 'none'}."
            raise UserError(f"there is no task {name!r} in {self.path}.{hint}")
        return names.index(name)

    def router_input(self, site: Site) -> RouterInput:
        """What the routers of one block read."""
        return self.config.router_input if site[0] == "vision" else "static"

    def experts(self, index: int) -> SiteExperts:
        """What task `index` adds to the towers, gathered from the pool."""
        learned = self._learned[index]
        found: SiteExperts = {}
        for site, ids in learned.ids.items():
            down, up = self.pool.gather(site, ids, self.width(site))
            found[site] = Experts(
                down=concatenate_down(down),
                up=concatenate_up(up),
                router_weight=learned.router_weights.get(site),
                router_bias=learned.router_biases[site],
                scale=self.config.scale,
                router_input=self.router_input(site),
            )
        return found

    def fingerprint(self, index: int) -> str:
        """SHA-256 of what task `index` computes: its numbers, its classes and prompts; not where its images lay."""
        record = self.tasks[index]
        words = [record.name, record.classes, record.display_names, record.templates]
        return task_fingerprint(self._place(record), words)

    def head(self, index: int) -> Head | None:
        """Head of task `index`; None where words alone tell its classes apart."""
        return self._learned[index].head

    def statistics(self, index: int) -> TaskStatistics:
        """Selector statistics of task `index`."""
        return self._learned[index].statistics

    def selector(self, num_tasks: int | None = None) -> Selector | None:
        """The selector over the first `num_tasks` tasks (all by default); None while there is no task."""
        statistics = [learned.statistics for learned in self._learned[:num_tasks]]
        if not statistics:
            return None
        config = self.selector_config
        return Selector.fit(
            statistics, shrinkage=config.shrinkage, false_alarm=config.false_alarm, background=config.background
        )

    def split(self, index: int) -> FrozenSplit | None:
        """Which images task `index` was learned from and tested on; None where it was learned before that was kept.

        Raises:
            UserError: the file is damaged.
        """
        path = current_folder(self._place(self.tasks[index])) / SPLIT
        return FrozenSplit.from_json(read_json(path, "split of a task"), str(path)) if path.is_file() else None

    def add_task(self, record: TaskRecord, learned: LearnedTask, split: FrozenSplit | None = None) -> None:
        """Write a task's folder and take it into the pool. The folder appears whole or not at all.

        Raises:
            UserError: the name is taken, another process is changing the model or has changed it since it was
                opened, or the disk is full or cannot be written; the model is as before.
        """
        if record.index != len(self.tasks) or record.name in [t.name for t in self.tasks]:
            raise UserError(f"{self.path} already has a task {record.name!r} or another task {record.index}.")
        target = self._place(record)
        with locked_model(self.path), new_folder(target) as scratch:
            if len(self._task_folders()) != len(self.tasks):
                raise UserError(
                    f"another process has added a task to {self.path} meanwhile; {record.name!r} was not added. "
                    "Give the same command again."
                )
            settings = read_json(self.path / "config.json", "model configuration")
            if settings["format_version"] < FORMAT_VERSION:  # an older program would misread what comes now
                write_json(self.path / "config.json", {**settings, "format_version": FORMAT_VERSION})
            save_tensors(scratch / "experts.safetensors", expert_tensors(learned.experts))
            save_tensors(scratch / "router.safetensors", router_tensors(learned.router_weights, learned.router_biases))
            write_record(scratch, record, learned.head, learned.statistics, split)
        self._load_task(record.index, target)

    def extend_task(
        self, record: TaskRecord, head: Head | None, statistics: TaskStatistics, split: FrozenSplit
    ) -> None:
        """Give a task another head, statistics and record; its experts and routers, and all other tasks, stay.

        What was there before stays on the disk; what is new appears beside it, whole or not at all.

        Raises:
            UserError: another process is changing the model, or the disk is full or cannot be written; the model is as
                before.
        """
        place = self._place(record)
        number = sum(1 for _ in place.glob(f"{EXTENDED}-[0-9]*")) + 1
        with locked_model(self.path), new_folder(place / f"{EXTENDED}-{number:03d}") as scratch:
            write_record(scratch, record, head, statistics, split)
        self.tasks[record.index] = record
        self._learned[record.index] = dataclasses.replace(self._learned[record.index], head=head, statistics=statistics)

    def remove_last(self) -> None:
        """Take out the last task, and no other: routers name experts by their place in the pool.

        Its folder goes by one rename: it is there whole, or gone.

        Raises:
            UserError: another process is changing the model, or the folder cannot be written; the model is as before.
        """
        with locked_model(self.path):
            remove_folder(self._place(self.tasks[-1]))
        self.tasks, self.pool, self._learned = [], Pool(self.config.rank), []
        self.refresh()

    def _place(self, record: TaskRecord) -> Path:
        return self.path / "tasks" / f"{record.index:02d}-{record.name}"

    def _load_task(self, index: int, path: Path) -> None:
        now = current_folder(path)
        for folder in {path, now}:
            check_sums(folder, REMEDY)
        record = TaskRecord.from_json(read_json(now / "task.json", "task record"), str(now / "task.json"))
        if record.index != index:
            raise UserError(
                f"{path}: expected task number {index}, found {record.index}; a task folder is missing. {REMEDY}"
            )
        learned = load_learned(path, now, self.sites, record)
        for site, (down, up) in learned.experts.items():
            self.pool.add(site, down, up)
        for site, used in learned.ids.items():
            if used and max(used) >= self.pool.size(site):
                raise UserError(f"{path} lacks expert {max(used)} of {site_name(site)}. {REMEDY}")
        self._learned.append(learned)
        self.tasks.append(record)


def _position(folder: str) -> tuple[int, str]:
    """Order of the tasks' folders: `100-x` comes after `99-y`. What has no number comes last, and is refused there."""
    number = folder.partition("-")[0]
    return (int(number) if number.isdecimal() else sys.maxsize, folder)


def adapted_blocks(depth: int, last: int | None, option: str) -> list[int]:
    """Indices of the last `last` of `depth` blocks; 0 means all, -1 none, None the upper half.

    Raises:
        UserError: `last` exceeds `depth`.
    """
    if last is None:
        return list(range(depth // 2, depth))
    if last > depth:
        raise UserError(f"{option} must be at most the tower's {depth} blocks, got {last}.")
    if last < 0:
        return []
    return list(range(depth - last if last else 0, depth))
