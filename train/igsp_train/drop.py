"""Taking the last task out of a model, as if it had never been learned."""

from pathlib import Path

from igsp_deploy.errors import UserError
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.record import TaskRecord, users_of
from igsp_deploy.model_path import locked_model, require_model
from igsp_train.checkpoint import clear_checkpoint, load_checkpoint


def drop_task(model_path: Path, name: str, *, discard: bool = False) -> TaskRecord:
    """Remove task `name`, the last one of a model. The same task learned anew is the same to the bit.

    Args:
        model_path: the model folder.
        name: of the task.
        discard: drop a task with it whose learning upon it is unfinished, instead of refusing.

    Returns:
        What was known of it.

    Raises:
        UserError: there is no such task, it is not the last one (names those that use its experts), another is being
            learned upon it, or the folder cannot be written; the model is as before.
    """
    require_model(model_path)
    with locked_model(model_path):
        folder = ModelFolder.open(model_path)
        index = folder.task_index(name)
        if index != len(folder.tasks) - 1:
            raise UserError(_not_the_last(folder, index))
        unfinished = load_checkpoint(model_path)
        if unfinished is not None:
            # One of `name` itself is left where learning it ended between its commit and the last clearing.
            if unfinished[0].get("learned") == len(folder.tasks) and not discard:
                raise UserError(
                    f"{model_path} holds an unfinished task that is being learned upon {name!r}. Finish it by the "
                    "command that began it, or pass --discard to drop both."
                )
            clear_checkpoint(model_path)
        record = folder.tasks[-1]
        folder.remove_last()
    return record


def _not_the_last(folder: ModelFolder, index: int) -> str:
    name, used = folder.tasks[index].name, users_of(folder.tasks, index)
    users = ", ".join(f"{later} uses {count} of its experts" for later, count in used.items() if count)
    first = ", then ".join(reversed(used))
    return (
        f"{name!r} is not the last task of {folder.path}, and those after it were learned upon it"
        f"{f': {users}' if users else ', though none uses an expert of it'}. Drop {first} first."
    )
