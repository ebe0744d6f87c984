"""From a source to images and labels of one task."""

from igsp_train.data.images import Skipped, eval_chunks, open_image, read_eval_images
from igsp_train.data.items import Items, TaskData
from igsp_train.data.order import batch_indices
from igsp_train.data.sources import canonical_source, load_task_data
from igsp_train.data.views import TrainViews

__all__ = [
    "Items",
    "Skipped",
    "TaskData",
    "TrainViews",
    "batch_indices",
    "canonical_source",
    "eval_chunks",
    "load_task_data",
    "open_image",
    "read_eval_images",
]
