"""Names of backbones beside open_clip's own: ours, and those that installed packages bring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from igsp_deploy.entry import described, installed_names, load_installed, load_one
from igsp_deploy.errors import UserError

GROUP = "igsp.backbones"
"""Entry points of packages that bring backbones: a name, and a `NamedBackbone`."""
_WHAT = "backbone"


@dataclass(frozen=True, kw_only=True)
class NamedBackbone:
    """A name that stands for an architecture with its weights, or for a function that makes the CLIP.

    Attributes:
        what_for: a line for `igsp backbones`.
        architecture: what the name stands for: open_clip's, `hf-hub:ORG/NAME` or `local-dir:PATH`.
        pretrained: the tag, or the path of a checkpoint; None where the architecture brings its weights.
        build: in place of both: gives an `open_clip` CLIP (or what has its towers, `encode_image` and `encode_text`)
            with its weights, and its open_clip tokenizer. It is called whenever the backbone is loaded.
    """

    what_for: str
    architecture: str | None = None
    pretrained: str | None = None
    build: Callable[[], tuple[Any, Any]] | None = None


SHORT_NAMES = {
    "clip-b16": NamedBackbone(
        architecture="ViT-B-16-quickgelu",
        pretrained="openai",
        what_for="OpenAI's own, which papers compare with (MTIL too)",
    ),
    "dfn-b16": NamedBackbone(
        architecture="ViT-B-16-quickgelu",
        pretrained="dfn2b",
        what_for="of the same size, from better chosen pictures; the one to start from",
    ),
    "dfn-l14": NamedBackbone(
        architecture="ViT-L-14-quickgelu",
        pretrained="dfn2b",
        what_for="larger, at several times the work an image",
    ),
    "siglip2-b16": NamedBackbone(
        architecture="ViT-B-16-SigLIP2",
        pretrained="webli",
        what_for="texts in many languages (extra transformers)",
    ),
    "mobileclip2-s2": NamedBackbone(
        architecture="MobileCLIP2-S2",
        pretrained="dfndr2b",
        what_for="small and fast; experts in its last stage",
    ),
}
"""Ours."""


def short_names() -> list[str]:
    """Ours and those of installed packages, which are not loaded for that."""
    return [*SHORT_NAMES, *(name for name in installed_names(GROUP) if name not in SHORT_NAMES)]


def all_named() -> dict[str, NamedBackbone]:
    """Ours and those of installed packages.

    Raises:
        UserError: see `named`.
    """
    return {**SHORT_NAMES, **{name: _checked(name, one) for name, one in load_installed(GROUP, _WHAT).items()}}


def named(name: str) -> NamedBackbone | None:
    """What a name stands for; None where it is no short name.

    Raises:
        UserError: the package that brings it is broken, or its name is one of ours; says which package.
    """
    if name in installed_names(GROUP):
        return _checked(name, load_one(GROUP, name, _WHAT))
    return SHORT_NAMES.get(name)


def _checked(name: str, one: object) -> NamedBackbone:
    which = described(GROUP, name, _WHAT)
    if not isinstance(one, NamedBackbone):
        raise UserError(f"{which} is a {type(one).__name__}, not an {__name__}.NamedBackbone.")
    if name in ("nano", "debug", *SHORT_NAMES):
        raise UserError(f"{which} has the name of another backbone. Choose another name.")
    if (one.architecture is None) == (one.build is None) or (one.build is not None and one.pretrained is not None):
        raise UserError(f"{which} must have an architecture, with or without pretrained, or build alone.")
    return one
