"""`igsp train --num-processes`: several processes on this machine that learn together, and end together."""

import logging
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from torch.distributed.elastic.utils.distributed import get_free_port
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from igsp_deploy.config import RunConfig
from igsp_deploy.errors import UserError
from igsp_train.device import check_shared_device
from igsp_train.ranks import LostProcess, ranks_of_this_process
from igsp_train.sequence import Options, train_sequence

GRACE_S = 5.0
"""How long a process that misses another one waits before it ends: the other one, which knows why, ends first."""

Said = SimpleQueue[tuple[int, str]]
"""Rank and last words of processes that failed."""


def train_in_processes(model_path: Path, config: RunConfig, count: int, options: Options) -> None:
    """Learn the tasks of `config` with `count` processes, one a GPU, or sharing the cores where there is no GPU.

    Args:
        model_path: the model folder.
        config: all settings and the tasks.
        count: processes.
        options: what the user asked for; with the device `cpu` they share the cores anyway.

    Raises:
        UserError: whatever stopped a process; the others are ended, what was learned before stays.
    """
    check_shared_device(options["device"], count)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it warns of each process that it ends
    said: Said = multiprocessing.get_context("spawn").SimpleQueue()
    started = start_processes(
        _worker, (count, get_free_port(), model_path, config, options, said), nprocs=count, join=False
    )
    try:
        while not started.join():
            pass
    except ProcessExitedException as error:
        if not said.empty():
            rank, text = said.get()
            raise UserError(f"process {rank}: {text}" if rank else text) from error
        raise UserError(
            f"process {error.error_index} of {count} ended without a word (exit code {error.exit_code}), perhaps for "
            "want of memory. Give the same command again to go on from the last checkpoint."
        ) from error
    finally:
        for process in started.processes:
            process.terminate()
        for process in started.processes:
            process.join()


def _worker(
    rank: int, count: int, port: int, model_path: Path, config: RunConfig, options: Options, said: Said
) -> None:
    """One process: the environment that launchers set, then what `igsp train` does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        with ranks_of_this_process(options["device"]) as ranks:
            train_sequence(model_path, config, ranks=ranks, **options)
    except UserError as error:
        if isinstance(error, LostProcess):
            time.sleep(GRACE_S)
        said.put((rank, str(error)))
        # At once: the process group cannot be taken down in order without the others.
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)


def _end_with_parent() -> None:
    """A process whose parent was killed ends too; its last checkpoint is whole. Torch sees to it on Linux alone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
