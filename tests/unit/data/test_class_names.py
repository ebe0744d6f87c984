"""Words for the classes."""

import json
from pathlib import Path

import pytest

from igsp_deploy.data.class_names import load_class_names
from igsp_deploy.errors import UserError


def test_without_a_file_folder_names_become_words(tmp_path: Path) -> None:
    names = load_class_names(tmp_path / "classes.json", ["car_side", "t-shirt"])
    assert names.display_names == ["car side", "t shirt"]
    assert names.templates == ["a photo of a {}."]


def test_the_file_gives_templates_and_some_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"templates": ["a {}", "one {} alone"], "classes": {"t-shirt": "T-shirt"}}')
    names = load_class_names(path, ["car_side", "t-shirt"])
    assert names.display_names == ["car side", "T-shirt"]
    assert names.templates == ["a {}", "one {} alone"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "damaged"),
        ("[]", "must hold an object"),
        ('{"klasses": {}}', "'klasses' is not known"),
        ('{"template": "a photo"}', "must hold {} once"),
        ('{"template": "a {} and {}"}', "must hold {} once"),
        ('{"template": "a {name} {}"}', "no other braces"),
        ('{"template": 3}', "must be a list of texts"),
        ('{"templates": []}', "must be a list of texts"),
        ('{"template": "{}", "templates": ["{}"]}', "not both"),
        ('{"classes": ["cat"]}', "must be an object that maps"),
        ('{"classes": {"cat": 1}}', "must be an object that maps"),
        ('{"classes": {"cow": "a cow"}}', "names 1 classes that are not in the data: cow"),
        ('{"classes": {"cat": "Dog"}}', "'cat' and 'dog' have the same display name"),
        ('{"classes": {"cat": " "}}', "empty display name"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=text) as caught:
        load_class_names(path, ["cat", "dog"])
    assert "classes.json" in str(caught.value)


def test_folder_names_that_read_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="same display name 'a b'"):
        load_class_names(tmp_path / "classes.json", ["a_b", "a-b"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("a  b", "a b"),
        ("fish &amp; chips", "fish & chips"),
        ("\uff21\uff22", "AB"),
        ("\u201cx\u201d", '"x"'),
        ("Cat", "cat"),
    ],
)
def test_display_names_that_are_the_same_after_cleaning_are_refused(tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": {"x": one, "y": other}}), encoding="utf-8")
    with pytest.raises(UserError, match="classes 'x' and 'y' have the same display name"):
        load_class_names(path, ["x", "y"])


def test_a_class_is_found_however_its_accents_were_written(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": {"cafe\u0301": "coffee house"}}), encoding="utf-8")
    assert load_class_names(path, ["bar", "caf\u00e9"]).display_names == ["bar", "coffee house"]
    path.write_text(json.dumps({"classes": {"cafe\u0301": "a", "caf\u00e9": "b"}}), encoding="utf-8")
    with pytest.raises(UserError, match="is there twice"):
        load_class_names(path, ["bar", "caf\u00e9"])
