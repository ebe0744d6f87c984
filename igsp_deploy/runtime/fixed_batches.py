"""Batches of a few fixed sizes in buffers that stay where they are: what a CUDA graph needs to be captured once.

A call is padded to the next size; larger calls are cut. onnxruntime captures a graph at the first runs with an id of
its own for each size, and replays it afterwards, without launching the kernels one by one.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from igsp_deploy.errors import UserError
from igsp_deploy.runtime.graph import Graph, Values, first_line

_graph_ids = itertools.count(1)
"""Ids of captured graphs; one is never used twice in a process."""


@dataclass
class _Batch:
    """Buffers of one size, in use by one call at a time."""

    lock: Any
    binding: Any
    inputs: Values
    run_options: Any


class FixedBatches:
    """Runs a graph with one set of stacks in batches of fixed sizes."""

    def __init__(self, graph: Graph, stacks: Values, sizes: Sequence[int], *, capture: bool) -> None:
        """Prepare; buffers of a size are made when it is first needed.

        Args:
            graph: with inputs whose first dimension is the batch.
            stacks: what `graph.bind` gave.
            sizes: batch sizes.
            capture: let onnxruntime capture a CUDA graph a size (the session must allow it).

        Raises:
            UserError: no size, or one that is not positive.
        """
        if not sizes or min(sizes) < 1:
            raise UserError(f"batch sizes must be positive numbers, got {list(sizes)}.")
        self._graph = graph
        self._stacks = stacks
        self._sizes = sorted(set(sizes))
        self._capture = capture
        self._batches: dict[int, _Batch] = {}
        self._making = threading.Lock()

    def run(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs of the graph, in order, for any number of rows."""
        rows = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, rows, self._sizes[-1]):
            parts.append(self._part({name: array[start : start + self._sizes[-1]] for name, array in inputs.items()}))
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)]

    def _part(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        rows = len(next(iter(inputs.values())))
        size = next(size for size in self._sizes if size >= rows)
        padded = {
            # The last row again: any valid values will do.
            name: np.concatenate([array, np.repeat(array[-1:], size - rows, axis=0)]) if size > rows else array
            for name, array in inputs.items()
        }
        batch = self._batch(size, padded)
        with batch.lock:
            for name, array in padded.items():
                batch.inputs[name].update_inplace(np.ascontiguousarray(array))
            try:
                self._graph.session.run_with_iobinding(batch.binding, batch.run_options)
            except Exception as error:
                if not self._capture:
                    raise
                raise UserError(
                    f"onnxruntime cannot run {self._graph.path} as a CUDA graph ({first_line(error)}). Do without it."
                ) from error
            return [np.array(value[:rows]) for value in batch.binding.copy_outputs_to_cpu()]

    def _batch(self, size: int, example: dict[str, NDArray[Any]]) -> _Batch:
        with self._making:
            if size not in self._batches:
                self._batches[size] = self._make(example)
            return self._batches[size]

    def _make(self, example: dict[str, NDArray[Any]]) -> _Batch:
        device = self._graph.device
        inputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array), device, 0)
            for name, array in example.items()
        }
        binding = self._graph.session.io_binding()
        for name, value in (*self._stacks.items(), *inputs.items()):
            binding.bind_ortvalue_input(name, value)
        if self._capture:
            # One run to learn the outputs' shapes; then they get buffers that stay.
            with self._graph.capture_lock:
                outputs = self._graph.run(example, self._stacks, run_options=_run_options(-1))
            for name, array in zip(self._graph.outputs, outputs, strict=True):
                binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
        else:
            for name in self._graph.outputs:
                binding.bind_output(name, device)
        options = _run_options(next(_graph_ids)) if self._capture else None
        lock = self._graph.capture_lock if self._capture else threading.Lock()
        return _Batch(lock=lock, binding=binding, inputs=inputs, run_options=options)


def _run_options(graph_id: int) -> Any:
    """Which captured graph a run is; -1 runs without capturing."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
