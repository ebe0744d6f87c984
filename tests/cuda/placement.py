"""Where onnxruntime's CUDA provider would run a graph's nodes, asked on a machine without a GPU.

    python -m tests.cuda.placement GRAPH.onnx [--cuda-graph]

A stand-in for the driver lets the provider's library load, and a preloaded one for the first calls of the CUDA runtime
lets a session partition its graph. The session fails at its first kernel; by then the log tells every node's provider,
the copies between them, and whether CUDA-graph capture was accepted. Nothing is computed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

SESSION = """
import sys, onnxruntime
onnxruntime.preload_dlls()
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
cuda = {"use_tf32": "0"}
if sys.argv[2] == "capture":
    cuda["enable_cuda_graph"] = "1"
onnxruntime.InferenceSession(
    sys.argv[1], options, providers=[("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
)
"""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the nodes of a graph would run.

    Attributes:
        cuda: operator -> number of nodes on the GPU.
        cpu: the same for the CPU.
        copies: names of the copies between the two.
        capture_refused: why CUDA-graph capture was refused; None if it was not asked for, or was accepted.
    """

    cuda: dict[str, int]
    cpu: dict[str, int]
    copies: list[str]
    capture_refused: str | None

    def __str__(self) -> str:
        """A table for people."""
        parts = [f"{sum(count.values())} nodes on {name}: {_counts(count)}" for name, count in self._providers()]
        return "\n".join([*parts, f"{len(self.copies)} copies: {', '.join(self.copies) or 'none'}"])

    def _providers(self) -> list[tuple[str, dict[str, int]]]:
        return [("CUDA", self.cuda), ("the CPU", self.cpu)]


def missing() -> str | None:
    """What this machine lacks to ask; None if it can."""
    import importlib.metadata

    if shutil.which("gcc") is None:
        return "gcc is not installed"
    for package in ("onnxruntime-gpu", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-curand"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"the package {package} is not installed"
    return None


def place(graph: Path, *, capture: bool = False) -> Placement:
    """Ask the CUDA provider for its placement of `graph`.

    Args:
        graph: an ONNX file.
        capture: ask for CUDA-graph capture too.

    Raises:
        RuntimeError: the provider could not be asked; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for source, library in (("driver.c", "libcuda.so.1"), ("runtime.c", "libstandin.so")):
            command = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", f"{scratch}/{library}"]
            subprocess.run([*command, str(HERE / source)], check=True)
        environment = {**os.environ, "LD_PRELOAD": f"{scratch}/libstandin.so", "LD_LIBRARY_PATH": scratch}

        def ask(how: str) -> str:
            command = [sys.executable, "-c", SESSION, str(graph), how]
            asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
            return asked.stdout + asked.stderr

        log = ask("capture" if capture else "")
        refused = re.search(r"cannot use the graph capture feature[^\n]*", log)
        # A refusal comes before the placement is logged.
        return _read(ask("") if refused else log, refused[0] if refused else None)


def _read(log: str, capture_refused: str | None) -> Placement:
    """Take the placement from a session's log."""
    placed = [line for line in log.splitlines() if "VerifyEachNodeIsAssignedToAnEp" in line]
    if not placed:
        raise RuntimeError("onnxruntime's CUDA provider did not say where it places the nodes:\n" + log[-2000:])
    nodes: dict[str, Counter[str]] = {"CUDA": Counter(), "CPU": Counter()}
    current: Counter[str] | None = None
    for line in placed:
        if found := re.search(r"placed on \[(\w+)ExecutionProvider\]\. Number of nodes: (\d+)", line):
            current = nodes[found[1]]
            if "All nodes" in line:  # which are not listed then
                current["of any kind"] = int(found[2])
        elif current is not None and (found := re.search(r"\]\s+(\w+) \(", line)):
            current[found[1]] += 1
    return Placement(
        cuda=dict(nodes["CUDA"]),
        cpu=dict(nodes["CPU"]),
        copies=re.findall(r"Add (Memcpy\w+ \w+ \S+) for", log),
        capture_refused=capture_refused,
    )


def _counts(count: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(count.items(), key=lambda pair: -pair[1]))


def main() -> None:
    """Print the placement of one graph; exit 1 where copies stand in the way."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.placement", description=__doc__.split("\n")[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("--cuda-graph", action="store_true", help="ask for CUDA-graph capture too")
    options = parser.parse_args()
    if (reason := missing()) is not None:
        sys.exit(f"cannot ask: {reason}")
    placement = place(options.graph, capture=options.cuda_graph)
    print(placement)
    if options.cuda_graph:
        print(f"CUDA graph: {placement.capture_refused or 'accepted'}")
    sys.exit(1 if placement.copies or placement.capture_refused else 0)


if __name__ == "__main__":
    main()
