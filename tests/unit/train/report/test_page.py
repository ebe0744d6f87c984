"""The page: whole, closed, escaped, at any size."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from igsp_deploy.bundle.preprocess import PreprocessSpec
from igsp_deploy.data.items import Items, StoredImage
from igsp_train.report.evaluation import ClassAnswers, check_evaluation
from igsp_train.report.examples import Example, Examples, Mistake, name_mistakes, pictures_of
from igsp_train.report.gather import NotUsed, ReportData, gather
from igsp_train.report.page import render
from igsp_train.report.places import without_folders
from tests.unit.train.report.made_up import Folder, make_data, make_evaluation, make_records
from tests.unit.train.report.page_parts import Parts, external

SECTIONS = ["short", "tasks", "accuracy", "worst", "growth", "sharing", "choice", "convergence", "examples", "unused"]
SECTIONS += ["cost", "made"]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (2, 100), (13, 3), (40, 2)])
def test_every_size_has_all_sections_and_loads_nothing(count: int, classes: int) -> None:
    page = render(make_data(count, classes=classes, name="a-rather-long-name-of-a-task-that-nobody-would-type"))
    parts = Parts(page)
    assert [name for name in SECTIONS if name not in parts.ids] == []
    assert external(page) == []
    assert parts.tags.count("h1") == 1
    for name in ("given", "chosen"):
        assert name in page
    assert "class 99" in page or classes < 100


def test_the_closed_world_test_sees_what_is_not_closed() -> None:
    assert external('<link href="https://x.y/a.css">') == ["https://x.y/a.css"]
    assert external("<style>@import 'a.css'; b { background: url(http://x.y/p.png) }</style>") != []
    assert external("<script>1</script>") == ["script"]


def test_the_numbers_of_the_evaluation_are_on_the_page() -> None:
    text = " ".join(Parts(render(make_data(3))).text)
    for number in ("90.0", "89.0", "88.0", "10.1", "10.2", "89.5", "12.5", "50.5", "80.2", "25.0", "75.0"):
        assert number in text, number
    assert "Nothing was forgotten" in text
    assert "igsp train toy --set model.backbone=debug --set model.rank=4" in text
    assert "--task task-2=data/2" in text


def test_accuracy_among_all_classes_is_told_for_every_moment() -> None:
    text = "|".join(part.strip() for part in Parts(render(make_data(3, classes=400))).text if part.strip())
    assert "|right (%)|task-0|400|70.0|task-1|800|69.4|task-2|1,200|68.8|Three numbers" in text
    assert "|Transfer|12.5|12.5|–|" in text
    assert "|Average|50.5|50.5|69.2|" in text
    assert "|Last|80.2|80.2|55.5|" in text
    assert "With all 1200 classes as possible answers, it is right about 68.8 %." in text
    assert "as possible answers, it is right" not in "".join(Parts(render(make_data(1))).text)


def test_classes_stand_with_the_worst_first_and_what_they_were_taken_for() -> None:
    text = "|".join(part.strip() for part in Parts(render(make_data(1))).text if part.strip())
    assert "|class|images|recall (%)|precision (%)|F1 (%)|taken for|c2|10|80.0|–|88.5|c1 (2)|c1|10|90.0" in text
    assert "|image of|c0|c1|c2|c0|10|0|0|c1|1|9|0|c2|0|2|8|" in text
    assert "task-0: 6.2 points" in text
    many = "|".join(part.strip() for part in Parts(render(make_data(1, classes=41))).text if part.strip())
    assert "image of" not in many
    assert "|c40|" in many


def test_how_learning_went_is_shown_of_tasks_that_were_looked_at() -> None:
    data = make_data(2)
    assert "learning" not in Parts(render(data)).ids
    curves = dataclasses.replace(data.tasks[1].curves, accuracy=[0.5] * 30, looks=[(25, 0.5), (30, 0.6)])
    data = dataclasses.replace(data, tasks=[data.tasks[0], dataclasses.replace(data.tasks[1], curves=curves)])
    page = render(data)
    parts = Parts(page)
    assert {"learning"} <= set(parts.ids)
    assert "#learning" in parts.addresses
    assert page.count("of the held-out images were right after 30 steps") == 2  # once to see, once to hear
    assert "every 25 steps" in page


def test_without_classes_in_the_evaluation_there_is_no_section_of_them() -> None:
    values = make_data(2)
    values = dataclasses.replace(
        values, evaluation=dataclasses.replace(values.evaluation, per_class=[], calibration=[])
    )
    parts = Parts(render(values))
    assert "classes" not in parts.ids
    assert "#classes" not in parts.addresses


def test_forgetting_is_said_when_the_numbers_show_it() -> None:
    values = make_data(2)
    values.evaluation.given[-1][0] = 80.0
    text = " ".join(Parts(render(values)).text)
    assert "Nothing was forgotten" not in text
    assert "task-0 lost most since it was learned: 10.0 points" in text


def test_what_users_named_is_escaped_wherever_it_stands() -> None:
    evil = '<img src=x onerror="alert(1)">&"\'</title><script>alert(2)</script>'
    example = Example(picture=PIXEL, truth=evil, predicted=evil, probability=51.0, chosen=None, right=False)
    values = make_data(2, title=evil, shown=[example])
    tasks = [dataclasses.replace(task, name=evil, classes=[evil], templates=[evil]) for task in values.tasks]
    made: Any = {"class": evil, "images": 2, "recall": 50, "precision": 50, "f1": 50, "taken_for": [[evil, 1]]}
    row = ClassAnswers(**made)
    evaluation = dataclasses.replace(values.evaluation, per_class=[[row]] * 2)
    values = dataclasses.replace(values, tasks=tasks, commands=[evil], model=evil, evaluation=evaluation)
    mistake = Mistake(task=evil, file=evil, truth=evil, predicted=evil, probability=51.0, picture=PIXEL)
    unused = NotUsed(when="in the evaluation", count=1, first=[(evil, evil)])
    tasks = [dataclasses.replace(task, not_used=[unused]) for task in tasks]
    values = dataclasses.replace(values, tasks=tasks, worst=[mistake])
    page = render(values)
    parts = Parts(page)
    assert "script" not in parts.tags
    assert external(page) == []
    assert parts.tags.count("img") == 3  # one example a task, and one mistake
    assert evil in "".join(parts.text)


def test_every_picture_has_a_text_and_mistakes_are_told_in_words() -> None:
    right = Example(picture=PIXEL, truth="cat", predicted="cat", probability=97.4, chosen="task-0", right=True)
    wrong = Example(picture=PIXEL, truth="cat", predicted="dog", probability=51.0, chosen=None, right=False)
    parts = Parts(render(make_data(1, shown=[right, wrong])))
    text = "".join(parts.text)
    assert parts.images_without_text == 0
    assert "✓ right: cat (97" in text
    assert "✗ wrong: dog (51" in text
    assert "it is cat" in text
    assert "chosen: plain CLIP" in text


def test_values_that_nobody_measured_are_dashes() -> None:
    values = make_data(2)
    for row in (*values.evaluation.given, *values.evaluation.auto):
        row[:] = [None, None]
    bare = [dataclasses.replace(task, given=None, chosen=None, zero_shot=None, seconds=None) for task in values.tasks]
    page = render(dataclasses.replace(values, tasks=bare))
    assert "–" in page
    assert "None" not in page
    assert "nan" not in page


def test_missing_images_are_said_with_the_reason() -> None:
    values = make_data(1)
    gone = dataclasses.replace(values.tasks[0], examples=Examples(shown=[], problem="data/0 does not exist."))
    text = "".join(Parts(render(dataclasses.replace(values, tasks=[gone]))).text)
    assert "the test images are not where they were" in text
    assert "data/0 does not exist." in text


def _said(values: ReportData) -> str:
    return "|".join(part.strip() for part in Parts(render(values)).text if part.strip())


def test_the_worst_mistakes_are_named_by_place_class_and_probability() -> None:
    values = make_data(3, picture=PIXEL)
    page = render(values)
    assert "|class 1|(100\xa0%)|it is class 0|task-0:|test/c0/0.jpg|" in _said(values)
    assert page.count(PIXEL) == 3
    assert "no test image is wrong" in _said(dataclasses.replace(values, worst=[]))
    old = Parts(render(dataclasses.replace(values, worst=None)))
    assert "worst" not in old.ids
    assert "#worst" not in old.addresses


class _Rows:
    name = "a set x"

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = Image.fromarray(image)

    def read(self, index: int) -> Image.Image:
        return self.image


def test_however_many_mistakes_and_files_there_are_a_page_stays_small() -> None:
    row = {"task": "task-0", "file": "f" * 40, "label": "c0", "predicted": "c1", "score": 99.0}
    records = make_records(1)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    items = Items([StoredImage(_Rows(noise), 0)], np.zeros(1, np.int64))
    picture = pictures_of(["x[0]"], items, None, PreprocessSpec(size=224, mean=(0, 0, 0), std=(1, 1, 1)))["x[0]"]
    evaluation = check_evaluation(
        {
            **make_evaluation(records),
            "worst": [row] * 5000,
            "skipped": [{"count": 9999, "first": [["f" * 40, "TXT"]] * 9999}],
        },
        records,
        "e.json",
    )
    worst = name_mistakes(evaluation.worst or [], records, {("task-0", "f" * 40): picture})
    folder: Any = Folder(records)
    page = gather(folder, evaluation, [Examples(shown=[])], worst, title="t", made="now", version="0")
    assert "|and 9,979 more|" in _said(page)
    assert render(page).count("data:image/jpeg") == 20
    # Noise is the worst that a picture can be.
    assert len(render(page)) - len(render(make_data(1))) < 20 * 24_000, len(picture)


def test_files_that_were_not_used_stand_with_their_reason() -> None:
    values = make_data(2)
    unused = [NotUsed(when="when it was learned", count=1, first=[("boot/a.txt", "TXT")])]
    tasks = [dataclasses.replace(values.tasks[0], not_used=unused), dataclasses.replace(values.tasks[1], not_used=[])]
    text = _said(dataclasses.replace(values, tasks=tasks))
    assert "|task-0: 1 when it was learned|file|reason|when|boot/a.txt|TXT|when it was learned|" in text
    assert "task-0: 22 in the evaluation" in _said(values)
    none = [dataclasses.replace(task, not_used=[]) for task in tasks]
    assert "No file is known" in _said(dataclasses.replace(values, tasks=none))


def test_warnings_of_a_task_stand_under_the_tasks() -> None:
    values = make_data(2)
    warned = dataclasses.replace(values.tasks[1], warnings=["fewer than 5 training images in <b>"])
    text = _said(dataclasses.replace(values, tasks=[values.tasks[0], warned]))
    assert "|task-1|: fewer than 5 training images in <b>.|" in text
    assert "fewer than 5" not in _said(values)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--task 'shoes=/home/me/my photos/shoes'", "--task 'shoes=shoes'"),
        ("hf:/srv/data/saved?label=label", "hf:saved?label=label"),
        ("torchvision:CIFAR10?root=/data", "torchvision:CIFAR10?root=data"),
        ("/srv/a/b.jpg cannot be decoded", "b.jpg cannot be decoded"),
        ("hf-hub:timm/ViT and data/shoes 50 / 100", "hf-hub:timm/ViT and data/shoes 50 / 100"),
    ],
)
def test_paths_are_told_without_the_folders_of_a_machine(text: str, shown: str) -> None:
    assert without_folders({"a": [text]}) == {"a": [shown]}


def test_a_setting_that_is_a_path_is_told_without_its_folders_spaces_and_all() -> None:
    assert without_folders({"pretrained": "/home/my weights/b.pt", "name": "local-dir:/my models/b"}) == {
        "pretrained": "b.pt",
        "name": "local-dir:b",
    }
