"""What open_clip offers, and whether it can be learned with: looked at without its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import open_clip

from igsp_deploy.config import SHORT_NAMES
from igsp_deploy.errors import UserError
from igsp_deploy.model.adaptable import check_adaptable
from igsp_deploy.model.loading import on_meta

HF_TEXT = "its text tower is one of Hugging Face's, which cannot be adapted"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of open_clip's architectures.

    Attributes:
        name: what `model.backbone` takes.
        tags: what `model.pretrained` takes beside it.
        image_size: side of its input, in pixels; None where it cannot be built.
        parameters: of both towers; None where it cannot be built.
        context: tokens a text.
        problem: why it is refused; None where it is accepted.
    """

    name: str
    tags: tuple[str, ...]
    image_size: int | None
    parameters: int | None
    context: int
    problem: str | None


def architectures(part: str = "") -> Iterator[Architecture]:
    """All architectures whose name holds `part`, in open_clip's order; each is built without numbers (0.3 s)."""
    for name in open_clip.list_models():
        if part.lower() in name.lower():
            yield _look(name)


def _look(name: str) -> Architecture:
    config = open_clip.get_model_config(name) or {}
    text = config.get("text_cfg", {})
    size = parameters = None
    problem: str | None = HF_TEXT if "hf_model_name" in text else None
    if problem is None:
        try:
            clip = on_meta(name, name)
            size, parameters = _side(clip.visual), sum(p.numel() for p in clip.parameters())
            check_adaptable(clip, name)
        except UserError as error:
            problem = str(error).removeprefix(f"{name}: ").split(". Choose")[0].rstrip(".")
    return Architecture(
        name=name,
        tags=tuple(open_clip.list_pretrained_tags_by_model(name)),
        image_size=size,
        parameters=parameters,
        context=int(text.get("context_length", 77)),
        problem=problem,
    )


def _side(visual: Any) -> int | None:
    side = visual.image_size
    return int(side[0]) if isinstance(side, (tuple, list)) else side


def short_names() -> list[tuple[str, str, str, str]]:
    """Name, architecture, tag and what for, of those that people should start from."""
    return [(short, *place) for short, place in SHORT_NAMES.items()]
