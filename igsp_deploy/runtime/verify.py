"""`igsp verify`: is a bundle whole, and does it compute here what it computed when it was made?"""

from pathlib import Path
from typing import Any

import numpy as np

from igsp_deploy.bundle.manifest import REFERENCE, REMEDY, TOKENIZER
from igsp_deploy.bundle.reference import (
    SCORE_TOLERANCE,
    Reference,
    feature_tolerance,
    largest_difference,
    score_difference,
    wrong_choices,
)
from igsp_deploy.bundle.tokenizer import open_tokenizer
from igsp_deploy.errors import UserError
from igsp_deploy.names import AUTO, PLAIN
from igsp_deploy.runtime.classifier import Classifier
from igsp_deploy.runtime.engine import Engine
from igsp_deploy.runtime.providers import Provider


def verify_bundle(bundle: Path, providers: Provider = "auto", *, precision: str | None = None) -> dict[str, Any]:
    """Check a bundle's files, and its graphs against the outputs PyTorch gave for its reference inputs.

    Args:
        bundle: the bundle.
        providers: where to run.
        precision: graphs to check; default the ones that would be used.

    Returns:
        `provider`, `precision`, `files` (number checked), and `rows`: what was asked, inputs, largest difference,
        allowed difference, whether it holds.

    Raises:
        UserError: the bundle is missing or damaged.
    """
    engine = Engine.open(bundle, providers, precision=precision)
    Classifier(engine)
    manifest = engine.manifest
    reference = Reference.read(bundle / REFERENCE)
    found = (reference.features.shape[1], len(reference.thresholds))
    if found != (manifest.backbone.embed_dim, len(manifest.tasks)):
        raise UserError(
            f"{bundle / REFERENCE} is of another bundle: it has embeddings of {found[0]} numbers and {found[1]} tasks. "
            f"{REMEDY}"
        )
    tolerance = feature_tolerance(engine.variant.precision, manifest.experts_precision)
    score_tolerance = SCORE_TOLERANCE.get(engine.variant.precision, SCORE_TOLERANCE["fp32"])
    rows: list[dict[str, Any]] = []

    def add(what: str, inputs: int, difference: float, allowed: float) -> None:
        holds = difference <= allowed
        rows.append({"what": what, "inputs": inputs, "difference": difference, "allowed": allowed, "holds": holds})

    output = engine.run_images(reference.images[reference.image_index], reference.task)
    names = {AUTO: "task auto", PLAIN: "plain CLIP", **{t: f"task {n}" for t, n in enumerate(manifest.task_names())}}
    same = output.task == reference.used_task
    for task, name in names.items():
        asked = reference.task == task
        picked = asked & same
        add(name, int(asked.sum()), largest_difference(output.features[picked], reference.features[picked]), tolerance)
    of_image = reference.image_index
    margins, sizes = reference.task_scores[of_image], reference.score_sizes[of_image]
    scores = score_difference(output.task_scores, margins, sizes)
    add("selector scores", len(reference.task), scores, score_tolerance)
    wrong, _ = wrong_choices(
        output.task,
        reference.used_task,
        margins,
        reference.thresholds,
        sizes,
        score_tolerance,
    )
    add("choices of another task", len(output.task), float(wrong), 0.0)
    texts = engine.embed_text(reference.ids, reference.text_task)
    add("texts", len(texts), largest_difference(texts, reference.embeddings), tolerance)
    prompts = [task.templates[0].format(task.display_names[0]) for task in manifest.tasks]
    ids = open_tokenizer(bundle / TOKENIZER, manifest.backbone.context_length, manifest.tokenizer)(prompts)
    add("token ids that differ", ids.size, float(np.count_nonzero(ids != reference.ids[: len(ids)])), 0.0)
    return {
        "bundle": str(bundle),
        "provider": engine.provider,
        "precision": engine.variant.precision,
        "files": len(manifest.files),
        "rows": rows,
        "holds": all(row["holds"] for row in rows),
    }


def require(report: dict[str, Any]) -> None:
    """Turn a failed verification into an error.

    Raises:
        UserError: names what does not hold.
    """
    failed = [row["what"] for row in report["rows"] if not row["holds"]]
    if failed:
        raise UserError(
            f"{report['bundle']} does not compute what it did when it was made ({', '.join(failed)}) with "
            f"{report['precision']} on {report['provider']}. Try --provider cpu, or export it again."
        )
