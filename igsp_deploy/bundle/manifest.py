"""`manifest.json`: what a bundle holds, for which backbone, and the checksum of every file."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.checked import Count, Flag, Number, Positive, build, stored
from igsp_deploy.config import HeadFeatures
from igsp_deploy.errors import UserError
from igsp_deploy.files import sha256_file, write_json
from igsp_deploy.names import has_one_place

FORMAT_VERSION = 6
OLDEST_VERSION = 2
"""Oldest format that is read. In format 2 the selector has no background, and the graphs take none; up to format 3 the
graphs' stacks had defaults; up to format 4 no task has a head, the graphs
give no summary, and the tokenizer is CLIP's own; up to format 5 heads are compared with the summary itself."""
MANIFEST = "manifest.json"
CLASSES = "classes.safetensors"
EXPERTS = "experts.safetensors"
SELECTOR = "selector.safetensors"
TOKENIZER = "tokenizer.json"
REFERENCE = "examples/reference.safetensors"
REMEDY = "Copy the bundle again or make it anew with `igsp export`."


def _inside(name: str) -> str:
    """A bundle from elsewhere must not make us read other files."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"must be a file of the bundle, got {name!r}")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
"""A path inside the bundle."""


@stored
class BundleTask:
    """One task of a bundle; its index is its position."""

    name: str
    """Its name."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Labels, in the order of the class embeddings."""
    display_names: tuple[str, ...]
    """What stands for each class in a prompt."""
    templates: tuple[str, ...]
    """Prompt templates with one `{}`."""
    experts: Count = 0
    """Experts its routers use, in all blocks together."""
    experts_new: Count = 0
    """Those of them that came with this task; the others are reused from earlier ones."""
    size_bytes: Count = 0
    """What it adds to the bundle: experts no earlier task uses, its routers, its classes' embeddings."""
    fingerprint: str = ""
    """SHA-256 of what was learned: equal in two bundles of one model."""
    experts_sha256: str = ""
    """SHA-256 of the experts and routers it uses, as they are stored; empty in bundles made before there was one."""


@stored
class BundleBackbone:
    """The frozen CLIP inside."""

    name: str
    """open_clip model name, or `nano`."""
    pretrained: str | None
    """open_clip tag, if it was loaded by one."""
    weight_hash: str
    """SHA-256 over its weights."""
    embed_dim: Positive
    """Width of an embedding."""
    context_length: Positive
    """Token ids a text."""
    logit_scale: Number
    """Factor on cosines before the softmax."""
    logit_bias: Number | None = None
    """Of a CLIP trained with one (SigLIP): added to that product, the sigmoid is the chance of a pair. A softmax over
    classes does not see it."""


@stored
class BundleTokenizer:
    """What is done to a text around `tokenizer.json`; the defaults are those of CLIP's own."""

    kind: Literal["clip", "fast"] = "clip"
    """`clip` is CLIP's byte-pair encoding: the reader adds start and end and cuts; a `fast` file does all by itself."""
    clean: Literal["lower", "whitespace", "canonicalize"] = "lower"
    """What a text goes through first, see `clean`."""
    pad_id: Count = 0
    """Id behind a text, up to the context length."""
    zeroed_id: Count | None = None
    """Id in whose place 0 is put in the end, wherever it stands."""
    end_id: Count | None = 49407
    """Ids behind the first of these change no embedding and may be left out; None where all of the context counts."""


@stored
class ExpertLayout:
    """Where the graphs take experts, and of what size."""

    rank: Positive
    """Rank r of one expert."""
    vision_blocks: tuple[Count, ...]
    """Adapted blocks of the image tower."""
    text_blocks: tuple[Count, ...]
    """Adapted blocks of the text tower."""
    vision_width: Positive
    """Width d of a block of the image tower."""
    text_width: Positive
    """Width d of a block of the text tower."""
    routed: Flag
    """The image tower's gates depend on the image; else they are folded into the experts."""

    def width(self, tower: str) -> int:
        """Width of a block of the tower `vision` or `text`."""
        return self.vision_width if tower == "vision" else self.text_width


@stored
class Variant:
    """One precision of the graphs."""

    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    image: FileName
    """File of the image graph."""
    text: FileName
    """File of the text graph."""
    providers: tuple[str, ...]
    """onnxruntime execution providers it may run on; others can fail or crash on it."""

    def files(self) -> tuple[str, str]:
        """Its files."""
        return self.image, self.text


@stored
class BundleFile:
    """One file of the bundle."""

    sha256: str
    """Hex SHA-256 of its bytes."""
    size_bytes: Count
    """Its size."""


@stored
class Manifest:
    """All of `manifest.json`."""

    created_by: str
    """Program and version that made it."""
    backbone: BundleBackbone
    """The frozen CLIP inside."""
    preprocess: PreprocessSpec
    """How an image becomes its input."""
    tasks: Annotated[tuple[BundleTask, ...], Field(min_length=1)]
    """Tasks, in the order they were learned."""
    opset: Positive
    """ONNX opset of the graphs."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    """The graphs, a precision each."""
    experts: ExpertLayout
    """What the graphs take besides images and texts: experts and routers, as inputs with a default."""
    experts_precision: Literal["fp32", "fp16"] = "fp32"
    """What experts are stored in, `fp32` or `fp16`, whatever the graphs are in: these take them in their own."""
    head_features: HeadFeatures = "summary"
    """What the graphs give as `summary` and heads are compared with: the trunk's summary, or its Fourier features."""
    tokenizer: BundleTokenizer = BundleTokenizer()
    """How a text becomes token ids."""
    parity: dict[str, Any] = field(default_factory=dict)
    """Largest differences from PyTorch found at export, by precision."""
    files: dict[FileName, BundleFile] = field(default_factory=dict)
    """Every other file of the bundle."""
    format_version: Positive = FORMAT_VERSION
    """Version of this layout."""

    def task_names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def head_width(self, summary_width: int) -> int:
        """Numbers a class of a head, where the trunk's summary has `summary_width`."""
        return summary_width * (2 if self.head_features == "fourier" else 1)

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
    if isinstance(values.get("variants"), list):
        # Bundles made before this was said: in half precision where their graphs were.
        half = all(isinstance(v, dict) and v.get("precision") == "fp16" for v in values["variants"])
        values.setdefault("experts_precision", "fp16" if half else "fp32")
    try:
        manifest = build(Manifest, values, "", kind=UserError)
        _need_consistent(manifest)
    except (UserError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}. {REMEDY}") from None
    return manifest


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


def _need_consistent(manifest: Manifest) -> None:
    """What no field alone can say: names that differ, and a checksum for every file that is read.

    Raises:
        ValueError: says what does not fit.
    """
    names = manifest.task_names()
    if len(set(names)) < len(names):
        raise ValueError(f"two tasks are called {next(name for name in names if names.count(name) > 1)!r}")
    for task in manifest.tasks:
        if len(task.classes) != len(task.display_names):
            raise ValueError(f"task {task.name!r} must have a display name for each of its classes")
        # Anything else in braces would be taken for a field when a class is put in.
        if not task.templates or not all(map(has_one_place, task.templates)):
            raise ValueError(f"task {task.name!r} must have templates with one {{}} each")
    needed = {CLASSES, EXPERTS, SELECTOR, TOKENIZER} | {name for v in manifest.variants for name in v.files()}
    if not needed <= set(manifest.files):
        raise ValueError(f"it has no checksum for {', '.join(sorted(needed - set(manifest.files)))}")
