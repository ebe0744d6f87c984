"""Running the forms of the adapted block beside plain CLIP: checked, interleaved, paired."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from igsp_deploy.bundle.stacks import Stacks
from igsp_deploy.model.loading import DEBUG, NANO, RANDOM, load_backbone
from igsp_deploy.runtime.providers import CPU, CUDA, Provider, choose_provider
from tests.bench.block_forms import masked_stacks, random_stacks, write_graphs

FORMS = ("plain again", "gather", "common", "widened", "grouped", "masked")
GRAPHS = ("plain", "gather", "common", "widened", "masked")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference of a feature from the form `gather`."""
MIN_EFFECT = 5.0
"""The experts must change the features by this many tolerances, or equal features would say nothing."""

Features = NDArray[np.float32]
Run = Callable[[], Features]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One form at one number of tasks and one batch size.

    Attributes:
        form: one of `FORMS`.
        tasks: T.
        batch: images.
        groups: distinct tasks in the batch.
        skipped: why it was not measured; then the rest is None.
        rounds: how often it ran.
        milliseconds: median of its time.
        plain_milliseconds: median of plain CLIP's time in the same rounds.
        ratio: median of the rounds' ratios.
        low: lower end of the ratio's 95 % bootstrap interval.
        high: upper end.
        difference: largest difference of a feature from `gather`; None for it and for plain CLIP.
    """

    form: str
    tasks: int
    batch: int
    groups: int
    skipped: str | None = None
    rounds: int | None = None
    milliseconds: float | None = None
    plain_milliseconds: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None


class BoundGraph:
    """A session whose stacks lie on its device already."""

    def __init__(self, session: Any, stacks: Stacks, device: str) -> None:
        """Bind `stacks`, those inputs of the session that do not change from run to run."""
        self._session = session
        self._binding = session.io_binding()
        self._takes_task = any(value.name == "task" for value in session.get_inputs())
        for name, value in stacks.items():
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0))

    def __call__(self, images: NDArray[np.uint8], task: NDArray[np.int64]) -> Features:
        """Features `[B, D]` of uint8 `[B, S, S, 3]`."""
        self._binding.bind_cpu_input("images", images)
        if self._takes_task:
            self._binding.bind_cpu_input("task", task)
        # Bound anew: the last run's output would be taken for this one's, whatever its shape.
        self._binding.bind_output("features", "cpu")
        self._session.run_with_iobinding(self._binding)
        features: Features = self._binding.copy_outputs_to_cpu()[0]
        return features


def run_grouped(graph: BoundGraph, images: NDArray[np.uint8], task: NDArray[np.int64]) -> Features:
    """Sort the batch by task, run each task's rows by themselves, and put the features back in order."""
    order = np.argsort(task, kind="stable")
    starts = np.flatnonzero(np.diff(task[order])) + 1
    groups = np.split(order, starts)
    parts = [graph(images[rows], task[rows]) for rows in groups]
    features = np.empty((len(images), parts[0].shape[1]), np.float32)
    for rows, part in zip(groups, parts, strict=True):
        features[rows] = part
    return features


def check_forms(
    runs: dict[str, Run], gathered: dict[str, Features], plain: Features, tolerance: float
) -> dict[str, float]:
    """Hold every form against `gather` before anything is timed.

    Args:
        runs: form -> what runs it; the forms with experts but `gather`.
        gathered: form -> the features that `gather` gives for the tasks of that form's batch.
        plain: plain CLIP's features of the same images.
        tolerance: of a feature.

    Returns:
        Form -> its largest difference.

    Raises:
        RuntimeError: a form differs, or the experts change too little to tell.
    """
    differences = {}
    for form, run in runs.items():
        effect = float(np.abs(gathered[form] - plain).max(axis=1).min())
        if not effect > MIN_EFFECT * tolerance:
            raise RuntimeError(f"{form}: the experts change features by {effect:.1e} only; nothing can be compared.")
        differences[form] = float(np.abs(run() - gathered[form]).max())
        if not differences[form] <= tolerance:
            raise RuntimeError(f"{form} differs from gather by {differences[form]:.1e}, more than {tolerance:.0e}.")
    return differences


