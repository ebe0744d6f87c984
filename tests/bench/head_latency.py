"""What a head adds to classifying images that are decoded: the graph is the same, the host compares summaries as well.

    python -m tests.bench.head_latency BUNDLE [--batch 1 8 32] [--rounds 41] [--threads 2]

Every task of the bundle is given a random head. Each round classifies a batch of its first task once with heads, once
without and once more without, in an order drawn anew; told are the medians of the ratios within rounds, their bootstrap
intervals of 95 %, and the noise: without over without.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from igsp_deploy.runtime.classifier import Classifier, LabelSets
from igsp_export.bench.timing import interleave, paired_ratio
from igsp_export.images import synthetic_images


def label_sets(classifier: Classifier, heads: Sequence[NDArray[np.float32] | None]) -> LabelSets:
    """The learned classes, with other heads."""
    known = classifier.engine.tasks
    return LabelSets(classifier, replace(known, task_set=replace(known.task_set, heads=tuple(heads))))


def classify(classifier: Classifier, images: NDArray[np.uint8], index: NDArray[np.int64], labels: LabelSets) -> None:
    """From pixels to labels."""
    classifier.predict(classifier.engine.run_images(images, index), labels, 5)


def main() -> None:
    """Print a row a batch size."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.head_latency", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    classifier = Classifier.open(options.bundle, num_threads=options.threads)
    engine, random = classifier.engine, np.random.default_rng(0)
    tasks = engine.tasks.task_set
    width = engine.manifest.head_width(len(tasks.selector.center))
    heads = [random.normal(size=(len(x), width)).astype(np.float32) for x in tasks.class_embeddings]
    words = [None] * len(heads)
    labels = {way: label_sets(classifier, words) for way in ("without", "again")}
    labels["with"] = label_sets(classifier, heads)
    print("| batch | without, ms | with head / without | without / without |\n|---:|---:|---|---|")
    for batch in options.batch:
        images = synthetic_images(batch, engine.manifest.preprocess.size, seed=0)
        index = np.zeros(batch, np.int64)
        calls = {way: partial(classify, classifier, images, index, known) for way, known in labels.items()}
        found = interleave(calls, rounds=options.rounds)
        ratios = [paired_ratio(found[way], found["without"]) for way in ("with", "again")]
        cells = [f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})" for ratio in ratios]
        print(f"| {batch} | {np.median(found['without']):.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
