"""What open_clip offers, and whether it can be learned with: looked at without its weights."""

from collections.abc import Iterator
from dataclasses import dataclass

import open_clip

from igsp_deploy.errors import UserError
from igsp_deploy.model.loading import on_meta
from igsp_deploy.model.named import all_named
from igsp_deploy.model.towers import towers
from igsp_deploy.model.towers.block import Ends
from igsp_deploy.model.towers.opaque import EmbeddingBlock


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of open_clip's architectures.

    Attributes:
        name: what `model.backbone` takes.
        tags: what `model.pretrained` takes beside it.
        image_size: side of its input, in pixels; None where it cannot be built.
        parameters: of both towers; None where it cannot be built, or its text tower is described on the hub.
        context: tokens a text.
        places: where experts can stand: how many blocks of the image and of the text tower, or `embedding` for a tower
            that is taken whole; None where it cannot be built.
        problem: why it is refused; None where it is accepted.
    """

    name: str
    tags: tuple[str, ...]
    image_size: int | None
    parameters: int | None
    context: int
    places: str | None
    problem: str | None


def architectures(part: str = "") -> Iterator[Architecture]:
    """All architectures whose name holds `part`, in open_clip's order; each is built without numbers (0.3 s)."""
    for name in open_clip.list_models():
        if part.lower() in name.lower():
            yield _look(name)


def _look(name: str) -> Architecture:
    config = open_clip.get_model_config(name) or {}
    text = config.get("text_cfg", {})
    size = parameters = places = problem = None
    if "hf_model_name" in text:
        # Any text tower of Hugging Face's is taken as it is; what it is made of, only the hub knows.
        size, places = config["vision_cfg"].get("image_size", 224), "blocks + embedding"
    else:
        try:
            clip = on_meta(name, name)
            image, text_tower = towers(clip, name)
            size, parameters = image.side, sum(p.numel() for p in clip.parameters())
            places = f"{_places(image)} + {_places(text_tower)}"
        except UserError as error:
            problem = str(error).removeprefix(f"{name}: ").rstrip(".")
    return Architecture(
        name=name,
        tags=tuple(open_clip.list_pretrained_tags_by_model(name)),
        image_size=size,
        parameters=parameters,
        context=int(text.get("context_length", 77)),
        places=places,
        problem=problem,
    )


def _places(tower: Ends) -> str:
    return "embedding" if tower.kind is EmbeddingBlock else str(len(tower.inner_blocks))


def short_names() -> list[tuple[str, str, str, str]]:
    """Name, architecture, tag and what for, of those that people should start from and those of installed packages.

    Raises:
        UserError: a package that brings one is broken.
    """
    return [
        (name, short.architecture or "-", short.pretrained or "-", short.what_for)
        for name, short in all_named().items()
    ]