def time_rounds(runs: dict[str, Run], rounds: int, random: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each of `runs` in each round, `[rounds]`; every round runs all of them in an order of its own."""
    times = {name: np.zeros(rounds) for name in runs}
    for number in range(rounds):
        for name in random.permutation(list(runs)).tolist():
            started = time.perf_counter_ns()
            runs[name]()
            times[name][number] = (time.perf_counter_ns() - started) / 1e6
    return times


def paired_ratio(times: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median of `times / base`, round by round, and the 95 % interval of that median by 2000 bootstrap samples."""
    ratios = times / base
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def rounds_at(batch: int, rounds: int) -> int:
    """Fewer rounds of larger batches, whose times vary less: `rounds` at batch 1, falling with the root of the size."""
    return min(rounds, max(3, round(rounds / math.sqrt(batch))))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure.

    Attributes:
        tasks: numbers of tasks.
        batch: batch sizes.
        rank: R, of all experts of a task in a block.
        experts: K.
        backbone: open_clip name (random weights), nano or debug.
        blocks: keep the first blocks only; 0 keeps all.
        provider: cpu or cuda.
        precision: fp32 or fp16.
        opset: ONNX opset.
        threads: of one operator; 0 lets onnxruntime decide.
        rounds: at batch 1.
        memory_limit_mib: largest working memory of a form's adapted block.
        seed: of weights, images, tasks and order.
    """

    tasks: tuple[int, ...]
    batch: tuple[int, ...]
    rank: int
    experts: int
    backbone: str
    blocks: int
    provider: Provider
    precision: str
    opset: int
    threads: int
    rounds: int
    memory_limit_mib: int
    seed: int

    def problems(self) -> list[str]:
        """Values that cannot be measured."""
        found = []
        if min((*self.tasks, *self.batch, self.experts, self.rank, self.rounds)) < 1 or self.blocks < 0:
            found.append("numbers of tasks, images, experts, rounds and the rank must be at least 1, blocks at least 0")
        elif self.rank % self.experts:
            found.append(f"--rank must be a multiple of --experts ({self.experts}), got {self.rank}")
        if self.precision == "fp16" and self.provider == "cpu":
            found.append("--precision fp16 needs --provider cuda: half-precision graphs can crash on the CPU")
        return found


class Bench:
    """The graphs of one backbone, and the measuring of them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Write the graphs into `folder` and open a session of each.

        Raises:
            UserError: unknown backbone, or the provider cannot be had.
        """
        self.settings = settings
        self.provider = choose_provider(settings.provider)
        backbone = load_backbone(settings.backbone, None if settings.backbone in (NANO, DEBUG) else RANDOM)
        if settings.blocks:
            transformer = backbone.clip.visual.transformer
            transformer.resblocks = transformer.resblocks[: settings.blocks]
            backbone.vision_depth = len(transformer.resblocks)
        self.depth = backbone.vision_depth
        self.size = backbone.preprocess.size
        self.tokens: int = backbone.clip.visual.positional_embedding.shape[0]
        self.expert_rank = settings.rank // settings.experts
        half = settings.precision == "fp16"
        self.stacks = random_stacks(
            backbone, tasks=max(settings.tasks), experts=settings.experts, rank=self.expert_rank, seed=settings.seed
        )
        write_graphs(backbone, self.stacks, self.expert_rank, folder, opset=settings.opset, half=half)
        if half:
            self.stacks = {name: value.astype(np.float16) for name, value in self.stacks.items()}
        self.sessions = {name: self._session(folder / f"{name}.onnx") for name in GRAPHS}

    def _session(self, path: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.settings.threads
        # Each session has its threads: those of the last one must not spin while the next one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = [CPU] if self.provider == CPU else [self.provider, CPU]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if session.get_providers()[0] != self.provider:
            raise RuntimeError(f"{path.name} was to run on {self.provider}, got {session.get_providers()}.")
        return session

    def masked_mib(self, tasks: int, batch: int) -> float:
        """Memory of the masked form's inner activations, before and after the mask."""
        itemsize = 2 if self.settings.precision == "fp16" else 4
        return 2 * batch * self.tokens * (tasks + 1) * self.settings.rank * itemsize / 2**20

    def measure(self, tasks: int) -> list[Measurement]:
        """All forms at every batch size, with `tasks` tasks."""
        device = "cuda" if self.provider == CUDA else "cpu"
        slices = [*range(tasks), -1]
        stacks = {name: np.ascontiguousarray(value[slices]) for name, value in self.stacks.items()}
        graphs = {name: BoundGraph(self.sessions[name], {}, device) for name in ("plain", "widened")}
        graphs.update({name: BoundGraph(self.sessions[name], stacks, device) for name in ("gather", "common")})
        if any(self.masked_mib(tasks, batch) <= self.settings.memory_limit_mib for batch in self.settings.batch):
            rows = masked_stacks(stacks, self.expert_rank)
            graphs["masked"] = BoundGraph(self.sessions["masked"], rows, device)
        return [row for batch in self.settings.batch for row in self._measure(graphs, tasks, batch)]

    def _skipped(self, tasks: int, batch: int, groups: int) -> dict[str, str]:
        reasons = {}
        if tasks != min(self.settings.tasks):
            reasons.update({"plain again": "see the fewest tasks", "widened": "see the fewest tasks"})
        if groups == 1:
            reasons["grouped"] = "one task: as common"
        needed = self.masked_mib(tasks, batch)
        if needed > self.settings.memory_limit_mib:
            reasons["masked"] = f"needs {needed:.0f} MiB a block"
        return reasons

    def _measure(self, graphs: dict[str, BoundGraph], tasks: int, batch: int) -> list[Measurement]:
        random = np.random.default_rng([self.settings.seed, tasks, batch])
        images = random.integers(0, 256, (batch, self.size, self.size, 3), dtype=np.uint8)
        mixed = random.integers(0, tasks, batch)
        own, zero = np.full(batch, mixed[0]), np.zeros(batch, np.int64)
        groups = len(set(mixed.tolist()))
        skipped = self._skipped(tasks, batch, groups)
        runs: dict[str, Run] = {
            "gather": lambda: graphs["gather"](images, mixed),
            "common": lambda: graphs["common"](images, own),
            "widened": lambda: graphs["widened"](images, zero),
            "grouped": lambda: run_grouped(graphs["common"], images, mixed),
            "masked": lambda: graphs["masked"](images, mixed),
        }
        runs = {form: run for form, run in runs.items() if form not in skipped}
        of_tasks = {"common": own, "widened": zero}
        known: dict[bytes, Features] = {}
        gathered = {}
        for form in runs:
            task = of_tasks.get(form, mixed)
            if task.tobytes() not in known:
                known[task.tobytes()] = graphs["gather"](images, task)
            gathered[form] = known[task.tobytes()]

        def plain() -> Features:
            return graphs["plain"](images, zero)

        others = {form: run for form, run in runs.items() if form != "gather"}
        differences = check_forms(others, gathered, plain(), TOLERANCE[self.settings.precision])
        timed = {"plain": plain, **({} if "plain again" in skipped else {"plain again": plain}), **runs}
        rounds = rounds_at(batch, self.settings.rounds)
        times = time_rounds(timed, rounds, random)
        rows = []
        for form in FORMS:
            if form in skipped:
                rows.append(Measurement(form=form, tasks=tasks, batch=batch, groups=groups, skipped=skipped[form]))
                continue
            ratio, low, high = paired_ratio(times[form], times["plain"])
            rows.append(
                Measurement(
                    form=form,
                    tasks=tasks,
                    batch=batch,
                    groups=groups,
                    rounds=rounds,
                    milliseconds=float(np.median(times[form])),
                    plain_milliseconds=float(np.median(times["plain"])),
                    ratio=ratio,
                    low=low,
                    high=high,
                    difference=differences.get(form),
                )
            )
        return rows
