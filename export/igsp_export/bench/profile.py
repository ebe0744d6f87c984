"""Which nodes of a graph ran where, and for how long: from onnxruntime's own profile."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.graph import Graph, SessionSettings


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """One kind of node on one execution provider.

    Attributes:
        graph: file of the graph.
        provider: execution provider the nodes ran on.
        operator: type of the nodes.
        nodes: how many.
        milliseconds: all of them together, in one run (mean).
        share: of the graph's time, in [0, 1].
    """

    graph: str
    provider: str
    operator: str
    nodes: int
    milliseconds: float
    share: float


def profile_images(
    engine: Engine, settings: SessionSettings, images: NDArray[np.uint8], task: NDArray[np.int64], runs: int = 5
) -> list[OperatorTime]:
    """Profile the bundle's image graph in a session of its own.

    Args:
        engine: the open bundle.
        settings: of its sessions.
        images: uint8 `[B, S, S, 3]`.
        task: `[B]`.
        runs: how many, after two that are not counted.

    Returns:
        Longest first.
    """
    tasks, name = engine.tasks.task_set, engine.variant.image
    inputs: dict[str, NDArray[Any]] = {"images": images, "task": task}
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(engine.folder / name, replace(settings, profile=str(Path(folder) / "profile")))
        bound = graph.bind(tasks.image | tasks.selector.stacks())
        for _ in range(2 + runs):
            graph.run(inputs, bound)
        events = json.loads(Path(graph.session.end_profiling()).read_text(encoding="utf-8"))
    return operator_times(name, events, skip=2)


def operator_times(graph: str, events: Sequence[Mapping[str, Any]], skip: int = 0) -> list[OperatorTime]:
    """Sum the nodes' times of a profile by provider and type of node.

    Args:
        graph: name for the rows.
        events: of onnxruntime's JSON file.
        skip: runs at the start that are not counted.
    """
    kernels = [e for e in events if e.get("cat") == "Node" and str(e.get("name", "")).endswith("_kernel_time")]
    seen: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in sorted(kernels, key=lambda e: float(e["ts"])):
        key = (str(event["args"].get("provider", "")), str(event["args"].get("op_name", "")), str(event["name"]))
        seen[key].append(float(event["dur"]))
    totals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (provider, operator, _), times in seen.items():
        counted = times[skip:] or times
        totals[provider, operator].append(sum(counted) / len(counted) / 1000.0)
    whole = sum(sum(times) for times in totals.values()) or 1.0
    rows = [
        OperatorTime(
            graph=graph,
            provider=provider,
            operator=operator,
            nodes=len(times),
            milliseconds=sum(times),
            share=sum(times) / whole,
        )
        for (provider, operator), times in totals.items()
    ]
    return sorted(rows, key=lambda row: -row.milliseconds)
