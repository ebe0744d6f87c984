"""One measurement of a bundle: open what is compared, see that all agree, time them side by side."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from igsp_deploy.bundle.manifest import read_manifest
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.graph import SessionSettings
from igsp_deploy.runtime.providers import Provider, choose_provider
from igsp_export.bench.graphs import (
    Embed,
    compiled_module,
    eager_module,
    has_compiler,
    open_clip_embed,
    open_learned,
    plain_session,
    torch_embed,
)
from igsp_export.bench.machine import Machine, describe_machine
from igsp_export.bench.profile import OperatorTime, profile_images
from igsp_export.bench.timing import Ratio, interleave, paired_ratio
from igsp_export.graphs import DTYPES
from igsp_export.images import synthetic_images

BATCHES = (1, 8, 32)
"""Batch sizes measured unless others are asked for."""
SECONDS = 20.0
"""Time for one batch size, in seconds."""
ALONE, SLICE = "plain CLIP alone", "plain CLIP in the graph"
NAMED, MIXED, CHOSEN = "one named task", "mixed tasks", "task chosen"
OPEN_CLIP = "open_clip, plain CLIP"
EAGER_NAMED, EAGER_MIXED, COMPILED = "PyTorch, named task", "PyTorch, mixed tasks", "torch.compile, mixed"
AGREEMENT = {"fp32": 1e-3, "fp16": 5e-2}
"""Largest difference of a feature between candidates that are timed against each other, by precision."""
LOOSE = 0.2
"""The same for any other precision."""
Run = Callable[[], NDArray[np.float32]]
"""Embeds a batch once."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One candidate at one batch size.

    Attributes:
        candidate: what was run.
        batch: images a call.
        rounds: calls that were timed.
        median_ms: milliseconds a call.
        p10_ms: a tenth of the calls were faster.
        p90_ms: a tenth of the calls were slower.
        images_per_s: at the median.
        ratio: to the base, paired within rounds.
    """

    candidate: str
    batch: int
    rounds: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    images_per_s: float
    ratio: Ratio


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All of a run.

    Attributes:
        machine: where.
        backbone: of the bundle.
        image_size: side of an image in pixels.
        num_tasks: tasks of the bundle.
        precision: of the graphs.
        opset: of the graphs.
        base: candidate that the ratios are to.
        measurements: batch by batch.
        agreement: comparison -> largest difference of a feature.
        profile: nodes by provider and type; empty unless asked for.
        notes: what was not measured, and why.
        seconds: the whole run took.
    """

    machine: Machine
    backbone: str
    image_size: int
    num_tasks: int
    precision: str
    opset: int
    base: str
    measurements: tuple[Measurement, ...]
    agreement: dict[str, float]
    profile: tuple[OperatorTime, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def run_bench(
    bundle: Path,
    model: Path | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int | None = None,
    seconds: float = SECONDS,
    provider: Provider = "auto",
    precision: str | None = None,
    threads: int = 0,
    compiled: bool = False,
    profile: bool = False,
    seed: int = 0,
    console: Console | None = None,
) -> Bench:
    """Measure a bundle on this machine.

    Args:
        bundle: the bundle.
        model: the model folder it was made of; with it plain CLIP alone and PyTorch are measured too.
        batches: batch sizes.
        rounds: rounds a batch size; None measures for `seconds`.
        seconds: time a batch size, warm-up not counted.
        provider: where to run.
        precision: graphs to take; None takes what the engine would.
        threads: CPU threads of one operator in both runtimes; 0 takes PyTorch's default, one a core.
        compiled: measure torch.compile too; needs `model`.
        profile: count the graphs' nodes and their times, at the largest batch size.
        seed: of the images and of the order within rounds.
        console: where progress goes; stderr by default.

    Raises:
        UserError: bad numbers, no or a damaged bundle, another model's, no such provider, or candidates that differ.
    """
    _check(batches, rounds, seconds, threads, compiled and model is None)
    console = console or Console(stderr=True)
    started, before = time.monotonic(), torch.get_num_threads()
    threads = threads or before
    sizes = sorted(set(batches))
    torch.set_num_threads(threads)
    try:
        compared = _open(bundle, model, provider, precision, threads, compiled)
        engine, manifest, used = compared.engine, compared.engine.manifest, compared.engine.variant.precision
        base = SLICE if compared.plain is None else ALONE
        everything = synthetic_images(sizes[-1], manifest.preprocess.size, seed=seed)
        measurements: list[Measurement] = []
        agreement: dict[str, float] = {}
        for batch in sizes:
            console.print(f"measuring batches of {batch}", markup=False, highlight=False)
            candidates = compared.candidates(np.ascontiguousarray(everything[:batch]))
            _agree(candidates, used, agreement)
            found = interleave(candidates, rounds=rounds, seconds=seconds, seed=seed)
            measurements += [_measurement(name, batch, found[name], found[base]) for name in candidates]
        rows: Sequence[OperatorTime] = ()
        if profile:
            mixed = _asked(len(everything), len(manifest.tasks))[MIXED]
            rows = profile_images(engine, compared.settings, everything, mixed)
        return Bench(
            machine=describe_machine(engine.provider, threads),
            backbone=manifest.backbone.name,
            image_size=manifest.preprocess.size,
            num_tasks=len(manifest.tasks),
            precision=used,
            opset=manifest.opset,
            base=base,
            measurements=tuple(measurements),
            agreement=agreement,
            profile=tuple(rows),
            notes=tuple(compared.notes),
            seconds=time.monotonic() - started,
        )
    finally:
        torch.set_num_threads(before)


def latency_table(
    bundle: Path, model: Path, *, batches: Sequence[int] = (1,), rounds: int = 15, console: Console | None = None
) -> Bench | str:
    """The short measurement at the end of an export: every way of asking against plain CLIP alone.

    Returns:
        What was measured, or why nothing was: graphs of a provider this machine does not have are no error.
    """
    manifest = read_manifest(bundle)
    provider = choose_provider("auto")
    if not any(provider in variant.providers for variant in manifest.variants):
        return f"latency was not measured: no graph of the bundle may run on {provider}."
    return run_bench(bundle, model, batches=batches, rounds=rounds, console=console)


def _check(batches: Sequence[int], rounds: int | None, seconds: float, threads: int, no_model: bool) -> None:
    if not batches or min(batches) < 1:
        raise UsageError(f"--batch must be at least 1, got {', '.join(map(str, batches)) or 'none'}.")
    if rounds is not None and rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}.")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds must be positive, got {seconds:g}.")
    if threads < 0:
        raise UsageError(f"--threads must be at least 1, or 0 for one a core, got {threads}.")
    if no_model:
        raise UsageError("--compile needs the model the bundle was made of: add --model MODEL.")


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What is timed side by side, opened once.

    Attributes:
        engine: the bundle.
        settings: of its sessions.
        plain: plain CLIP's own graph; None where there is none.
        module: the model in PyTorch, with all tasks; None without the model folder.
        open_clip: open_clip's own image tower; None without the model folder.
        compiled: time torch.compile too.
        notes: what is not measured, and why; grows.
    """

    engine: Engine
    settings: SessionSettings
    plain: Embed | None
    module: nn.Module | None
    open_clip: Embed | None
    compiled: bool
    notes: list[str]

    def candidates(self, images: NDArray[np.uint8]) -> dict[str, Run]:
        """Calls that embed a batch, by name."""
        asked = _asked(len(images), len(self.engine.manifest.tasks))
        ours = lambda images, task: self.engine.run_images(images, task).features  # noqa: E731
        found = {name: _bound(ours, images, task) for name, task in asked.items()}
        if self.plain is not None:
            found[ALONE] = _bound(self.plain, images, asked[SLICE])
        if self.module is not None and self.open_clip is not None:
            found[OPEN_CLIP] = _bound(self.open_clip, images, asked[SLICE])
            eager = torch_embed(self.module)
            found[EAGER_NAMED] = _bound(eager, images, asked[NAMED])
            found[EAGER_MIXED] = _bound(eager, images, asked[MIXED])
            if self.compiled:
                call = _bound(torch_embed(compiled_module(self.module)), images, asked[MIXED])
                try:
                    call()
                    found[COMPILED] = call
                except Exception as error:  # whatever stops the compiler: the rest is worth measuring
                    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    self.notes.append(f"{COMPILED}: not measured at batch {len(images)}, it failed ({reason})")
        return found


def _open(
    bundle: Path, model: Path | None, provider: Provider, precision: str | None, threads: int, compiled: bool
) -> _Compared:
    engine = Engine.open(bundle, provider, precision=precision, num_threads=threads)
    manifest, used = engine.manifest, engine.variant.precision
    settings = SessionSettings(provider=engine.provider, num_threads=threads)
    notes: list[str] = []
    plain: Embed | None = None
    module, open_clip = None, None
    if model is not None:
        folder, learned = open_learned(model, manifest)
        module = eager_module(folder, learned, used, engine.provider)
        open_clip = open_clip_embed(learned.backbone, used, engine.provider)
        if used in DTYPES:
            graph = plain_session(learned.backbone, used, manifest.opset, settings)
            plain = lambda images, task: graph.run({"images": images}, {})[0]  # noqa: E731
        else:
            notes.append(f"{ALONE}: no such graph in {used}; the ratios are to {SLICE}")
    else:
        notes.append(f"{ALONE} and PyTorch: not measured without --model; the ratios are to {SLICE}")
    if compiled and not has_compiler(engine.provider):
        notes.append(f"{COMPILED}: not measured, there is no C++ compiler (g++, c++ or clang++) here")
        compiled = False
    return _Compared(
        engine=engine,
        settings=settings,
        plain=plain,
        module=module,
        open_clip=open_clip,
        compiled=compiled,
        notes=notes,
    )


def _asked(batch: int, total: int) -> dict[str, NDArray[np.int64]]:
    """Way of asking -> task of each image `[B]`."""
    return {
        SLICE: np.full(batch, PLAIN, np.int64),
        NAMED: np.full(batch, 0, np.int64),
        # From the last task down, so that a batch of one is not the named task again.
        MIXED: (total - 1 - np.arange(batch, dtype=np.int64)) % total,
        CHOSEN: np.full(batch, AUTO, np.int64),
    }


def _bound(embed: Embed, images: NDArray[np.uint8], task: NDArray[np.int64]) -> Run:
    return lambda: embed(images, task)


def _agree(candidates: dict[str, Run], precision: str, found: dict[str, float]) -> None:
    """Compare candidates that must give the same, and keep the largest difference of each pair.

    Raises:
        UserError: names the pair that differs.
    """
    allowed = AGREEMENT.get(precision, LOOSE)
    pairs = [(SLICE, ALONE), (SLICE, OPEN_CLIP), (NAMED, EAGER_NAMED), (MIXED, EAGER_MIXED), (MIXED, COMPILED)]
    for ours, theirs in pairs:
        if ours not in candidates or theirs not in candidates:
            continue
        gap = np.abs(candidates[ours]().astype(np.float64) - candidates[theirs]())
        difference = float(np.nan_to_num(gap, nan=np.inf).max())
        if difference > allowed:
            raise UserError(
                f"{ours} and {theirs} differ by {difference:.2g} in a feature (allowed {allowed:g} in {precision}); "
                "their times would not be of the same thing. Check the bundle with `igsp verify`, and make it anew."
            )
        pair = f"{ours} / {theirs}"
        found[pair] = max(difference, found.get(pair, 0.0))


def _measurement(name: str, batch: int, ours: NDArray[np.float64], base: NDArray[np.float64]) -> Measurement:
    p10, median, p90 = np.percentile(ours, [10.0, 50.0, 90.0]).tolist()
    return Measurement(
        candidate=name,
        batch=batch,
        rounds=len(ours),
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        images_per_s=1000.0 * batch / median,
        ratio=paired_ratio(ours, base),
    )
