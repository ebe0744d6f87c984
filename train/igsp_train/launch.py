"""`igsp train --num-processes`: several processes on this machine that learn together, and end together."""

import multiprocessing
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from igsp_deploy.config import RunConfig
from igsp_deploy.errors import UserError
from igsp_train.device import check_shared_device

GRACE_S = 5.0
"""How long the other processes may take to say what they know after one has failed."""


def train_in_processes(
    model_path: Path, config: RunConfig, count: int, *, discard: bool = False, device: str = "auto"
) -> None:
    """Learn the tasks of `config` with `count` processes, one a GPU, or sharing the cores where there is no GPU.

    With the device `cpu` they share the cores anyway.

    Raises:
        UserError: whatever stopped a process; the others are ended, what was learned before stays.
    """
    check_shared_device(device, count)
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    processes, lines = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(rank, count, port, model_path, config, discard, device, there))
        process.start()
        there.close()
        processes.append(process)
        lines.append(here)
    try:
        running = list(processes)
        while running and all(p.exitcode in (None, 0) for p in processes):
            wait([p.sentinel for p in running])
            running = [p for p in running if p.is_alive()]
        failed = [p for p in processes if p.exitcode not in (None, 0)]
        if failed:
            deadline = time.monotonic() + GRACE_S
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
            raise UserError(_reason(lines, processes.index(failed[0]), failed[0].exitcode))
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join()


def _reason(lines: list[Connection], failed: int, code: int | None) -> str:
    """What to tell: the cause, not that the others then missed the process that had it."""
    told: dict[int, tuple[bool, str]] = {}
    for rank, line in enumerate(lines):
        with suppress(EOFError):  # it ended without a word
            if line.poll():
                told[rank] = line.recv()
    causes = {rank: text for rank, (lost, text) in told.items() if not lost}
    if causes:
        rank = min(causes)
        return causes[rank] if rank == 0 else f"process {rank}: {causes[rank]}"
    return (
        f"process {failed} of {len(lines)} ended without a word (exit code {code}), perhaps for want of memory. "
        "Give the same command again to go on from the last checkpoint."
    )


def _worker(
    rank: int,
    count: int,
    port: int,
    model_path: Path,
    config: RunConfig,
    discard: bool,
    device: str,
    line: Connection,
) -> None:
    """One process: the environment that launchers set, then what `igsp train` does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")

    from igsp_train.ranks import LostProcess, ranks_of_this_process
    from igsp_train.sequence import train_sequence

    try:
        with ranks_of_this_process(device) as ranks:
            train_sequence(model_path, config, discard=discard, ranks=ranks)
    except UserError as error:
        line.send((isinstance(error, LostProcess), str(error)))
        # At once: the process group cannot be taken down in order without the others.
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)


def _end_with_parent() -> None:
    """A process whose parent was killed ends too; its last checkpoint is whole."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        sys.stderr.flush()
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
