"""One ONNX graph in one onnxruntime session, its stacks kept on the device. Any number of threads may run it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from igsp_deploy.bundle.manifest import REMEDY
from igsp_deploy.bundle.stacks import Stacks, is_stack
from igsp_deploy.errors import UserError
from igsp_deploy.runtime import bfloat16
from igsp_deploy.runtime.providers import CPU, CUDA, TENSORRT

Values = dict[str, Any]
"""Name of a graph's input -> an `OrtValue` on the graph's device."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How graphs are run.

    Attributes:
        provider: execution provider, verified.
        num_threads: CPU threads of one operator; 0 lets onnxruntime decide.
        spinning: CPU threads wait for work by spinning: lower latency, but they burn the core meanwhile.
        optimize: let onnxruntime optimise the graph.
        cuda_graph: capture CUDA graphs.
        engine_cache: where TensorRT keeps the engines it builds.
        profile: write onnxruntime's profile to a file with this prefix.
    """

    provider: str = CPU
    num_threads: int = 0
    spinning: bool = True
    optimize: bool = True
    cuda_graph: bool = False
    engine_cache: Path | None = None
    profile: str | None = None


def provider_list(settings: SessionSettings) -> list[Any]:
    """What an `InferenceSession` is given as `providers`: the one wanted, then those for the rest of the graph."""
    # By default float32 products are made in TF32, with 10 bits: less than the gate allows, and the selector's numbers
    # and a folded graph's classes are in float32 in every precision.
    full = {"use_tf32": "0"}
    if settings.provider == TENSORRT:
        options = {"trt_fp16_enable": "0"}  # the graphs say themselves what is in half precision
        if settings.engine_cache is not None:
            cache = {
                "trt_engine_cache_path": str(settings.engine_cache),
                "trt_timing_cache_path": str(settings.engine_cache),
            }
            options |= {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1", **cache}
        return [(TENSORRT, options), (CUDA, full), CPU]
    cuda = (CUDA, full | ({"enable_cuda_graph": "1"} if settings.cuda_graph else {}))
    return [cuda, CPU] if settings.provider == CUDA else [settings.provider]


def session_options(settings: SessionSettings) -> Any:
    """onnxruntime's `SessionOptions`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = settings.num_threads
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if settings.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile
    return options


class Graph:
    """A session of one file.

    Attributes:
        path: the file.
        device: `cpu` or `cuda`: where stacks are kept.
        stacks: names of the stacks it takes.
        capture_lock: held by a run that captures or replays a CUDA graph; onnxruntime allows one at a time.
    """

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        """Load the file.

        Raises:
            UserError: onnxruntime cannot load it, or gives another provider than the one asked for.
        """
        self.path = path
        self.capture_lock = threading.Lock()
        self.device = "cpu" if settings.provider == CPU else "cuda"
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), session_options(settings), providers=provider_list(settings)
            )
        except Exception as error:
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} cannot load {path} ({first_line(error)}). {REMEDY}"
            ) from error
        got = self.session.get_providers()
        if got[0] != settings.provider:
            raise UserError(f"{path} was to run on {settings.provider}, but onnxruntime gave {', '.join(got)}.")
        self.outputs = [value.name for value in self.session.get_outputs()]
        # Up to format 3 of bundles, stacks had defaults.
        inputs = (*self.session.get_inputs(), *self.session.get_overridable_initializers())
        self._stacks = [value for value in inputs if is_stack(value.name)]
        self.stacks = [value.name for value in self._stacks]
        self._bfloat16 = {value.name for value in self._stacks if value.type == "tensor(bfloat16)"}

    def shapes(self) -> dict[str, list[Any]]:
        """Name of every input and output -> its shape; free dimensions are names."""
        return {value.name: value.shape for value in (*self.session.get_inputs(), *self.session.get_outputs())}

    def stack_shapes(self) -> dict[str, list[Any]]:
        """Name of every stack -> its shape in the graph; free dimensions are names or formulas, as `16*experts_0`."""
        return {value.name: value.shape for value in self._stacks}

    def bind(self, stacks: Stacks) -> Values:
        """Put stacks on the device, once for all runs with them.

        Raises:
            UserError: the graph takes others.
        """
        if sorted(stacks) != sorted(self.stacks):
            odd = sorted(set(stacks) ^ set(self.stacks))
            raise UserError(f"{self.path} and the experts beside it are of different models ({odd[0]}). {REMEDY}")
        return {name: self._value(name, stack) for name, stack in stacks.items()}

    def _value(self, name: str, stack: NDArray[Any]) -> Any:
        if name in self._bfloat16:
            return bfloat16.ortvalue(stack)
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(stack), self.device, 0)

    def run(self, inputs: dict[str, NDArray[Any]], stacks: Values, *, run_options: Any = None) -> list[NDArray[Any]]:
        """All outputs, in order, for `inputs` and the stacks that `bind` gave."""
        binding = self.session.io_binding()
        for name, value in stacks.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding, run_options)
        results: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return results


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
