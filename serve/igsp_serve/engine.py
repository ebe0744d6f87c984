"""Running a bundle's graphs with onnxruntime. No torch.

Shapes: B images, S image side, N texts, D embedding width, T tasks.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import REMEDY, Manifest, Variant, check_files, read_manifest
from igsp_deploy.errors import UserError
from igsp_serve.providers import CPU, CUDA, Provider, choose_provider, choose_variant

CHOOSE = -1
"""Task index that means: let the selector choose."""
PLAIN = -2
"""Task index that means: plain CLIP."""


@dataclass(frozen=True, kw_only=True)
class ImageOutput:
    """What the image graph gives for a batch.

    Attributes:
        features: L2-normalised embeddings, float32 `[B, D]`.
        task: index of the task used, or `PLAIN`, int64 `[B]`.
        task_scores: the selector's score of each task minus the task's threshold, float32 `[B, T]`; at least 0 means
            that the task would take the image.
    """

    features: NDArray[np.float32]
    task: NDArray[np.int64]
    task_scores: NDArray[np.float32]


class Engine:
    """The sessions of one bundle on one execution provider. Its methods may be called from several threads.

    Attributes:
        folder: the bundle.
        manifest: what it holds.
        provider: execution provider in use, verified.
        variant: graphs in use.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        provider: str,
        variant: Variant,
        *,
        num_threads: int = 0,
        optimize: bool = True,
    ) -> None:
        """Use `open`."""
        self.folder = folder
        self.manifest = manifest
        self.provider = provider
        self.variant = variant
        self._num_threads = num_threads
        self._optimize = optimize
        self._image = self._session(variant.image)
        self._text: Any = None
        self._text_lock = threading.Lock()
        self._check_image_graph()

    @classmethod
    def open(
        cls,
        folder: Path,
        providers: Provider = "auto",
        *,
        allow_fallback: bool = False,
        precision: str | None = None,
        num_threads: int = 0,
        check: bool = True,
    ) -> "Engine":
        """Load a bundle.

        Args:
            folder: the bundle.
            providers: `auto`, `cpu` or `cuda`.
            allow_fallback: with `cuda`, take the CPU where CUDA does not work instead of failing.
            precision: use this one only (`fp32`, `fp16`); default the best the provider may run.
            num_threads: CPU threads of one operator; 0 lets onnxruntime decide.
            check: compare every file with its checksum first.

        Raises:
            UserError: the bundle is missing, damaged or newer, or the provider cannot be had.
        """
        manifest = read_manifest(folder)
        if check:
            check_files(folder, manifest)
        provider = choose_provider(providers, allow_fallback=allow_fallback)
        variant = choose_variant(manifest.variants, provider, precision)
        return cls(folder, manifest, provider, variant, num_threads=num_threads)

    @classmethod
    def open_unoptimized(cls, folder: Path, variant: Variant) -> "Engine":
        """Load any graphs on the CPU without graph optimisation: slow, for checking half precision without a GPU.

        It is the optimisation of half-precision graphs for the CPU that can crash onnxruntime.
        """
        return cls(folder, read_manifest(folder), CPU, variant, optimize=False)

    def _session(self, name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._num_threads
        if not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = [self.provider] if self.provider == CPU else [self.provider, CPU]
        path = self.folder / name
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} cannot load {path} ({_first_line(error)}). {REMEDY}"
            ) from error
        got = session.get_providers()
        if self.provider == CUDA and got[0] != CUDA:
            raise UserError(f"{path} was to run on {self.provider}, but onnxruntime gave {', '.join(got)}.")
        return session

    def _check_image_graph(self) -> None:
        shapes = {value.name: value.shape for value in self._image.get_inputs()}
        outputs = {value.name: value.shape for value in self._image.get_outputs()}
        size = self.manifest.preprocess.size
        expected = {"images": [size, size, 3], "features": [self.manifest.backbone.embed_dim]}
        found = {"images": shapes.get("images", [])[1:], "features": outputs.get("features", [])[1:]}
        if expected != found:
            raise UserError(
                f"{self.folder / self.variant.image} is a graph for another backbone: the manifest says {expected}, "
                f"the graph {found}. {REMEDY}"
            )

    def run_images(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> ImageOutput:
        """Embed images, each under its own task.

        Args:
            images: uint8 `[B, S, S, 3]`, as `igsp_deploy.bundle.preprocess.to_uint8` gives them.
            task: int64 `[B]`: index of a task, `CHOOSE` or `PLAIN`.

        Raises:
            UserError: wrong type or shape, or no such task.
        """
        size, total = self.manifest.preprocess.size, len(self.manifest.tasks)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise UserError(
                f"images must be uint8 [B, {size}, {size}, 3], got {images.dtype} {list(images.shape)}. "
                "Prepare them with igsp_deploy.bundle.preprocess.to_uint8."
            )
        self._check_task(task, len(images), CHOOSE)
        if not len(images):
            return ImageOutput(
                features=np.zeros((0, self.manifest.backbone.embed_dim), np.float32),
                task=np.zeros(0, np.int64),
                task_scores=np.zeros((0, total), np.float32),
            )
        features, used, scores = self._image.run(
            ["features", "used_task", "task_scores"], {"images": images, "task": task}
        )
        return ImageOutput(features=features, task=used, task_scores=scores)

    def embed_text(self, ids: NDArray[np.int64], task: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed texts, each under its own task.

        Args:
            ids: int64 `[N, context_length]` of the bundle's tokenizer.
            task: int64 `[N]`: index of a task, or `PLAIN`.

        Returns:
            L2-normalised embeddings `[N, D]`.

        Raises:
            UserError: wrong type or shape, or no such task.
        """
        length = self.manifest.backbone.context_length
        if ids.dtype != np.int64 or ids.ndim != 2 or ids.shape[1] != length:
            raise UserError(f"token ids must be int64 [N, {length}], got {ids.dtype} {list(ids.shape)}.")
        self._check_task(task, len(ids), PLAIN)
        if not len(ids):
            return np.zeros((0, self.manifest.backbone.embed_dim), np.float32)
        with self._text_lock:
            if self._text is None:
                self._text = self._session(self.variant.text)
        # The tower is causal and reads its end token: the padding behind the longest text changes nothing.
        # (The end token has the highest id. Id 0 is padding, but a text may hold it as well: "!" before a symbol.)
        longest = max(2, int(ids.argmax(axis=1).max()) + 1)
        result: NDArray[np.float32] = self._text.run(
            ["embeddings"], {"ids": np.ascontiguousarray(ids[:, :longest]), "task": task}
        )[0]
        return result

    def _check_task(self, task: NDArray[np.int64], count: int, also: int) -> None:
        total = len(self.manifest.tasks)
        if task.dtype != np.int64 or task.shape != (count,):
            raise UserError(f"task must be int64 [{count}], one a row, got {task.dtype} {list(task.shape)}.")
        wrong = task[((task < 0) & (task != PLAIN) & (task != also)) | (task >= total)]
        if len(wrong):
            raise UserError(f"there is no task {wrong[0]}: the bundle has tasks 0 to {total - 1}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
