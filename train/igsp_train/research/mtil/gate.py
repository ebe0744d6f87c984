"""The gate before any training: plain CLIP must give the published zero-shot figures.

If a set is off, its prompts, class names, splits or images are not those of the benchmark.
"""

from dataclasses import dataclass

from rich.console import Console

from igsp_deploy.data.images import eval_chunks
from igsp_deploy.model.backbone import Backbone
from igsp_deploy.model.learned import Learned, LearnedClip
from igsp_deploy.names import PLAIN
from igsp_train.evaluate import accuracies
from igsp_train.research.mtil.check import SetCheck
from igsp_train.research.mtil.facts import plain_name

BACKBONE, PRETRAINED = "ViT-B-16-quickgelu", "openai"
"""The model that the expected figures are of."""

TOLERANCE = 1.0
"""Points by which a figure may differ: other versions of pillow, and for random splits other orders of the files."""


@dataclass(frozen=True)
class GateResult:
    """One set: its zero-shot accuracy beside the expected one, in percent."""

    name: str
    expected: float
    measured: float
    images: int
    off: bool


def run_gate(
    backbone: Backbone, checks: list[SetCheck], *, tolerance: float = TOLERANCE, console: Console
) -> list[GateResult]:
    """Classify the test images of every set that is there with plain CLIP and the set's ensemble of prompts.

    Args:
        backbone: plain CLIP.
        checks: what was found of the sets.
        tolerance: points by which a figure may differ from the expected one.
        console: gets a line a set.
    """
    results = []
    for check in checks:
        if check.found is None:
            continue
        one, items = check.one, check.found.splits["test"]
        names = [
            one.display_names[one.known[plain_name(name)]] if plain_name(name) in one.known else name
            for name in check.found.classes
        ]
        chunks = eval_chunks(items, backbone.preprocess, lambda text: console.print(text, markup=False))
        plain = Learned(experts={}, display_names=names, templates=one.templates)
        found = accuracies(LearnedClip(backbone, [], [plain]), [PLAIN], chunks)
        measured = found[0] if found else 0.0
        expected = one.zero_shot
        off = abs(measured - expected) > tolerance
        console.print(
            f"{one.name}: zero-shot {measured:.1f} %, expected {expected:.1f} %", markup=False, highlight=False
        )
        results.append(GateResult(one.name, expected, measured, len(items), off))
    return results
