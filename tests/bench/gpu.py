"""Everything that is to be known of a GPU, measured in one go; OUT/README.md holds the tables.

    python -m tests.bench.gpu OUT                                         # ViT-B/16, 11 tasks; about half an hour
    python -m tests.bench.gpu OUT --device cpu --backbone debug --quick   # the same way without a GPU, to try it out

Each step is a command in a process of its own, with its output in OUT. One that fails is said, and the others go on.
While a step runs, the GPU's memory is read twice a second.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGSP = (sys.executable, "-m", "igsp_deploy.cli.main")
PYTHON = (sys.executable, "-m")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command and what it is for."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended."""

    step: Step
    code: int
    seconds: float
    peak_mib: int | None


def steps(out: Path, device: str, backbone: str, quick: bool) -> list[Step]:
    """All steps, in their order."""
    model = str(out / "model")
    precisions = ("fp32",) if device == "cpu" else ("fp32", "fp16", "bf16")
    batches = ("1", "2") if quick else ("1", "8", "32", "256")
    tasks = "2" if quick else "11"
    duration = ("--rounds", "2") if quick else ("--seconds", "15")
    found = [
        Step(
            name="model",
            command=(*PYTHON, "tests.bench.make_model", model, "--backbone", backbone, "--tasks", tasks),
        )
    ]
    for precision in precisions:
        bundle = str(out / f"bundle-{precision}")
        found.append(  # its parity gate is the parity on this device
            Step(name=f"export {precision}", command=(*IGSP, "export", model, bundle, "--precision", precision))
        )
        sizes = [part for size in batches for part in ("--batch", size)]
        options = ["--provider", device, "--model", model, "--out", str(out / f"bench-{precision}"), *duration, *sizes]
        compiled = ["--compile"] if precision == "fp16" else []
        found.append(Step(name=f"bench {precision}", command=(*IGSP, "bench", bundle, *options, *compiled)))
        captured = (*PYTHON, "tests.bench.captured", bundle, "--provider", device)
        found.append(Step(name=f"CUDA graph {precision}", command=captured))
    bundle = str(out / "bundle-fp32")
    found.append(
        Step(
            name="add a task live",
            command=(
                *PYTHON,
                "tests.bench.live_tasks",
                bundle,
                "--provider",
                device,
                "--times",
                "2" if quick else "10",
            ),
        )
    )
    for precision in ("fp32", "bf16"):
        speed = (*PYTHON, "tests.bench.learning_speed", "--device", device, "--precision", precision)
        small = ("--model", "debug", "--batch", "4", "--rounds", "1", "--only", "igsp fresh")
        size = small if quick else ("--batch", "64", "--rounds", "5")
        found.append(Step(name=f"learning {precision}", command=(*speed, *size)))
    return found


def run(step: Step, out: Path) -> Outcome:
    """Run one step; its output goes to a file."""
    started, peak = time.monotonic(), None
    with (out / f"{step.name.replace(' ', '-')}.log").open("w") as log:
        process = subprocess.Popen(step.command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.5)
            used = gpu_memory_mib()
            peak = used if peak is None else max(peak, used or 0)
    return Outcome(step=step, code=process.returncode, seconds=time.monotonic() - started, peak_mib=peak)


def gpu_memory_mib() -> int | None:
    """Memory in use on the first GPU; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return int(asked.stdout.split()[0]) if asked.returncode == 0 and asked.stdout.strip() else None


def report(out: Path, outcomes: list[Outcome]) -> str:
    """The tables, as markdown: how each step ended, every bench, and the ends of the other logs."""
    lines = ["# Measured on a GPU", "", "| step | ended | seconds | peak memory, MiB |", "|---|---|---|---|"]
    for one in outcomes:
        ended = "well" if one.code == 0 else f"with code {one.code}"
        lines.append(f"| {one.step.name} | {ended} | {one.seconds:.0f} | {one.peak_mib or '-'} |")
    for path in sorted(out.glob("bench-*/bench.json")):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lines += ["", f"## {path.parent.name}: {json.dumps(found['machine'])}", ""]
        lines += [(path.parent / "bench.md").read_text(encoding="utf-8").rstrip()]
    for one in outcomes:
        log = (out / f"{one.step.name.replace(' ', '-')}.log").read_text(encoding="utf-8", errors="replace")
        lines += ["", f"## {one.step.name}", "", "```", "\n".join(log.splitlines()[-30:]), "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all steps; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backbone", default="ViT-B-16", help="open_clip name (random weights), nano or debug")
    parser.add_argument("--quick", action="store_true", help="two tasks and few rounds: to try the script out")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    outcomes: list[Outcome] = []
    for step in steps(options.out, options.device, options.backbone, options.quick):
        print(f"{step.name}: {' '.join(step.command[1:])}", file=sys.stderr, flush=True)
        outcomes.append(run(step, options.out))
        # After every step: a lease can end at any moment.
        (options.out / "README.md").write_text(report(options.out, outcomes), encoding="utf-8")
    print(options.out / "README.md")
    return 0 if all(one.code == 0 for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
