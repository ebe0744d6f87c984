"""Warnings about a task that was just learned or imported, from its counts and accuracies alone."""

from collections.abc import Mapping, Sequence

from igsp_deploy.data.counts import ClassCount

FEW_IMAGES = 5
"""Training images under which a class is too small to be learned well."""
IMBALANCE = 10
"""Times as many images in the largest class as in the smallest."""
GAP = 15.0
"""Points of accuracy under that of the training images."""
LAST_STEPS = 20
"""Steps at the end whose batches give the accuracy on training images."""


def task_warnings(
    counts: Mapping[str, ClassCount],
    held_out: float | None,
    plain: float | None,
    training: Sequence[float] = (),
) -> list[str]:
    """Sentences about what may be wrong with a task; none where nothing stands out.

    Args:
        counts: images of each class.
        held_out: accuracy on the held-out images, in percent; None where there are none.
        plain: plain CLIP's on the same images.
        training: share of right answers in the batch of each step, 0 to 1: of augmented images, by words alone.
    """
    found = [*_about_classes(counts)]
    if held_out is not None and plain is not None and held_out < plain:
        found.append(
            f"it ends below plain CLIP on the held-out images: {held_out:.1f} % against {plain:.1f} %. Look at the "
            "labels, and at the words of its prompts"
        )
    last = training[-LAST_STEPS:]
    reached = 100 * sum(last) / max(len(last), 1)
    if held_out is not None and reached - held_out > GAP:
        found.append(
            f"{reached:.1f} % of its last training batches were right, by words alone, and {held_out:.1f} % of the "
            "held-out images are. More images, or more different ones, would help more than more steps"
        )
    return found


def _about_classes(counts: Mapping[str, ClassCount]) -> list[str]:
    found = []
    learned = {name: count.learned for name, count in counts.items()}
    small = [name for name, number in learned.items() if number < FEW_IMAGES]
    if small:
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        found.append(f"fewer than {FEW_IMAGES} training images in {', '.join(small[:5])}{more}")
    if learned:
        largest, smallest = max(learned, key=lambda n: learned[n]), min(learned, key=lambda n: learned[n])
        if learned[largest] >= IMBALANCE * max(learned[smallest], 1):
            found.append(
                f"{largest} has {learned[largest]} training images and {smallest} {learned[smallest]}: the small class "
                "may be taken for the large one"
            )
    return found
