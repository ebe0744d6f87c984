"""`experts.safetensors`: every expert that some task uses, once, and which of them each task's routers use. No torch.

The graphs take the experts as stacks, an expanded form with one slice a task; see `igsp_deploy.bundle.stacks`.

Shapes: d width, r rank of one expert, E experts of a block, K experts a task uses in it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from igsp_deploy.bundle.arrays import UNREADABLE, check_numbers, pack_arrays, read_arrays
from igsp_deploy.bundle.manifest import REMEDY, ExpertLayout
from igsp_deploy.errors import UserError
from igsp_deploy.sites import Site, site_name

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class BlockUse:
    """What one task's router uses in one block.

    Attributes:
        experts: rows of the block's table, `[K]`.
        router_weight: `[K, d]`; None where the gates are static.
        router_bias: `[K]`; None where the gates are static.
        gates: the static gates `[K]`; None where the router reads the image.
    """

    experts: NDArray[np.int64]
    router_weight: Floats | None = None
    router_bias: Floats | None = None
    gates: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class ExpertTable:
    """All experts of a bundle and their use.

    Attributes:
        down: block -> `[E, r, d]`.
        up: block -> `[E, d, r]`, with the scale of the experts' output folded in.
        tasks: a task each: block -> what its router uses. A block that is absent stays plain CLIP.
    """

    down: dict[Site, Floats] = field(default_factory=dict)
    up: dict[Site, Floats] = field(default_factory=dict)
    tasks: tuple[dict[Site, BlockUse], ...] = ()

    def write(self, path: Path, dtype: type[np.floating[Any]] = np.float32) -> None:
        """Write safetensors in `dtype`.

        Raises:
            UserError: a number is beyond half precision.
        """
        tensors: dict[str, NDArray[Any]] = {}
        for site, down in self.down.items():
            tensors[f"{site_name(site)}.down"] = _cast(down, dtype, site)
            tensors[f"{site_name(site)}.up"] = _cast(self.up[site], dtype, site)
        for t, uses in enumerate(self.tasks):
            for site, use in uses.items():
                key = f"task.{t}.{site_name(site)}"
                tensors[f"{key}.experts"] = use.experts.astype(np.int64)
                for name in ("router_weight", "router_bias", "gates"):
                    value = getattr(use, name)
                    if value is not None:
                        tensors[f"{key}.{name}"] = _cast(value, dtype, site)
        path.write_bytes(pack_arrays(tensors))

    @classmethod
    def read(cls, path: Path, layout: ExpertLayout, num_tasks: int) -> "ExpertTable":
        """Read what `write` wrote, holding it against the manifest.

        Raises:
            UserError: missing, damaged, no numbers, or of another rank or width than the manifest says.
        """
        return cls._of(read_arrays(path), layout, range(num_tasks), path)

    @classmethod
    def read_task(cls, path: Path, layout: ExpertLayout, task: int) -> "ExpertTable":
        """Read what one task uses, and no other part of the file: a table of its experts with that task alone.

        Raises:
            UserError: missing, damaged, no numbers, or of another rank or width than the manifest says.
        """
        tensors: dict[str, Any] = {}
        try:
            with safe_open(path, "np") as file:
                own = [name for name in file.keys() if name.startswith(f"task.{task}.")]  # noqa: SIM118
                tensors.update({name: file.get_tensor(name) for name in own})
                for site in sites(layout):
                    experts = tensors.get(f"task.{task}.{site_name(site)}.experts")
                    if experts is None:
                        continue
                    for name in (f"{site_name(site)}.down", f"{site_name(site)}.up"):
                        rows = file.get_slice(name)
                        tensors[name] = np.concatenate([rows[0:0], *(rows[e : e + 1] for e in experts.tolist())])
                    tensors[f"task.{task}.{site_name(site)}.experts"] = np.arange(len(experts))
        except UNREADABLE as error:
            raise UserError(f"{path} is missing or damaged ({error}). {REMEDY}") from error
        return cls._of(tensors, layout, [task], path)

    @classmethod
    def _of(cls, tensors: dict[str, Any], layout: ExpertLayout, tasks: Sequence[int], path: Path) -> "ExpertTable":
        """The table of `tasks`, numbered as in the file's names."""
        table = cls(tasks=tuple({} for _ in tasks))
        for site in sites(layout):
            key, width = site_name(site), layout.width(site[0])
            if f"{key}.down" in tensors:
                table.down[site] = _shaped(tensors, f"{key}.down", (None, layout.rank, width), path)
                table.up[site] = _shaped(tensors, f"{key}.up", (len(table.down[site]), width, layout.rank), path)
            routed = site[0] == "vision" and layout.routed
            for t, uses in zip(tasks, table.tasks, strict=True):
                if f"task.{t}.{key}.experts" in tensors:
                    uses[site] = _use(tensors, f"task.{t}.{key}", width, routed, path)
                    used, there = uses[site].experts, len(table.down.get(site, ()))
                    if used.size and not 0 <= used.min() <= used.max() < there:
                        raise UserError(f"{path}: task {t} uses an expert of {key} that is not there. {REMEDY}")
        return table

    def sha256(self, task: int) -> str:
        """SHA-256 of all that a task uses, in the precision it is in: equal where its slices of the stacks are.

        It does not depend on the rows that its experts have in the table, nor on other tasks.
        """
        digest = hashlib.sha256()
        for site, use in sorted(self.tasks[task].items()):
            if not len(use.experts):
                continue  # as a block that is absent
            values = {
                "down": self.down[site][use.experts],
                "up": self.up[site][use.experts],
                "router_weight": use.router_weight,
                "router_bias": use.router_bias,
                "gates": use.gates,
            }
            for name, value in values.items():
                if value is not None:
                    digest.update(f"{site_name(site)}.{name} {value.dtype} {list(value.shape)}\n".encode())
                    digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    def task_bytes(self, itemsize: int) -> list[int]:
        """What each task adds: experts no earlier task uses, and its routers; in bytes, at `itemsize` a number."""
        known: dict[Site, set[int]] = {}
        sizes = []
        for uses in self.tasks:
            numbers = 0
            for site, use in uses.items():
                new = set(use.experts.tolist()) - known.setdefault(site, set())
                known[site] |= new
                if new:
                    numbers += len(new) * 2 * int(np.prod(self.down[site].shape[1:]))
                numbers += sum(
                    value.size for value in (use.router_weight, use.router_bias, use.gates) if value is not None
                )
            sizes.append(numbers * itemsize)
        return sizes


