"""From a folder or a manifest to images and labels of one task."""

from igsp_train.data.images import Skipped, read_eval_images
from igsp_train.data.items import Items, TaskData
from igsp_train.data.order import batch_indices
from igsp_train.data.sources import load_task_data
from igsp_train.data.views import TrainViews

__all__ = ["Items", "Skipped", "TaskData", "TrainViews", "batch_indices", "load_task_data", "read_eval_images"]
