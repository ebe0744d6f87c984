"""The test images of a learned task, found again."""

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.data.images import read_eval_images
from igsp_deploy.data.items import Items
from igsp_deploy.data.sources import load_task_data
from igsp_deploy.errors import UserError
from igsp_deploy.model.record import TaskRecord


def read_test_images(
    record: TaskRecord, preprocess: PreprocessSpec, source: str | None, console: Console
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Test images `[N, S, S, 3]` and labels of a learned task, from where it was learned or from `source`.

    Raises:
        UserError: the images are gone, or their classes are not the learned ones.
    """
    images, labels, _ = read_eval_images(
        find_test_items(record, source),
        preprocess,
        on_skip=lambda text: console.print(text, markup=False, highlight=False),
    )
    return images, labels


def find_test_items(record: TaskRecord, source: str | None = None) -> Items:
    """Where the test images of a learned task are, from where it was learned or from `source`.

    Raises:
        UserError: the images are gone, or their classes are not the learned ones.
    """
    settings = {key: record.data[key] for key in ("val_share", "test_share", "seed") if key in record.data}
    try:
        data = load_task_data(record.name, source or record.source, **settings)
    except UserError as error:
        raise UserError(
            f"{error} If they are elsewhere now, `igsp evaluate` and `igsp report` take --task {record.name}=FOLDER."
        ) from error
    if data.classes != record.classes:
        raise UserError(
            f"task {record.name!r}: {source or record.source} has the classes {', '.join(data.classes[:5])}..., "
            f"learned were {', '.join(record.classes[:5])}... "
            f"Give the images it was learned from: --task {record.name}=FOLDER"
        )
    if not len(data.test):
        raise UserError(f"task {record.name!r}: {source or record.source} has no test images.")
    return data.test