def sites(layout: ExpertLayout) -> list[Site]:
    """All adapted blocks, vision first."""
    vision: list[Site] = [("vision", block) for block in layout.vision_blocks]
    return vision + [("text", block) for block in layout.text_blocks]


def _cast(value: Floats, dtype: type[np.floating[Any]], site: Site) -> Floats:
    largest = float(np.abs(value).max(initial=0.0))
    if not largest <= float(np.finfo(dtype).max):
        raise UserError(
            f"the experts of {site_name(site)} hold a number of size {largest:.3g}, too large for "
            f"{np.dtype(dtype).name}. Export with --experts fp32 and graphs in fp32."
        )
    return value.astype(dtype)


def _use(tensors: dict[str, Any], key: str, width: int, routed: bool, path: Path) -> BlockUse:
    experts = tensors[f"{key}.experts"]
    if experts.ndim != 1 or experts.dtype != np.int64:
        raise UserError(
            f"{path}: {key}.experts must be int64 ['any'], is {experts.dtype} {list(experts.shape)}. {REMEDY}"
        )
    count = len(experts)
    if not routed:
        return BlockUse(experts=experts, gates=_shaped(tensors, f"{key}.gates", (count,), path))
    return BlockUse(
        experts=experts,
        router_weight=_shaped(tensors, f"{key}.router_weight", (count, width), path),
        router_bias=_shaped(tensors, f"{key}.router_bias", (count,), path),
    )


def _shaped(tensors: dict[str, Any], name: str, shape: Sequence[int | None], path: Path) -> Floats:
    value: Floats | None = tensors.get(name)
    if value is None:
        raise UserError(f"{path} lacks {name}. {REMEDY}")
    fits = len(value.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        wanted = [("any" if want is None else want) for want in shape]
        raise UserError(f"{path}: {name} must be {wanted}, is {list(value.shape)}: it is of another model. {REMEDY}")
    check_numbers(path, name, value, np.float32, np.float16)
    return value
