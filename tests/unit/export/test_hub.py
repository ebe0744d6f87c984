"""Pushing a bundle, to a hub that this test runs."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import constants

from igsp_deploy.bundle.manifest import list_files
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.runtime.engine import Engine
from igsp_export.hub import check_push, push
from tests.fake_hub import TOKEN, FakeHub

if TYPE_CHECKING:
    from tests.conftest import Bundled

# huggingface_hub sends files to storage in a way that its own HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_every_file_of_the_bundle_arrives_unchanged(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    assert push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address) == f"{hub.address}/me/shoes"
    found = {name: hashlib.sha256(content).hexdigest() for name, content in hub.repos["me/shoes"].items()}
    assert found == contents(bundled.bundle)
    assert hub.private == {"me/shoes": False}
    assert len(hub.objects) >= 3
    for name, content in hub.repos["me/shoes"].items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert Engine.open(tmp_path / "got", "cpu", num_threads=1).manifest.task_names() == ["colors", "stripes"]


def test_the_model_card_says_what_the_hub_searches_by(hub: FakeHub, bundled: "Bundled") -> None:
    push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
    card = hub.cards[-1]
    assert card["library_name"] == "igsp-deploy"
    assert card["pipeline_tag"] == "zero-shot-image-classification"
    assert card["license"]
    assert {"clip", "onnx"} <= set(card["tags"])


def test_the_model_card_names_every_file_of_the_bundle(bundled: "Bundled") -> None:
    bundle = bundled.bundle
    card = (bundle / "README.md").read_text()
    for name in list_files(bundle):
        assert name == "README.md" or f"| `{name}` |" in card
    assert not re.search(r"[{}]", card)


def test_the_address_and_the_token_of_the_environment_are_used(
    hub: FakeHub, bundled: "Bundled", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push(bundled.bundle, "me/shoes") == f"{hub.address}/me/shoes"
    assert "manifest.json" in hub.repos["me/shoes"]


def test_an_export_pushes_from_the_command_line(
    hub: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.use(monkeypatch)
    done = igsp("export", bundled.model, tmp_path / "bundle", "--no-latency", "--push", "me/shoes", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [f"{hub.address}/me/shoes", str(tmp_path / "bundle")]
    assert hub.private == {"me/shoes": True}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in hub.repos["me/shoes"].items()}
    assert found == contents(tmp_path / "bundle")


def test_what_the_manifest_does_not_name_stays_here(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    (copy / "private photo.png").write_bytes(b"mine")
    (copy / "examples" / "notes.txt").write_bytes(b"mine")
    push(copy, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert set(hub.repos["me/shoes"]) == {*list_files(bundled.bundle), "manifest.json"}


def test_a_second_push_sends_again_only_what_changed(hub: FakeHub, bundled: "Bundled") -> None:
    for _ in range(2):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
        hub.repos["me/shoes"]["theirs.txt"] = b"kept"
    uploads = [request for request in hub.requests if request.startswith("PUT")]
    assert len(uploads) == len(set(uploads)) >= 3
    assert hub.repos["me/shoes"]["theirs.txt"] == b"kept"


def test_a_private_repository_is_made_private(hub: FakeHub, bundled: "Bundled") -> None:
    push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)
    assert hub.private == {"me/shoes": True}
    push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)


def test_nothing_private_goes_to_a_public_repository(hub: FakeHub, bundled: "Bundled") -> None:
    hub.repos["me/shoes"], hub.private["me/shoes"] = {}, False
    with pytest.raises(UserError, match="is there already and public"):
        push(bundled.bundle, "me/shoes", private=True, token=TOKEN, endpoint=hub.address)
    assert not hub.repos["me/shoes"]
    assert not hub.objects


def test_a_damaged_bundle_is_not_pushed(hub: FakeHub, bundled: "Bundled", tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled.bundle, tmp_path / "bundle"))
    with (copy / "text.fp32.onnx").open("r+b") as handle:
        handle.seek(100)
        handle.write(b"!!!!")
    with pytest.raises(UserError, match=r"text\.fp32\.onnx is damaged"):
        push(copy, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert not hub.requests


@pytest.mark.parametrize(
    "repo_id",
    [
        *(
            "shoes",
            "me/",
            "/shoes",
            "me/my shoes",
            "me/a/b",
            "datasets/me/shoes",
            "me/a--b",
            "me/a..b",
            "me/.a",
            "me/a-",
        ),
        *("me/a.git", "https://huggingface.co/me/a", "me/" + "a" * 94, "", "me/ä", "me/a\n"),
    ],
)
def test_what_cannot_be_a_repository_is_refused_before_anything_is_read(tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(UsageError, match=r"is USER/NAME"):
        push(tmp_path / "no bundle", repo_id)


@pytest.mark.parametrize("repo_id", ["me/shoes", "My-Org/a.b_c-1", "1/2", "me/" + "a" * 93])
def test_what_can_be_a_repository_is_accepted(hub: FakeHub, bundled: "Bundled", repo_id: str) -> None:
    assert push(bundled.bundle, repo_id, token=TOKEN, endpoint=hub.address).endswith(repo_id)


def _elsewhere(hub: FakeHub) -> None:
    hub.elsewhere.add("me/shoes")


def _broken(hub: FakeHub) -> None:
    hub.broken_uploads = True


@pytest.mark.parametrize(
    ("prepare", "repo_id", "token", "message"),
    [
        (None, "me/shoes", None, r"no token of the Hub .*hf auth login.*HF_TOKEN"),
        (None, "me/shoes", "hf_wrong", r"does not accept the token \(Invalid user token\)\. Log in"),
        (
            None,
            "somebody/shoes",
            TOKEN,
            r"may not write to somebody/shoes .* Use a token with write access",
        ),
        (_elsewhere, "me/shoes", TOKEN, r"me/shoes is not a model repository .* Choose another name"),
        (
            _broken,
            "me/shoes",
            TOKEN,
            r"uploading to me/shoes at http.* failed: Bad request: storage says no.* repeat the command",
        ),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: FakeHub,
    bundled: "Bundled",
    prepare: Callable[[FakeHub], None] | None,
    repo_id: str,
    token: str | None,
    message: str,
) -> None:
    if prepare is not None:
        prepare(hub)
    with pytest.raises(UserError, match=message):
        push(bundled.bundle, repo_id, token=token, endpoint=hub.address)
    assert not hub.repos.get(repo_id)


def test_a_hub_that_cannot_be_reached_is_named(hub: FakeHub, bundled: "Bundled") -> None:
    with pytest.raises(UserError, match=r"at http://127\.0\.0\.1:9 failed: .*refused.* Check the network"):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint="http://127.0.0.1:9")


def test_offline_mode_is_named(hub: FakeHub, bundled: "Bundled", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(bundled.bundle, "me/shoes", token=TOKEN, endpoint=hub.address)
    assert not hub.requests


@pytest.mark.parametrize(
    ("role", "repo_id", "message"),
    [
        ("read", "me/shoes", r"may not write to me/shoes \(it is one for reading\)"),
        ("write", "somebody/shoes", r"may not write to somebody/shoes \(it is of me, My-Org, 1\)"),
    ],
)
def test_what_would_stop_a_push_is_found_without_making_anything(
    hub: FakeHub, role: str, repo_id: str, message: str
) -> None:
    hub.role = role
    with pytest.raises(UserError, match=message):
        check_push(repo_id, token=TOKEN, endpoint=hub.address)
    assert not hub.repos
    assert not [request for request in hub.requests if not request.startswith("GET")]


def test_a_token_that_may_write_anywhere_is_tried(hub: FakeHub) -> None:
    for role, repo_id in (("write", "me/shoes"), ("write", "my-org/shoes"), ("fineGrained", "somebody/shoes")):
        hub.role = role
        check_push(repo_id, token=TOKEN, endpoint=hub.address)
    assert not hub.repos


@pytest.mark.parametrize(
    ("token", "change", "message"),
    [
        ("hf_wrong", {}, "does not accept the token"),
        (TOKEN, {"ENDPOINT": "http://127.0.0.1:9"}, "Check the network and the address"),
        (TOKEN, {"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_an_export_that_could_not_push_does_not_begin(
    hub: FakeHub,
    bundled: "Bundled",
    igsp: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    change: dict[str, Any],
    message: str,
) -> None:
    hub.use(monkeypatch, token)
    for name, value in change.items():
        monkeypatch.setattr(constants, name, value)
    done = igsp("export", bundled.model, tmp_path / "bundle", "--push", "me/shoes")
    assert done.returncode == 1
    assert message in done.stderr
    assert "writing the graphs" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_one_command_began_another_one_finishes(
    hub: FakeHub, bundled: "Bundled", igsp: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export whose upload breaks off, `igsp push`, and the same export again, which makes no second bundle."""
    hub.use(monkeypatch)
    bundle = tmp_path / "bundle"
    hub.broken_uploads = True
    begun = igsp("export", bundled.model, bundle, "--no-latency", "--push", "me/shoes")
    assert begun.returncode == 1
    assert f"Whole and left where they are: {bundle}. Repeat the command to make the rest." in begun.stderr
    hub.broken_uploads = False
    manifest = (bundle / "manifest.json").stat()
    done = igsp("push", bundle, "me/shoes")
    assert (done.returncode, done.stdout) == (0, f"{hub.address}/me/shoes\n"), done.stderr
    uploads = len([request for request in hub.requests if request.startswith("PUT")])
    again = igsp("export", bundled.model, bundle, "--no-latency", "--push", "me/shoes", "--web", tmp_path / "web")
    assert again.returncode == 0, again.stderr
    assert "is there already, of this model" in again.stderr
    assert (bundle / "manifest.json").stat() == manifest
    assert uploads == len([request for request in hub.requests if request.startswith("PUT")])
    assert (tmp_path / "web" / "model.onnx").is_file()
    other = igsp("export", bundled.model, bundle, "--opset", 18, "--push", "me/shoes")
    assert other.returncode == 1
    assert "exists already, with other opset than asked for" in other.stderr
