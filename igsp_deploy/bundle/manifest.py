"""`manifest.json`: what a bundle holds, for which backbone, and the checksum of every file."""

import dataclasses
import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.errors import UserError
from igsp_deploy.files import sha256_file, write_json

FORMAT_VERSION = 4
OLDEST_VERSION = 2
"""Oldest format that is read. In format 2 the selector has no background, and the graphs take none; up to format 3 the
graphs' stacks had defaults."""
MANIFEST = "manifest.json"
CLASSES = "classes.safetensors"
EXPERTS = "experts.safetensors"
SELECTOR = "selector.safetensors"
TOKENIZER = "tokenizer.json"
REFERENCE = "examples/reference.safetensors"
REMEDY = "Copy the bundle again or make it anew with `igsp export`."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BundleTask:
    """One task of a bundle; its index is its position."""

    name: str
    """Its name."""
    classes: tuple[str, ...]
    """Labels, in the order of the class embeddings."""
    display_names: tuple[str, ...]
    """What stands for each class in a prompt."""
    templates: tuple[str, ...]
    """Prompt templates with one `{}`."""
    experts: int = 0
    """Experts its routers use, in all blocks together."""
    experts_new: int = 0
    """Those of them that came with this task; the others are reused from earlier ones."""
    size_bytes: int = 0
    """What it adds to the bundle: experts no earlier task uses, its routers, its classes' embeddings."""
    fingerprint: str = ""
    """SHA-256 of what was learned: equal in two bundles of one model."""
    experts_sha256: str = ""
    """SHA-256 of the experts and routers it uses, as they are stored; empty in bundles made before there was one."""


@dataclass(frozen=True, kw_only=True)
class BundleBackbone:
    """The frozen CLIP inside."""

    name: str
    """open_clip model name, or `nano`."""
    pretrained: str | None
    """open_clip tag, if it was loaded by one."""
    weight_hash: str
    """SHA-256 over its weights."""
    embed_dim: int
    """Width of an embedding."""
    context_length: int
    """Token ids a text."""
    logit_scale: float
    """Factor on cosines before the softmax."""


