"""Running a bundle's graphs with onnxruntime, for a set of tasks that may change meanwhile. No torch.

Shapes: B images, S image side, N texts, D embedding width, T tasks.
"""

import dataclasses
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.bundle.checked import CheckedFiles
from igsp_deploy.bundle.manifest import (
    CLASSES,
    SELECTOR,
    Manifest,
    Variant,
    check_sizes,
    read_manifest,
)
from igsp_deploy.errors import UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.compatible import check_image_graph, check_same_tasks, compatible, says_experts
from igsp_deploy.runtime.fixed_batches import FixedBatches
from igsp_deploy.runtime.graph import Graph, SessionSettings, Values
from igsp_deploy.runtime.providers import CPU, Provider, choose_provider, choose_variant
from igsp_deploy.runtime.tasks import TASK_FILES, TaskSet, find_task

MAX_TASKS = 1000
"""Tasks an engine takes unless told otherwise: a bound on its memory."""
STACK_TYPES: dict[str, Any] = {"fp16": np.float16}
"""Precision of the graphs -> type of the experts' stacks; float32 for all others."""


@dataclass(frozen=True, kw_only=True)
class ImageOutput:
    """What the image graph gives for a batch.

    Attributes:
        features: L2-normalised embeddings, float32 `[B, D]`.
        task: index of the task used, or `PLAIN`, int64 `[B]`.
        task_scores: the selector's score of each task minus the task's threshold, float32 `[B, T]`; at least 0 means
            that the task would take the image.
        summary: what heads are compared with, float32 `[B, P]`; P is 0 with graphs up to format 4, which give none.
    """

    features: NDArray[np.float32]
    task: NDArray[np.int64]
    task_scores: NDArray[np.float32]
    summary: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LoadedTasks:
    """A task set with its stacks on the device: what task indices refer to.

    Attributes:
        task_set: it.
        image: stacks of the image graph.
        text: stacks of the text graph; empty until a text comes.
        batches: fixed batches of the image graph, where they are used.
    """

    task_set: TaskSet
    image: Values
    text: Values
    batches: FixedBatches | None


