"""The images of a learned task, found again."""

from collections.abc import Callable

from igsp_deploy.data.frozen import FrozenSplit, frozen_test_items, holds_most, unlearned
from igsp_deploy.data.items import Items
from igsp_deploy.data.sources import canonical_source, list_source, load_task_data
from igsp_deploy.errors import UserError
from igsp_deploy.model.record import TaskRecord

Say = Callable[[str], None]


def find_test_items(
    record: TaskRecord, source: str | None = None, split: FrozenSplit | None = None, say: Say = lambda _: None
) -> Items:
    """Where the test images of a learned task are, from where it was learned or from `source`.

    They are those of the split that was frozen with the task, wherever they lie now. A `source` that has none of them
    is another set of images: its own test images are taken, but never one that was learned from.

    Args:
        record: the task.
        source: where its images are, if not where it was learned.
        split: the frozen split; None for a task from before splits were kept, whose test images are chosen anew.
        say: gets a line about images that went, came or changed.

    Raises:
        UserError: there never were any, they are gone, or their classes are not the learned ones.
    """
    where = source or record.source

    def tell(text: str) -> None:
        say(f"{record.name}: {text}")

    if split is not None and not split.parts["test"] and source is None:
        raise UserError(
            f"task {record.name!r} was learned without test images: there were too few to hold any out, or "
            f"data.test_share was 0. Give images of its classes to `igsp evaluate` or `igsp report` by --task "
            f"{record.name}=FOLDER."
        )
    with_place = f"If they are elsewhere now, `igsp evaluate` and `igsp report` take --task {record.name}=FOLDER."
    try:
        if split is not None:
            found = frozen_test_items(split, list_source(record.name, where), record.classes, tell)
            if found is not None:
                return found
            if source is None:
                raise UserError(f"task {record.name!r}: none of its test images is in {where} any more.")
        settings = {key: record.data[key] for key in ("val_share", "test_share", "seed") if key in record.data}
        data = load_task_data(record.name, where, **settings, look=split is not None)
    except UserError as error:
        raise UserError(f"{error} {with_place}") from error
    if data.classes != record.classes:
        raise UserError(
            f"task {record.name!r}: {where} has the classes {', '.join(data.classes[:5])}..., "
            f"learned were {', '.join(record.classes[:5])}... "
            f"Give the images it was learned from: --task {record.name}=FOLDER"
        )
    test = data.test
    if split is None:
        tell("learned before splits were kept with the task, so its test images are chosen anew")
    else:
        tell(f"{where} holds other images than those at learning; its own test images are used")
        test = unlearned(split, test, tell)
    if not len(test):
        raise UserError(f"task {record.name!r}: {where} has no test images.")
    return test


def check_same_images(record: TaskRecord, source: str, split: FrozenSplit | None) -> None:
    """See that a task was learned from what `source` holds: it is the same text, or most of the images lie there now.

    Args:
        record: the task.
        source: where its images are said to be; not read where that is where it was learned.
        split: its frozen split; None for a task from before splits were kept, whose images are not known.

    Raises:
        UserError: it holds others, or cannot be read.
    """
    if record.source == canonical_source(source):
        return
    name = record.name
    go_on = f"Leave --task {name}=... out to go on without its images, or choose another name for a new task."
    try:
        moved = split is not None and holds_most(split, list_source(name, source))
    except UserError as error:
        raise UserError(f"{error} The model already has a task {name!r}. {go_on}") from error
    if not moved:
        raise UserError(
            f"the model already has a task {name!r}, learned from {record.source}; {source} holds other images. {go_on}"
        )