@dataclass(frozen=True, kw_only=True)
class ExpertLayout:
    """Where the graphs take experts, and of what size."""

    rank: int
    """Rank r of one expert."""
    vision_blocks: tuple[int, ...]
    """Adapted blocks of the image tower."""
    text_blocks: tuple[int, ...]
    """Adapted blocks of the text tower."""
    vision_width: int
    """Width d of a block of the image tower."""
    text_width: int
    """Width d of a block of the text tower."""
    routed: bool
    """The image tower's gates depend on the image; else they are folded into the experts."""

    def width(self, tower: str) -> int:
        """Width of a block of the tower `vision` or `text`."""
        return self.vision_width if tower == "vision" else self.text_width


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One precision of the graphs."""

    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    image: str
    """File of the image graph."""
    text: str
    """File of the text graph."""
    providers: tuple[str, ...]
    """onnxruntime execution providers it may run on; others can fail or crash on it."""

    def files(self) -> tuple[str, str]:
        """Its files."""
        return self.image, self.text


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """One file of the bundle."""

    sha256: str
    """Hex SHA-256 of its bytes."""
    size_bytes: int
    """Its size."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of `manifest.json`."""

    created_by: str
    """Program and version that made it."""
    backbone: BundleBackbone
    """The frozen CLIP inside."""
    preprocess: PreprocessSpec
    """How an image becomes its input."""
    tasks: tuple[BundleTask, ...]
    """Tasks, in the order they were learned."""
    opset: int
    """ONNX opset of the graphs."""
    variants: tuple[Variant, ...]
    """The graphs, a precision each."""
    experts: ExpertLayout
    """What the graphs take besides images and texts: experts and routers, as inputs with a default."""
    experts_precision: str = "fp32"
    """What experts are stored in, `fp32` or `fp16`, whatever the graphs are in: these take them in their own."""
    parity: dict[str, Any] = field(default_factory=dict)
    """Largest differences from PyTorch found at export, by precision."""
    files: dict[str, BundleFile] = field(default_factory=dict)
    """Every other file of the bundle."""
    format_version: int = FORMAT_VERSION
    """Version of this layout."""

    def task_names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`."""
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def list_files(folder: Path) -> dict[str, BundleFile]:
    """Checksum and size of every file of `folder` but the manifest."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {
        name: BundleFile(sha256=sha256_file(folder / name), size_bytes=(folder / name).stat().st_size)
        for name in names
        if name != MANIFEST
    }


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of a bundle.

    Raises:
        UserError: not a bundle, a newer format, or damaged; says which and what to do.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise UserError(f"{folder} is a model folder, not a bundle. Make one with `igsp export {folder} BUNDLE`.")
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} is not a bundle: it {what}. `igsp export MODEL BUNDLE` makes one.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path} is not the manifest of a bundle (it has no format_version). {REMEDY}")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {version}; this version reads up to {FORMAT_VERSION}. Upgrade igsp-deploy."
        )
    if version < OLDEST_VERSION:
        raise UserError(
            f"{folder} has format {version}, of an earlier version; this one reads formats {OLDEST_VERSION} to "
            f"{FORMAT_VERSION}. Make it anew: `igsp export MODEL BUNDLE`."
        )
    if values.get("selector_place", "trunk") != "trunk":
        raise UserError(
            f"{folder} chooses tasks by plain CLIP's embedding, in a graph of its own, which chose worse at the cost "
            "of a second pass, and is gone. Learn its tasks again with `igsp train` and export that model."
        )
    try:
        return _manifest(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is damaged: {reason}. {REMEDY}") from error


def check_files(folder: Path, manifest: Manifest, names: Collection[str] | None = None) -> None:
    """Compare files of the bundle with their recorded size and SHA-256.

    Args:
        folder: the bundle.
        manifest: its manifest.
        names: files to compare; all by default.

    Raises:
        UserError: a file is missing, truncated or changed; names it.
    """
    check_sizes(folder, manifest, names)
    for name, expected in _some(manifest, names).items():
        if sha256_file(folder / name) != expected.sha256:
            raise UserError(
                f"{folder / name} is damaged or was changed (its SHA-256 is not the recorded one). {REMEDY}"
            )


def check_sizes(folder: Path, manifest: Manifest, names: Collection[str] | None = None) -> None:
    """Compare files of the bundle with their recorded size alone, without reading them.

    Args:
        folder: the bundle.
        manifest: its manifest.
        names: files to compare; all by default.

    Raises:
        UserError: a file is missing or truncated; names it.
    """
    for name, expected in _some(manifest, names).items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing. {REMEDY}")
        size = path.stat().st_size
        if size != expected.size_bytes:
            raise UserError(f"{path} has {size} bytes instead of {expected.size_bytes}: it is incomplete. {REMEDY}")


def _some(manifest: Manifest, names: Collection[str] | None) -> dict[str, BundleFile]:
    return {name: file for name, file in manifest.files.items() if names is None or name in names}


def _manifest(values: dict[str, Any]) -> Manifest:
    backbone, preprocess = values["backbone"], values["preprocess"]
    variants = _each(_variant, values["variants"])
    # Bundles made before this was said: in half precision where their graphs were.
    stored = "fp16" if all(variant.precision == "fp16" for variant in variants) else "fp32"
    manifest = Manifest(
        created_by=_text(values["created_by"]),
        backbone=BundleBackbone(
            name=_text(backbone["name"]),
            pretrained=None if backbone["pretrained"] is None else _text(backbone["pretrained"]),
            weight_hash=_text(backbone["weight_hash"]),
            embed_dim=_positive(backbone["embed_dim"], "embed_dim"),
            context_length=_positive(backbone["context_length"], "context_length"),
            logit_scale=_number(backbone["logit_scale"]),
        ),
        preprocess=PreprocessSpec(
            size=_positive(preprocess["size"], "preprocess.size"),
            mean=_each(_number, preprocess["mean"]),
            std=_each(_number, preprocess["std"]),
            interpolation=_one_of(preprocess["interpolation"], ("bicubic", "bilinear")),
            resize_mode=_one_of(preprocess["resize_mode"], ("shortest",)),
            # Bundles from before there was a choice were measured with plain decoding.
            decoding=_one_of(preprocess.get("decoding", "plain"), ("plain", "scaled")),
        ),
        tasks=_each(_task, values["tasks"]),
        opset=_positive(values["opset"], "opset"),
        variants=variants,
        experts=_layout(values["experts"]),
        experts_precision=_one_of(values.get("experts_precision", stored), ("fp32", "fp16")),
        parity=dict(values["parity"]),
        files={
            _file(name): BundleFile(sha256=_text(file["sha256"]), size_bytes=int(file["size_bytes"]))
            for name, file in values["files"].items()
        },
        format_version=values["format_version"],
    )
    if len(manifest.preprocess.mean) != 3 or len(manifest.preprocess.std) != 3:
        raise ValueError("preprocess.mean and preprocess.std must have one number for each of three channels")
    if not manifest.tasks or not manifest.variants:
        raise ValueError("it names no task or no graph")
    names = manifest.task_names()
    if len(set(names)) < len(names):
        raise ValueError(f"two tasks are called {next(name for name in names if names.count(name) > 1)!r}")
    needed = {CLASSES, EXPERTS, SELECTOR, TOKENIZER} | {name for v in manifest.variants for name in v.files()}
    if not needed <= set(manifest.files):
        raise ValueError(f"it has no checksum for {', '.join(sorted(needed - set(manifest.files)))}")
    return manifest


def _task(values: dict[str, Any]) -> BundleTask:
    task = BundleTask(
        name=_text(values["name"]),
        classes=_each(_text, values["classes"]),
        display_names=_each(_text, values["display_names"]),
        templates=_each(_text, values["templates"]),
        experts=int(values["experts"]),
        experts_new=int(values["experts_new"]),
        size_bytes=int(values["size_bytes"]),
        fingerprint=_text(values["fingerprint"]),
        experts_sha256=_text(values.get("experts_sha256", "")),
    )
    if not task.classes or len(task.classes) != len(task.display_names):
        raise ValueError(f"task {task.name!r} must have a display name for each of its classes")
    return task


def _layout(values: dict[str, Any]) -> ExpertLayout:
    return ExpertLayout(
        rank=_positive(values["rank"], "experts.rank"),
        vision_blocks=_each(_block, values["vision_blocks"]),
        text_blocks=_each(_block, values["text_blocks"]),
        vision_width=_positive(values["vision_width"], "experts.vision_width"),
        text_width=_positive(values["text_width"], "experts.text_width"),
        routed=bool(values["routed"]),
    )


def _block(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"expected the number of a block, got {value!r}")
    return value


def _variant(values: dict[str, Any]) -> Variant:
    return Variant(
        precision=_text(values["precision"]),
        image=_file(values["image"]),
        text=_file(values["text"]),
        providers=_each(_text, values["providers"]),
    )


def _each(read: Callable[[Any], T], values: Any) -> tuple[T, ...]:
    if not isinstance(values, list):
        raise TypeError(f"expected a list, got {values!r}")
    return tuple(read(value) for value in values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _file(value: Any) -> str:
    """A path inside the bundle: a bundle from elsewhere must not make us read other files."""
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or "\\" in value or not path.parts:
        raise ValueError(f"{value!r} is not a file of the bundle")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def _positive(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError(f"{what} must be a positive integer, got {value!r}")
    return value


def _one_of(value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"expected one of {', '.join(allowed)}, got {value!r}")
    return value