class Engine:
    """The sessions of one bundle on one execution provider. Its methods may be called from several threads.

    Attributes:
        folder: the bundle.
        manifest: what it held when it was opened.
        provider: execution provider in use, verified.
        variant: graphs in use.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        variant: Variant,
        settings: SessionSettings,
        *,
        files: CheckedFiles | None = None,
        batch_sizes: Sequence[int] = (),
        max_tasks: int = MAX_TASKS,
    ) -> None:
        """Use `open`."""
        self.folder = folder
        self.manifest = manifest
        self.variant = variant
        self.provider = settings.provider
        self._settings = settings
        self._files = files
        self._checked = files is not None
        self._batch_sizes = tuple(batch_sizes)
        self._max_tasks = max_tasks
        self._image = Graph(folder / variant.image, settings)
        self._text: Graph | None = None
        self._text_lock = threading.Lock()
        self._changing = threading.Lock()
        check_image_graph(self._image, self.manifest)
        self._loaded = self._load(self._read(folder, manifest, None))
        self.require_unchanged((variant.image, *TASK_FILES))

    @classmethod
    def open(
        cls,
        folder: Path,
        providers: Provider = "auto",
        *,
        allow_fallback: bool = False,
        precision: str | None = None,
        num_threads: int = 0,
        spinning: bool = True,
        check: bool = True,
        batch_sizes: Sequence[int] = (),
        cuda_graph: bool = False,
        engine_cache: Path | None = None,
        max_tasks: int = MAX_TASKS,
        profile: str | None = None,
    ) -> "Engine":
        """Load a bundle.

        Args:
            folder: the bundle.
            providers: `auto`, `cpu`, `cuda`, or `tensorrt` (experimental).
            allow_fallback: take what works here where the provider asked for does not, instead of failing.
            precision: use this one only (`fp32`, `fp16`, `int8`, or `bf16`, experimental); default the provider's best.
            num_threads: CPU threads of one operator; 0 lets onnxruntime decide.
            spinning: CPU threads wait for work by spinning.
            check: compare every file with its checksum first.
            batch_sizes: run images in batches of these sizes only, padding to the next one; empty takes any.
            cuda_graph: capture a CUDA graph for each of `batch_sizes` (experimental).
            engine_cache: folder where TensorRT keeps the engines it builds (experimental).
            max_tasks: refuse to hold more tasks than these.
            profile: write onnxruntime's profile to files with this prefix.

        Raises:
            UserError: the bundle is missing, damaged or of another version, or the provider cannot be had.
        """
        manifest = read_manifest(folder)
        files = CheckedFiles(folder, manifest) if check else None
        provider = choose_provider(providers, allow_fallback=allow_fallback)
        variant = choose_variant(manifest.variants, provider, precision)
        if cuda_graph and (provider == CPU or not batch_sizes):
            raise UserError("CUDA graphs need the provider cuda and batch sizes, for example 1, 8 and 32.")
        settings = SessionSettings(
            provider=provider,
            num_threads=num_threads,
            spinning=spinning,
            cuda_graph=cuda_graph,
            engine_cache=engine_cache,
            profile=profile,
        )
        return cls(folder, manifest, variant, settings, files=files, batch_sizes=batch_sizes, max_tasks=max_tasks)

    @classmethod
    def open_unoptimized(cls, folder: Path, variant: Variant) -> "Engine":
        """Load any graphs on the CPU without graph optimisation: slow, for checking half precision without a GPU.

        It is the optimisation of half-precision graphs for the CPU that can crash onnxruntime.
        """
        return cls(folder, read_manifest(folder), variant, SessionSettings(provider=CPU, optimize=False))

    def open_text(self) -> None:
        """Open the text graph now. Else it is opened when the first text comes: most who classify images need none.

        Raises:
            UserError: it cannot be loaded, or is not the file that was checked.
        """
        self._open_text(self._loaded)

    def _open_text(self, tasks: LoadedTasks) -> Graph:
        with self._text_lock:
            if self._text is None:
                # Never as a CUDA graph: a text's length is free.
                settings = dataclasses.replace(self._settings, cuda_graph=False)
                text = Graph(self.folder / self.variant.text, settings)
                self.require_unchanged((self.variant.text,))
                self._text = text
            if not tasks.text:
                tasks.text.update(self._text.bind(tasks.task_set.text))
            return self._text

    def require_unchanged(self, names: Collection[str]) -> None:
        """See that files of the bundle, just read, are those that were checked when it was opened.

        Raises:
            UserError: one was replaced, changed or removed since.
        """
        if self._files is not None:
            self._files.require_unchanged(names)

    @property
    def tasks(self) -> LoadedTasks:
        """The tasks known now. Hold on to it to resolve a name and classify with the same tasks."""
        return self._loaded

    def add_task(self, bundle: Path, name: str) -> None:
        """Learn a task while running, without another session: calls under way keep the tasks they began with.

        Afterwards the engine computes what it would if it had been opened on `bundle` with these tasks alone.

        Of the experts, only those of the new task are read and compared with their checksum, and the others' stacks
        stay where they are, if the manifest says of every task that is here that its experts are the same. Else (a
        bundle of an earlier version, other digits) all are read.

        Args:
            bundle: an export of the same model after it learned the task. It must hold every task the engine has:
                the selector is shared by all of a model's tasks.
            name: the task to add.

        Raises:
            UserError: the bundle is damaged or of another model, there is no such task, it is known already, or there
                would be too many; the engine is as it was.
        """
        with self._changing:
            manifest = compatible(bundle, self.manifest, self.folder)
            find_task(name, manifest.task_names())
            tasks = self._loaded.task_set
            present = tasks.names()
            if name in present:
                raise UserError(f"the engine already has a task {name!r}. Remove it first to take another version.")
            check_same_tasks(bundle, manifest, tasks.entries)
            self._check_count(len(present) + 1)
            if self._checked and tasks.is_part_of(manifest) and says_experts(manifest, name):
                check_sizes(bundle, manifest, TASK_FILES)
                files = CheckedFiles(bundle, manifest, (CLASSES, SELECTOR))
                tasks = tasks.plus(bundle, manifest, name)
                files.require_unchanged()
            else:
                order = [task for task in manifest.task_names() if task in present or task == name]
                tasks = self._read_checked(bundle, manifest, order)
            self._loaded = self._load(tasks)
            self._checked = True  # whatever was read before, all of it now is what the manifest says

    def remove_task(self, name: str) -> None:
        """Forget a task while running; calls under way keep it to their end.

        Raises:
            UserError: unknown, or the only one; the engine is as it was.
        """
        with self._changing:
            self._loaded = self._load(self._loaded.task_set.without(name))

    def replace_tasks(self, bundle: Path) -> None:
        """Take all tasks of another bundle for the same graphs instead, in one step.

        Raises:
            UserError: it is damaged, or of another backbone or placement; the engine is as it was.
        """
        with self._changing:
            manifest = compatible(bundle, self.manifest, self.folder)
            self._loaded = self._load(self._read_checked(bundle, manifest, None))
            self._checked = True

    def _check_count(self, count: int) -> None:
        if count > self._max_tasks:
            raise UserError(
                f"{count} tasks are more than the {self._max_tasks} this engine may hold (max_tasks). "
                "Remove some, or open it with a larger number."
            )

    def _read_checked(self, bundle: Path, manifest: Manifest, names: Sequence[str] | None) -> TaskSet:
        files = CheckedFiles(bundle, manifest, TASK_FILES)  # not its graphs: they are not read, and large
        tasks = self._read(bundle, manifest, names)
        files.require_unchanged()
        return tasks

    def _read(self, bundle: Path, manifest: Manifest, names: Sequence[str] | None) -> TaskSet:
        self._check_count(len(names) if names is not None else len(manifest.tasks))
        return TaskSet.read(bundle, manifest, names, STACK_TYPES.get(self.variant.precision, np.float32))

    def _load(self, tasks: TaskSet) -> LoadedTasks:
        tasks = dataclasses.replace(tasks, selector=tasks.selector.fitting(self._image.stacks))
        with_head = [task.name for task, head in zip(tasks.entries, tasks.heads, strict=True) if head is not None]
        if with_head and "summary" not in self._image.outputs:
            raise UserError(
                f"task {with_head[0]!r} has a head, and {self._image.path} is of a bundle of format "
                f"{self.manifest.format_version}, whose graphs give nothing to compare it with. Open the bundle that "
                "the task comes from instead."
            )
        batches = None
        image = self._image.bind(tasks.image | tasks.selector_stacks())
        text = self._text.bind(tasks.text) if self._text is not None else {}
        if self._batch_sizes:
            batches = FixedBatches(self._image, image, self._batch_sizes, capture=self._settings.cuda_graph)
        return LoadedTasks(task_set=tasks, image=image, text=text, batches=batches)

    def run_images(
        self, images: NDArray[np.uint8], task: NDArray[np.int64], *, tasks: LoadedTasks | None = None
    ) -> ImageOutput:
        """Embed images, each under its own task.

        Args:
            images: uint8 `[B, S, S, 3]`, as `igsp_deploy.bundle.preprocess.to_uint8` gives them.
            task: int64 `[B]`: index of a task, `AUTO` or `PLAIN`.
            tasks: what the indices refer to; by default the tasks known now.

        Raises:
            UserError: wrong type or shape, or no such task.
        """
        tasks = tasks or self._loaded
        size, total = self.manifest.preprocess.size, len(tasks.task_set.entries)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise UserError(
                f"images must be uint8 [B, {size}, {size}, 3], got {images.dtype} {list(images.shape)}. "
                "Prepare them with igsp_deploy.bundle.preprocess.to_uint8."
            )
        _check_task(task, len(images), total, AUTO)
        if not len(images):
            return ImageOutput(
                features=np.zeros((0, self.manifest.backbone.embed_dim), np.float32),
                task=np.zeros(0, np.int64),
                task_scores=np.zeros((0, total), np.float32),
                summary=np.zeros((0, 0), np.float32),
            )
        slots = tasks.task_set.image_slots
        inputs: dict[str, NDArray[Any]] = {"images": images, "task": slots.slot(task)}
        run = tasks.batches.run(inputs) if tasks.batches is not None else self._image.run(inputs, tasks.image)
        features, used, scores, *rest = run
        summary = rest[0] if rest else np.zeros((len(features), 0), np.float32)
        return ImageOutput(features=features, task=slots.task(used), task_scores=slots.columns(scores), summary=summary)

    def embed_text(
        self, ids: NDArray[np.int64], task: NDArray[np.int64], *, tasks: LoadedTasks | None = None
    ) -> NDArray[np.float32]:
        """Embed texts, each under its own task.

        Args:
            ids: int64 `[N, context_length]` of the bundle's tokenizer.
            task: int64 `[N]`: index of a task, or `PLAIN`.
            tasks: what the indices refer to; by default the tasks known now.

        Returns:
            L2-normalised embeddings `[N, D]`.

        Raises:
            UserError: wrong type or shape, or no such task.
        """
        tasks = tasks or self._loaded
        length = self.manifest.backbone.context_length
        if ids.dtype != np.int64 or ids.ndim != 2 or ids.shape[1] != length:
            raise UserError(f"token ids must be int64 [N, {length}], got {ids.dtype} {list(ids.shape)}.")
        _check_task(task, len(ids), len(tasks.task_set.entries), PLAIN)
        if not len(ids):
            return np.zeros((0, self.manifest.backbone.embed_dim), np.float32)
        text = self._open_text(tasks)
        longest = max(2, _read_length(ids, self.manifest.tokenizer.end_id))
        (result,) = text.run({"ids": ids[:, :longest], "task": tasks.task_set.text_slots.slot(task)}, tasks.text)
        return result


def _read_length(ids: NDArray[np.int64], end_id: int | None) -> int:
    """How many columns of `ids` `[N, L]` the text tower has to see: up to the last row's first end, if all have one."""
    ends = np.zeros_like(ids, dtype=bool) if end_id is None else ids == end_id
    return int(ends.argmax(axis=1).max()) + 1 if ends.any(axis=1).all() else ids.shape[1]


def _check_task(task: NDArray[np.int64], count: int, total: int, also: int) -> None:
    if task.dtype != np.int64 or task.shape != (count,):
        raise UserError(f"task must be int64 [{count}], one a row, got {task.dtype} {list(task.shape)}.")
    wrong = task[((task < 0) & (task != PLAIN) & (task != also)) | (task >= total)]
    if len(wrong):
        raise UserError(f"there is no task {wrong[0]}: the bundle has tasks 0 to {total - 1}.")
