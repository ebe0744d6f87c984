"""The prompts of a task, as the text tower will read them."""

from collections.abc import Callable

from igsp_deploy.bundle.tokenizer import check_distinct
from igsp_deploy.data import TaskData
from igsp_deploy.errors import UserError
from igsp_deploy.model.backbone import Backbone


def check_prompts(task: TaskData, backbone: Backbone, say: Callable[[str], None]) -> None:
    """Refuse classes that the text tower cannot tell apart, and say once where a prompt is cut.

    Args:
        task: its templates and display names.
        backbone: its tokenizer and context.
        say: gets one line if prompts are cut.

    Raises:
        UserError: two classes have the same prompt after cleaning, or differ only in what is cut; names both.
    """
    cut: list[str] = []
    for template in task.templates:
        prompts = [template.format(name) for name in task.display_names]
        ids = backbone.tokenize(prompts).cpu().numpy()
        # No room is left for one word more: cut, or full to the last token.
        longer = backbone.tokenize([f"{prompt} x" for prompt in prompts]).cpu().numpy()
        cut += [prompt for prompt, row, more in zip(prompts, ids, longer, strict=True) if (row == more).all()]
        try:
            check_distinct(prompts, ids)
        except UserError as error:
            raise UserError(f"task {task.name!r}: {error} Change the display names or the template.") from error
    if cut:
        say(
            f"{len(cut)} prompts fill the {backbone.context_length} tokens that the text tower reads, and are cut "
            f"there; the first: {cut[0]}"
        )
