"""One model of each family at full size, with random weights: latency of the image graph beside the plain tower's.

    python -m tests.bench.families [NAME ...] [--seconds 20] [--batch 1]

Three tasks with four experts of rank 16 in every block that can have some. Rounds are interleaved; a ratio is the
median over rounds of the ratio within a round, with its 95 % interval. Tokenizers that lie on the hub are not needed.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch

from igsp_deploy.config import ModelConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.learned import LearnedClip
from igsp_deploy.names import AUTO
from igsp_deploy.runtime.graph import Graph, SessionSettings
from igsp_deploy.runtime.providers import CPU
from igsp_export.bench.graphs import eager_module, plain_session
from igsp_export.bench.machine import describe_machine
from igsp_export.bench.timing import interleave, paired_ratio
from igsp_export.images import synthetic_images
from igsp_export.onnx_file import Signature, stack_names, write_onnx
from tests.bench.make_model import make_model

MODELS = (
    "ViT-B-16",
    "ViT-B-16-SigLIP",
    "ViTamin-S",
    "MobileCLIP2-B",
    "PE-Core-B-16",
    "EVA02-B-16",
    "convnext_base",
    "MobileCLIP2-S2",
    "coca_ViT-B-32",
    "RN50",
)


def without_hub(name: str, folder: Path) -> str:
    """A name for the same architecture with CLIP's own tokenizer: the image tower is what is measured."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    if config["text_cfg"].pop("hf_tokenizer_name", None) is None:
        return name
    config["text_cfg"].pop("tokenizer_kwargs", None)
    config["text_cfg"]["vocab_size"] = 49408
    # By the name alone open_clip would take another tokenizer.
    path = folder / f"{name.replace('SigLIP', 'measured')}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return path.stem


def measure(name: str, batch: int, seconds: float, threads: int) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        config = ModelConfig(backbone=without_hub(name, root), pretrained="random", text_blocks=-1)
        folder = ModelFolder.open(make_model(root / "model", config, tasks=3))
        learned = LearnedClip.open(folder)
        settings = SessionSettings(provider=CPU, num_threads=threads)
        plain = plain_session(learned.backbone, "fp32", 23, settings)
        module = eager_module(folder, learned, "fp32", CPU)
        size = learned.backbone.preprocess.size
        example = {
            "images": torch.zeros(3, size, size, 3, dtype=torch.uint8),
            "task": torch.zeros(3, dtype=torch.int64),
        }
        outputs = ["features", "used_task", "task_scores", "summary"]
        path = root / "image.onnx"
        write_onnx(module, Signature(inputs=example, outputs=outputs, lengths={}), path, opset=23)
        buffers = dict(module.named_buffers())
        graph = Graph(path, settings)
        stacks = graph.bind({stack: buffers[stack].numpy() for stack in stack_names(module)})
        images = synthetic_images(batch, size, seed=0)
        mixed, chosen = np.arange(batch, dtype=np.int64) % 3, np.full(batch, AUTO, dtype=np.int64)
        found = interleave(
            {
                "plain": lambda: plain.run({"images": images}, {}),
                "named": lambda: graph.run({"images": images, "task": mixed}, stacks),
                "chosen": lambda: graph.run({"images": images, "task": chosen}, stacks),
            },
            seconds=seconds,
        )
        ratios = [paired_ratio(found[way], found["plain"]) for way in ("named", "chosen")]
        cells = [f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" for ratio in ratios]
        blocks = learned.backbone.vision_depth
        return f"| {name} | {size} | {blocks} | {np.median(found['plain']):.1f} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.families", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=MODELS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: as onnxruntime chooses")
    given = parser.parse_args()
    print(describe_machine(CPU, given.threads))
    print("| model | pixels | image blocks | plain, ms | tasks named / plain | tasks chosen / plain |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in given.names:
        print(measure(name, given.batch, given.seconds, given.threads), flush=True)


if __name__ == "__main__":
    main()
