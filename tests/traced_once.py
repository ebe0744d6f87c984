"""Each module is traced into an ONNX graph once a test run, whatever the number of tests and processes.

Graphs know no task, so most exports of a run trace the same modules. Nothing else of an export is kept: what is done to
a graph before it is written, and all the checks that follow, run each time.
"""

import fcntl
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process of a test run at a time; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Contents(pickle.Pickler):
    """Writes what a module is made of: every attribute, tensors by their hash, the same in every process."""

    def persistent_id(self, value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return type(value).__name__, str(value.dtype), tuple(value.shape), hashlib.sha256(data).hexdigest()
        return ("set", sorted(map(repr, value))) if isinstance(value, (set, frozenset)) else None


def _key(values: Any) -> str | None:
    """Of what is traced; None where it holds something that has no contents, such as a function made on the way."""
    text = io.BytesIO()
    writer = _Contents(text)
    writer.fast = True  # equal values are the same, whether they are one object or two
    try:
        writer.dump(values)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return hashlib.sha256(text.getvalue()).hexdigest()


@contextmanager
def traced_once(folder: Path) -> Iterator[None]:
    """`torch.onnx.export` gives graphs from `folder` where they are there."""
    import onnx_ir as ir
    import torch

    from igsp_deploy.model import kernels

    trace: Callable[..., Any] = torch.onnx.export

    def export(module: Any, args: Any = (), *, dynamic_shapes: Any = None, **options: Any) -> Any:
        key = _key((module, args, repr(dynamic_shapes), options, kernels._ATTENTION_NODES.get()))
        if key is None:
            return trace(module, args, dynamic_shapes=dynamic_shapes, **options)
        path = folder / key / "graph.onnx"
        with locked(path.parent):  # others trace other modules meanwhile
            if not path.exists():
                trace(module, args, dynamic_shapes=dynamic_shapes, **options).save(path)
        model = ir.load(path)
        return SimpleNamespace(model=model, save=lambda out: ir.save(model, out))

    with mock.patch("torch.onnx.export", export):
        yield
