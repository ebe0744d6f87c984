"""A device that this machine does not have, played by the CPU: it computes, and refuses what such a device refuses.

Tensors "on" it hold their numbers on the CPU and say another device. Every operation goes through `PretendDevice`,
which raises where a real one would: for float64, which the GPU of a Mac has not, for pinned memory, and where tensors
of two devices meet. It stands for what nobody here has; that a Mac knows every operation it cannot tell.

`python -m tests.pretend_device DEVICE DATA OUT` learns, goes on, extends, measures and reports on it. A process of its
own, because PyTorch takes a new device for good, and before its first gradient.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
CPU = torch.device("cpu")
MOVES = ("_to_copy", "copy_")
"""Operations that take tensors of two devices."""
INDEXED = ("index", "index_put_", "_index_put_impl_")
"""Operations that take indices from the CPU."""


class OnDevice(Tensor):
    """A tensor that says it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "OnDevice":
        """Hold a tensor of the CPU."""
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], device: torch.device, size: Any, stride: Any) -> "OnDevice":
        return OnDevice(inner["held"], device)

    def tolist(self) -> Any:
        """As lists: PyTorch does not do it for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} outside of the pretended device")


class PretendDevice(TorchDispatchMode):
    """While it lasts, tensors can be made on the device and moved to it.

    Attributes:
        operations: how many ran on it.
    """

    def __init__(self) -> None:
        """`start` comes first."""
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation on the CPU, or refuse it."""
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        here = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}
        asked = kwargs.get("device")
        there = bool(here) if asked is None else torch.device(asked).type == NAME
        strangers = [x for x in tensors if not isinstance(x, OnDevice) and x.ndim]
        if here and strangers and name not in MOVES and not (name in INDEXED and isinstance(args[0], OnDevice)):
            raise RuntimeError(f"{func}: tensors of two devices meet")
        if asked is not None:
            kwargs["device"] = CPU
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnDevice) else x, (args, kwargs))
        result = func(*args, **kwargs)
        if not there or (name == "copy_" and id(result) not in here):
            return result
        self.operations += 1
        return tree_map(lambda x: self._placed(x, here, func) if isinstance(x, Tensor) else x, result)

    def _placed(self, result: Tensor, known: dict[int, OnDevice], func: Any) -> OnDevice:
        if result.dtype == torch.float64:
            raise TypeError(f"{func}: this device has no float64")
        return known[id(result)] if id(result) in known else OnDevice(result, torch.device(NAME, 0))


def start() -> None:
    """Make the name known to PyTorch, for good."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)


@contextmanager
def pretended() -> Iterator[PretendDevice]:
    """Compute on the pretended device whatever `--device` says."""
    from igsp_train import device

    device.find_device = lambda word="auto": torch.device(NAME, 0)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes them on the CPU and moves them
    with PretendDevice() as mode:
        yield mode


def walk(data: Path, out: Path) -> None:
    """Learn tasks, one of them in two goes, and do everything that computes.

    Args:
        data: folder with `colors` and `stripes`; images are added to `colors`.
        out: folder for the model and its report.
    """
    import shutil

    from safetensors.torch import save_file

    import igsp_deploy as igsp
    from igsp_deploy.config import DataConfig, LearnConfig, ModelConfig, RunConfig
    from igsp_train.device import find_device
    from igsp_train.head import temperature
    from igsp_train.imported import import_probe
    from igsp_train.report import make_report
    from igsp_train.sequence import train_sequence

    path, steps = out / "model", iter(range(100))
    model = igsp.Model.create(path, backbone="debug", rank=2, max_experts=1, vision_blocks=1, text_blocks=1)
    learn: dict[str, Any] = {"steps": 6, "batch_size": 6, "num_candidates": 2, "warmup_steps": 1, "checkpoint_every": 2}
    shares: dict[str, Any] = {"val_share": 0.5}
    config = RunConfig(
        model=ModelConfig(backbone="debug", rank=2, max_experts=1, vision_blocks=1, text_blocks=1),
        learn=LearnConfig(**learn),
        data=DataConfig(**shares),
        tasks={"colors": str(data / "colors")},
    )
    try:
        train_sequence(path, config, stop=lambda: next(steps) == 3)
    except InterruptedError:
        model.learn("colors", data / "colors", data=shares, **learn)
    # Enough tasks that the last one chooses from a shortlist of the pool.
    for name, penalty in (("b", "gradient_projection"), ("c", "function_residual"), ("d", "candidate_mass")):
        own = {**learn, "steps": 2, "warmup_steps": 0, "penalty": penalty}
        model.learn(name, data / "stripes", data={**shares, "seed": ord(name)}, **own)
    probe = out / "probe.safetensors"
    save_file({"weight": torch.eye(2, 24)}, probe)
    import_probe(
        path, "probe", probe, RunConfig(model=config.model, data=config.data, tasks={"probe": str(data / "colors")})
    )
    for file in sorted((data / "colors" / "train").glob("*/0.png")):
        shutil.copy(file, file.with_name("new.png"))
        with open(file.with_name("new.png"), "ab") as more:  # another content
            more.write(b"\0")
    model.extend("colors", data / "colors")
    make_report(path, out / "report.html", images=2)
    # A task of this walk holds too few images out for a temperature.
    temperature(torch.eye(4, device=find_device("auto")), torch.arange(4))


if __name__ == "__main__":
    place, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if place == NAME:
        start()
    with pretended() if place == NAME else nullcontext() as pretending:
        walk(data, out)
    print(pretending.operations if pretending else 0)
