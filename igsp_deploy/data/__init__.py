"""From a source to images and labels of one task."""

from igsp_deploy.data.images import Skipped, eval_chunks, open_image, read_chunks, read_eval_images
from igsp_deploy.data.items import Items, TaskData
from igsp_deploy.data.sources import canonical_source, load_task_data

__all__ = [
    "Items",
    "Skipped",
    "TaskData",
    "canonical_source",
    "eval_chunks",
    "load_task_data",
    "open_image",
    "read_chunks",
    "read_eval_images",
]
