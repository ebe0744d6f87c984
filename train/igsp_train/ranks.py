"""Several processes that learn one task together: each takes a part of every batch, all end in the same numbers.

Started by `igsp train --num-processes` or by `accelerate launch`; which backend and device a process gets is
accelerate's decision. Rank 0 is the one that writes.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from igsp_deploy.errors import UserError
from igsp_deploy.installed import install_command
from igsp_train.device import check_shared_device

T = TypeVar("T")


class LostProcess(UserError):
    """Another process of the run is gone; that one knows why."""


PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: rank 0 measures and writes at the end of a task while they wait."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One process among `count`; every method is a plain identity where there is only one.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: where this process computes; None leaves it to the caller.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: contiguous, of equal sizes but for one item."""
        share, more = divmod(len(items), self.count)
        start = self.rank * share + min(self.rank, more)
        return items[start : start + share + (self.rank < more)]

    def check_batch(self, batch_size: int) -> None:
        """Raise a `UserError` where a batch has no image for some process."""
        if batch_size < self.count:
            raise UserError(
                f"learn.batch_size is {batch_size}, less than one image for each of {self.count} processes. "
                "Raise it, or start fewer processes."
            )

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of all processes' `tensor`, in place, the same bits on all of them."""
        if self.count > 1:
            with _explained():
                torch.distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.count > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = self.sum(torch.cat([g.reshape(-1) for g in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def concatenate(self, parts: list[Tensor], empty: Tensor) -> Tensor:
        """Rows of all processes' `parts`, in the order of their ranks, on every process.

        Args:
            parts: tensors `[k, ...]` of this process; may be none.
            empty: tensor `[0, ...]` of the same kind.
        """
        mine = torch.cat(parts) if parts else empty
        if self.count == 1:
            return mine
        sizes = [0] * self.count
        with _explained():
            torch.distributed.all_gather_object(sizes, len(mine))
            rows = [mine if r == self.rank else empty.new_empty(n, *empty.shape[1:]) for r, n in enumerate(sizes)]
            for rank, block in enumerate(rows):
                if len(block):
                    torch.distributed.broadcast(block, src=rank)
        return torch.cat(rows)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            with _explained():
                torch.distributed.all_reduce(torch.zeros(1, device=self.device))

    def check_equal(self, tensors: Iterable[tuple[str, Tensor]], what: str) -> str:
        """Compare a hash of named tensors over all processes and return it.

        Raises:
            UserError: they differ.
        """
        digest = hashlib.sha256()
        for name, tensor in tensors:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        mine = digest.hexdigest()
        if self.count > 1:
            found = [""] * self.count
            with _explained():
                torch.distributed.all_gather_object(found, mine)
            if len(set(found)) > 1:
                raise UserError(
                    f"the processes do not agree on {what}: {', '.join(f[:12] for f in found)}. Do all of them run the "
                    "same version on the same data? The last checkpoint is untouched."
                )
        return mine


ALONE = Ranks()
"""One process."""


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo or nccl: a connection was closed, or nobody answered
        raise LostProcess(
            f"another process of this run ended or cannot be reached ({_first_line(error)}). Its own last words say "
            "why. Give the same command again to go on from the last checkpoint."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


@contextmanager
def ranks_of_this_process(device: str = "auto") -> Iterator[Ranks]:
    """The place of this process among those it was started with, from the environment that a launcher sets.

    Args:
        device: what the user asked for, see `find_device`; of several processes only `auto` and `cpu`.

    Raises:
        UserError: several processes were given one device, they do not find each other, accelerate is not installed,
            or it was asked for several processes and started one.
    """
    _check_really_several()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        yield ALONE
        return
    check_shared_device(device, count)
    try:
        from accelerate import PartialState  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise UserError(f"several processes need accelerate: {install_command('train')}") from error
    # Set before accelerate looks: it warns where it has to choose.
    threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", str(count))))
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    with _explained():
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    # Not in a `finally`: after a failure the others are not there to part from.
    yield Ranks(rank=state.process_index, count=state.num_processes, device=state.device)
    torch.distributed.destroy_process_group()


def _check_really_several() -> None:
    """`accelerate launch --num_processes 8` starts one process where it sees less than two GPUs, without a word."""
    place = os.environ
    if "ACCELERATE_MIXED_PRECISION" in place and "MASTER_ADDR" in place and "WORLD_SIZE" not in place:
        raise UserError(
            "accelerate was asked for several processes and started one: it does so with --cpu, and where it finds "
            "less than two GPUs. Give it --multi_gpu instead, which takes CPUs too, or do without it: "
            "igsp train --num-processes N"
        )
