"""What a task adds to a bundle on disk, under several assumptions about what tasks share.

    python -m tests.bench.task_sizes [--backbone ViT-B-16] [--tasks 100] [--experts 4] [--rank 16] [--classes 20]

Models without training (`make_model`); their experts, routers, selectors and class embeddings are written as
`igsp export` writes them, without the graphs, which do not depend on tasks. A task's share is the files' growth from
the first task to the last one, over the number of tasks between them. The first task brings all of its experts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from igsp_deploy.config import ModelConfig
from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.loading import DEBUG, NANO, RANDOM, load_backbone
from igsp_export.compact import compact, selector_table
from igsp_export.export import STORED
from tests.bench.make_model import make_model


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """What tasks are like.

    Attributes:
        words: the same for people.
        new: experts of a block that a task brings; the others are earlier tasks'.
        text_blocks: as `ModelConfig.text_blocks`: 0 adapts all blocks of the text tower, -1 none.
    """

    words: str
    new: int
    text_blocks: int


def assumptions(experts: int) -> list[Assumption]:
    """From a task that shares nothing to one that shares most."""
    half, few = max(1, experts // 2), 1
    return [
        Assumption(words="both towers, nothing shared", new=experts, text_blocks=0),
        Assumption(words="image tower only, nothing shared", new=experts, text_blocks=-1),
        Assumption(words=f"both towers, {half} of {experts} experts new", new=half, text_blocks=0),
        Assumption(words=f"both towers, {few} of {experts} experts new", new=few, text_blocks=0),
    ]


def file_sizes(model: Path, count: int, embed_dim: int, scratch: Path) -> dict[str, int]:
    """Bytes that the first `count` tasks of a model take beside the graphs, by what experts are stored in."""
    folder = ModelFolder.open(model)
    records = folder.tasks[:count]
    experts = [folder.experts(record.index) for record in records]
    table = compact(experts, [record.ids for record in records], folder.config.rank)
    selector = folder.selector()
    assert selector is not None, "there are tasks"
    rows = selector_table(selector).only(range(count))
    rows.write(scratch / "selector")
    classes = [np.zeros((len(record.classes), embed_dim), np.float32) for record in records]
    (scratch / "classes").write_bytes(
        save({f"{kind}.{t}": value for kind in ("task", "plain") for t, value in enumerate(classes)})
    )
    found = {}
    for name, dtype in STORED.items():
        table.write(scratch / "experts", dtype)
        found[name] = sum((scratch / file).stat().st_size for file in ("experts", "selector", "classes"))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.task_sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", default="ViT-B-16", help="open_clip name (random weights), nano or debug")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--experts", type=int, default=4, help="experts of a task's router in one block")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--classes", type=int, default=20, help="classes a task")
    given = parser.parse_args(arguments)
    if given.tasks < 2:
        parser.error("--tasks must be at least 2")
    print(f"{given.backbone}, {given.tasks} tasks of {given.classes} classes, R = {given.experts * given.rank} a block")
    pretrained = None if given.backbone in (NANO, DEBUG) else RANDOM
    embed_dim = load_backbone(given.backbone, pretrained).embed_dim
    print("\n| task | experts stored in fp32, MB a task | in fp16 |\n| --- | ---: | ---: |")
    for assumed in assumptions(given.experts):
        config = ModelConfig(
            backbone=given.backbone, pretrained=pretrained, rank=given.rank, text_blocks=assumed.text_blocks
        )
        try:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                model = make_model(
                    folder / "model",
                    config,
                    tasks=given.tasks,
                    experts=given.experts,
                    new=assumed.new,
                    classes=given.classes,
                )
                first, all_ = (file_sizes(model, count, embed_dim, folder) for count in (1, given.tasks))
        except UserError as error:
            parser.exit(error.exit_code, f"error: {error}\n")
        share = {name: (all_[name] - first[name]) / (given.tasks - 1) / 1e6 for name in STORED}
        print(f"| {assumed.words} | {share['fp32']:.3g} | {share['fp16']:.3g} |", flush=True)


if __name__ == "__main__":
    main()
