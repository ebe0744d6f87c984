"""Command line of pretraining.

python -m igsp_train.research.pretrain --images ../shared/data/pretrain_caltech --out nano.safetensors
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from igsp_deploy.errors import UserError
from igsp_train.research.pretrain.run import Settings, pretrain


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, pretrain, say how large the file is."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m igsp_train.research.pretrain", description="Pretrain the embedded backbone nano."
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of real images, one folder a class")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.num_steps, help="steps of the towers (%(default)s)")
    parser.add_argument("--views", type=int, default=default.num_views, help="views of each image (%(default)s)")
    parser.add_argument("--rendered", type=int, default=default.num_rendered, help="rendered pictures (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="vision (%(default)s)")
    parser.add_argument("--text-learning-rate", type=float, default=default.text_learning_rate, help="(%(default)s)")
    parser.add_argument("--batch", type=int, nargs=3, default=default.batch, help="real, rendered, names (%(default)s)")
    parser.add_argument("--start-from", type=Path, help="train the towers of this weights file further")
    parser.add_argument(
        "--minutes-limit", type=float, default=default.minutes_limit, help="shorten to fit (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="processor threads (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(
        seed=options.seed,
        num_steps=options.steps,
        num_views=options.views,
        num_rendered=options.rendered,
        learning_rate=options.learning_rate,
        text_learning_rate=options.text_learning_rate,
        batch=tuple(options.batch),
        start_from=options.start_from,
        minutes_limit=options.minutes_limit,
    )
    try:
        size_bytes = pretrain(options.images, options.out, settings)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {size_bytes} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
