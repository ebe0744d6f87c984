"""How long a running engine takes to add a task, and what those notice who classify meanwhile.

    python -m tests.bench.live_tasks BUNDLE --times 10 --threads 1

The bundle's last task is removed and added again, over and over, while one thread classifies single images without a
pause. The time of its calls is told apart: those during which a task was added, and the others.
"""

import argparse
import statistics
import threading
import time
from pathlib import Path

import numpy as np

from igsp_deploy.names import AUTO
from igsp_deploy.runtime.engine import Engine
from igsp_export.bench.machine import describe_machine
from igsp_export.images import synthetic_images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of onnxruntime: leave one to the adding")
    parser.add_argument("--provider", default="cpu")
    options = parser.parse_args()
    engine = Engine.open(options.bundle, options.provider, num_threads=options.threads, spinning=False)
    image = synthetic_images(1, engine.manifest.preprocess.size)
    task = np.array([AUTO], np.int64)
    calls: list[tuple[float, float]] = []
    stop = threading.Event()

    def classify() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            engine.run_images(image, task)
            calls.append((begun, time.monotonic()))

    worker = threading.Thread(target=classify)
    worker.start()
    name, adding = engine.tasks.task_set.names()[-1], []
    time.sleep(5)
    for _ in range(options.times):
        engine.remove_task(name)
        time.sleep(1)
        begun = time.monotonic()
        engine.add_task(options.bundle, name)
        adding.append((begun, time.monotonic()))
        time.sleep(1)
    time.sleep(2)
    stop.set()
    worker.join()
    machine = describe_machine(engine.provider, options.threads)
    print(machine)
    total = len(engine.tasks.task_set.entries)
    took = [end - begin for begin, end in adding]
    print(f"{total} tasks, {engine.tasks.task_set.num_bytes() / 2**20:.0f} MiB of stacks")
    print(f"adding a task: median {statistics.median(took):.2f} s, longest {max(took):.2f} s, {len(took)} times")
    during = [e - b for b, e in calls if any(b < end and e > begin for begin, end in adding)]
    alone = [e - b for b, e in calls if not any(b < end and e > begin for begin, end in adding)]
    for what, times in (("while none is added", alone), ("while one is added", during)):
        p50, p90, p99 = np.quantile(times, (0.5, 0.9, 0.99)) * 1e3
        print(
            f"one image {what}: median {p50:.1f} ms, p90 {p90:.1f}, p99 {p99:.1f}, longest {max(times) * 1e3:.1f}, "
            f"{len(times)} calls"
        )


if __name__ == "__main__":
    main()
