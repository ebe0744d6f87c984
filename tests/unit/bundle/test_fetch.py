"""Bundles by the name of their repository, from a Hub that this test runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
import typer.core
from huggingface_hub import constants

from igsp_deploy.bundle.fetch import fetch, local_bundle
from igsp_deploy.bundle.manifest import list_files, read_manifest
from igsp_deploy.cli import main
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.runtime.classifier import Classifier
from tests.fake_hub import FakeHub

if TYPE_CHECKING:
    from tests.conftest import Bundled

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def published(hub: FakeHub, bundled: "Bundled") -> FakeHub:
    """`me/shoes` in two commits; the first one has another card. Files that no manifest names lie beside both."""
    names = ["manifest.json", *list_files(bundled.bundle)]
    files = {name: (bundled.bundle / name).read_bytes() for name in names}
    beside = {"notes.txt": b"no part of it", ".gitattributes": b""}
    hub.commits["me/shoes"] = {OLD: {**files, **beside}, NEW: {**files, **beside}}
    return hub


def fetched(hub: FakeHub) -> list[str]:
    return [request.rpartition("/")[2] for request in hub.requests if request.startswith("GET")]


def test_a_bundle_is_fetched_whole_and_nothing_else(published: FakeHub, bundled: "Bundled") -> None:
    folder = fetch("me/shoes", endpoint=published.address)
    assert folder.name == NEW
    assert list_files(folder) == list_files(bundled.bundle)
    assert read_manifest(folder) == read_manifest(bundled.bundle)
    assert not (folder / "notes.txt").exists()
    assert fetch("me/shoes", OLD, endpoint=published.address).name == OLD


def test_what_is_there_already_is_not_fetched_again(published: FakeHub) -> None:
    fetch("me/shoes", NEW, endpoint=published.address)
    before = len(published.requests)
    fetch("me/shoes", NEW, endpoint=published.address)
    assert len(published.requests) == before
    assert len(fetched(published)) == len(set(fetched(published)))


def test_the_cache_serves_while_the_hub_is_away(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("me/shoes", endpoint=published.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("me/shoes", endpoint=published.address) == folder


@pytest.mark.parametrize("name", ["image.fp32.onnx", "tokenizer.json", "README.md"])
def test_a_file_that_is_not_what_the_manifest_says_is_refused(published: FakeHub, name: str) -> None:
    content = bytearray(published.commits["me/shoes"][NEW][name])
    content[len(content) // 2] ^= 1
    published.commits["me/shoes"][NEW][name] = bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged .* It came from hf:me/shoes; remove .* to fetch it again"):
        fetch("me/shoes", endpoint=published.address)


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("me/boots", None, "hf:me/boots: there is no such repository, or it is private"),
        ("me/shoes", "v9", "hf:me/shoes@v9: the repository has no such revision"),
        ("me/empty", None, "hf:me/empty is no whole bundle: a file is missing"),
        ("me/part", None, "hf:me/part is no whole bundle: a file is missing"),
        ("me/other", None, "is not the manifest of a bundle"),
    ],
)
def test_what_is_no_bundle_is_said(published: FakeHub, repo: str, revision: str | None, message: str) -> None:
    whole = published.commits["me/shoes"][NEW]
    published.commits["me/empty"] = {NEW: {"README.md": b"nothing here"}}
    published.commits["me/part"] = {NEW: {n: c for n, c in whole.items() if n != "text.fp32.onnx"}}
    published.commits["me/other"] = {NEW: {"manifest.json": b"{}"}}
    with pytest.raises(UserError, match=message):
        fetch(repo, revision, endpoint=published.address)


def test_a_hub_that_cannot_be_reached_is_said(hub: FakeHub) -> None:
    with pytest.raises(UserError, match=r"hf:me/shoes is not in the cache .* Check the network"):
        fetch("me/shoes", endpoint="http://127.0.0.1:9")


def test_a_folder_is_taken_as_it_is(hub: FakeHub, tmp_path: Path) -> None:
    assert local_bundle(tmp_path / "hf") == tmp_path / "hf"
    for name in ("hf:", "hf:shoes", "hf:me/shoes@", "hf:me/shoes@a b", "hf:a/b/c", "hf:../shoes/x"):
        with pytest.raises(UsageError, match="is hf:USER/NAME or hf:USER/NAME@REVISION"):
            local_bundle(Path(name))
    assert not hub.requests


def test_predict_and_verify_take_the_name_of_a_repository(
    published: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    published.use(monkeypatch)
    picture = bundled.images("stripes")[0]
    done = igsp("predict", f"hf:me/shoes@{OLD}", picture, "--provider", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout == igsp("predict", bundled.bundle, picture, "--provider", "cpu").stdout
    assert done.stderr == ""
    assert igsp("verify", "hf:me/shoes", "--provider", "cpu").returncode == 0
    missing = igsp("predict", "hf:me/boots", picture)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: hf:me/boots: there is no such repository")


def takes_a_bundle() -> list[str]:
    """Commands that are given a bundle that is there."""
    group = typer.main.get_command(main.app)
    assert isinstance(group, typer.core.TyperGroup)
    given = {
        name
        for name, command in group.commands.items()
        for p in command.params
        if "BUNDLE" in str(p.metavar).split("|")
    }
    return sorted(given - {"export"})  # makes one


def test_every_command_that_takes_a_bundle_takes_the_name_of_a_repository(
    published: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fetch it before anything else, so a damaged one is refused with the file's name."""
    commands = takes_a_bundle()
    assert {"bench", "demo", "inspect", "predict", "push", "serve", "verify"} <= set(commands)
    published.commits["me/shoes"][NEW]["selector.safetensors"] += b"!"
    published.use(monkeypatch)
    others: dict[str, list[Any]] = {
        "predict": [bundled.images("stripes")[0]],
        "push": ["me/boots"],
        "serve": ["--port", 0],
    }
    for command in commands:
        done = igsp(command, "hf:me/shoes", *others.get(command, []))
        assert done.returncode == 1, command
        assert "selector.safetensors has" in done.stderr, command
        assert "It came from hf:me/shoes" in done.stderr, command


def test_inspect_says_what_a_repository_holds(
    published: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    published.use(monkeypatch)
    there = json.loads(igsp("inspect", bundled.bundle, "--json").stdout)
    assert json.loads(igsp("inspect", "hf:me/shoes", "--json").stdout) == {**there, "path": ANY}


def test_python_takes_it_too(published: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    published.use(monkeypatch)
    for opened in (Classifier("hf:me/shoes", "cpu"), Classifier.open("hf:me/shoes@" + OLD, "cpu")):
        assert opened.manifest.task_names() == ["colors", "stripes"]


def test_a_repository_is_no_folder_to_export_to(bundled: "Bundled", igsp: Callable[..., Any]) -> None:
    done = igsp("export", bundled.model, "hf:me/shoes")
    assert done.returncode == 2
    assert "a folder to make" in done.stderr
