"""What a caller wants to be told of images: how many labels, and among what."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from igsp_deploy.runtime.classifier import LabelSets, Prediction, check_min_score
from igsp_deploy.runtime.prompts import check_template
from igsp_serve.batcher import Rows
from igsp_serve.failures import RequestError
from igsp_serve.snapshot import Snapshot
from igsp_serve.texts import check_texts


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The labels that are wanted.

    Attributes:
        top_k: of each image; fewer where there are fewer.
        prompts: texts to choose among instead of learned classes.
        template: sentence with `{}` around each of them; see `as_sentence`.
        min_score: probability under which the best label is called unsure.
        request_id: for those who watch.
    """

    top_k: int = 5
    prompts: Sequence[str] | None = None
    template: str | None = None
    min_score: float = 0.0
    request_id: str = ""

    def checked(self, snapshot: Snapshot, max_texts: int) -> "Labelling":
        """As it can be answered: texts without the space around them, no more labels than there are.

        Raises:
            UserError: wrong numbers, texts or template.
        """
        if isinstance(self.top_k, bool) or self.top_k < 1:
            raise RequestError(f"top_k must be at least 1, got {self.top_k}.")
        check_min_score(self.min_score)
        if self.prompts is None:
            if self.template is not None:
                raise RequestError("a template goes around prompts: give prompts too.")
            return dataclasses.replace(self, top_k=min(self.top_k, snapshot.num_labels))
        prompts = check_texts(self.prompts, "prompts", max_texts)
        template = None if self.template is None else check_template(self.template)
        return dataclasses.replace(self, top_k=min(self.top_k, len(prompts)), prompts=prompts, template=template)

    def label(self, snapshot: Snapshot, rows: Rows) -> list[Prediction]:
        """The model's rows as predictions. With prompts this runs the text tower.

        Raises:
            UserError: two prompts that CLIP reads alike.
        """
        labels = snapshot.labels
        if self.prompts is not None:
            labels = LabelSets(snapshot.classifier, snapshot.known, self.prompts, self.template)
        return snapshot.classifier.predict(rows, labels, self.top_k, self.min_score)
