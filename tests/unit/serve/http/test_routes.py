"""What is asked over HTTP and what comes back."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from igsp_deploy.runtime.classifier import Classifier
from igsp_serve.http.inputs import BadInput, check
from igsp_serve.http.schemas import ClassifyAnswer, ClassifyRequest, EmbedAnswer, EmbedRequest, Problem

Ask = Callable[..., TestClient]
ADMIN = {"X-API-Key": "admin"}


def test_files_and_base64_give_the_classifiers_answer(ask: Ask, bundled: Any) -> None:
    paths = [bundled.images("colors")[0], bundled.images("stripes")[-1]]
    expected = Classifier.open(bundled.bundle, "cpu").classify(paths, top_k=2)
    data = [path.read_bytes() for path in paths]
    files = [("images", (path.name, path.read_bytes())) for path in paths]
    encoded = {"images": [base64.b64encode(d).decode() for d in data], "top_k": 2}
    encoded["images"][1] = "data:image/png;base64," + encoded["images"][1]  # type: ignore[index]
    by_form = ask().post("/v1/classify", files=files, data={"top_k": "2"})
    by_json = ask().post("/v1/classify", json=encoded)
    for response in (by_form, by_json):
        assert response.status_code == 200, response.text
        answer = ClassifyAnswer.model_validate_json(response.content, strict=True)
        assert answer.request_id == response.headers["x-request-id"]
        assert [r.task for r in answer.results] == [r.task for r in expected]
        for got, wanted in zip(answer.results, expected, strict=True):
            assert [p.label for p in got.predictions] == list(wanted.labels)
            assert [p.score for p in got.predictions] == pytest.approx(wanted.scores, abs=1e-5)
            assert got.task_scores == pytest.approx(wanted.task_scores, rel=1e-4)


def test_what_scores_less_than_was_asked_for_is_unsure(ask: Ask, photo: bytes) -> None:
    def asked(**fields: float) -> tuple[float, bool]:
        answer = ask().post("/v1/classify", files={"images": photo}, data=fields).json()["results"][0]
        return answer["predictions"][0]["score"], answer["unsure"]

    score, unsure = asked()
    assert unsure is False
    for least, expected in ((score - 0.01, False), (min(score + 0.01, 1), True)):
        again, unsure = asked(min_score=least)
        assert again == pytest.approx(score)
        assert unsure is expected


def test_prompts_may_be_repeated_fields(ask: Ask, photo: bytes) -> None:
    prompts = {"prompts": ["a cat", "a dog"], "task": "none"}
    form = ask().post("/v1/classify", files={"images": photo}, data=prompts).json()["results"]
    encoded = base64.b64encode(photo).decode()
    as_json = ask().post("/v1/classify", json={"images": [encoded], **prompts}).json()["results"]
    assert form == as_json
    assert {p["label"] for p in form[0]["predictions"]} == {"a cat", "a dog"}


def test_images_and_texts_are_embedded(ask: Ask, photo: bytes) -> None:
    images = ask().post("/v1/embed", files={"images": photo}, data={"task": "colors"})
    texts = ask().post("/v1/embed", json={"texts": ["a cat", "a dog"]})
    assert EmbedAnswer.model_validate(images.json()).task == ["colors"]
    answer = EmbedAnswer.model_validate(texts.json())
    assert answer.task == [None, None]
    assert sum(x * x for x in answer.embeddings[1]) == pytest.approx(1, abs=1e-4)


def test_tasks_and_models_are_listed(ask: Ask) -> None:
    tasks = ask().get("/v1/tasks").json()
    assert [(task["name"], task["classes"]) for task in tasks["tasks"]] == [
        ("colors", ["blue", "red"]),
        ("stripes", ["flat", "steep"]),
    ]
    (model,) = ask().get("/v1/models").json()["models"]
    assert model["version"] == tasks["model"]["version"]
    assert model["provider"] == "CPUExecutionProvider"


def bmp(width: int, height: int) -> bytes:
    """A header that promises many pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


def wrong_requests(photo: bytes) -> list[tuple[int, str, dict[str, Any]]]:
    """Status, a word of the detail, and the request."""
    good = base64.b64encode(photo).decode()
    form = {"content-type": "multipart/form-data; boundary=x"}
    text = {"content-type": "application/json"}
    return [
        (422, "no image", {"files": {"task": (None, "auto")}}),
        (422, "not an image", {"files": {"images": b"hello"}}),
        (422, "truncated", {"files": {"images": photo[:-60]}}),
        (422, r"images[1]", {"files": [("images", ("a", photo)), ("images", ("b", b"no"))]}),
        (422, "pixels", {"files": {"images": bmp(60_000, 60_000)}}),
        (422, "not an image", {"files": {"images": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}}),
        (422, "field images", {"files": {"photo": photo}}),
        (422, "task", {"files": {"images": photo}, "data": {"task": "color"}}),
        (422, "top_k", {"files": {"images": photo}, "data": {"top_k": "0"}}),
        (422, "top_k", {"files": {"images": photo}, "data": {"top_k": "many"}}),
        (422, "min_score", {"files": {"images": photo}, "data": {"min_score": "1.01"}}),
        (422, "min_score", {"files": {"images": photo}, "data": {"min_score": "nan"}}),
        (422, "min_score", {"json": {"images": [good], "min_score": True}}),
        (422, "came twice", {"files": {"images": photo}, "data": {"top_k": ["1", "2"]}}),
        (422, "surprise", {"files": {"images": photo}, "data": {"surprise": "1"}}),
        (422, "timeout_s", {"files": {"images": photo}, "data": {"timeout_s": "nan"}}),
        (413, "64 images", {"files": [("images", ("a", photo))] * 65}),
        (413, "64 images", {"json": {"images": [good] * 65}}),
        (413, "bytes", {"content": b" " * (1 << 20), "headers": text}),
        (400, "form", {"content": b"--y\r\n", "headers": form}),
        (400, "form", {"content": b"", "headers": {"content-type": "multipart/form-data"}}),
        (400, "JSON", {"content": b'{"images": [', "headers": text}),
        (400, "JSON", {"content": b"[" * 100_000, "headers": text}),
        (400, "JSON", {"content": b'{"task": "\\ud800"}', "headers": text}),
        (422, "images", {"json": {}}),
        (422, "base64", {"json": {"images": ["###"]}}),
        (422, "empty", {"json": {"images": [""]}}),
        (422, "body", {"json": [1]}),
        (422, "prompts", {"json": {"images": [good], "prompts": []}}),
        (422, "prompts", {"json": {"images": [good], "prompts": [" "]}}),
        (413, "256", {"json": {"images": [good], "prompts": ["a"] * 257}}),
        (422, "cannot tell", {"json": {"images": [good], "prompts": ["cat", "CAT"]}}),
        (422, "give prompts too", {"json": {"images": [good], "template": "a {}"}}),
        (422, "the template must hold", {"json": {"images": [good], "prompts": ["cat"], "template": "a cat"}}),
        (422, "template", {"json": {"images": [good], "prompts": ["cat"], "template": "{}" * 500}}),
        (415, "content type", {"content": b"a=b", "headers": {"content-type": "text/plain"}}),
        (415, "encoding", {"content": b"ab", "headers": text | {"content-encoding": "br"}}),
        (400, "encoding", {"content": b"ab", "headers": text | {"content-encoding": "gzip"}}),
    ]


@pytest.mark.parametrize("number", range(38))
def test_every_wrong_request_gets_a_problem_document(ask: Ask, photo: bytes, bundled: Any, number: int) -> None:
    requests = wrong_requests(photo)
    assert len(requests) == 38
    status, word, request = requests[number]
    client = ask(max_body_bytes=500_000)
    response = client.post("/v1/classify", **request)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(response.json())
    assert problem.status == status
    assert problem.instance == response.headers["x-request-id"]
    assert word in problem.detail, problem
    assert str(bundled.bundle) not in response.text
    assert client.post("/v1/classify", files={"images": photo}).status_code == 200


def test_a_million_wrong_items_are_one_error() -> None:
    """An error for each of them takes gigabytes and minutes, in which nobody else is served."""
    items = b'["a"' + b",1" * 1_000_000 + b"]"
    for model, field in ((ClassifyRequest, "images"), (EmbedRequest, "images"), (EmbedRequest, "texts")):
        with pytest.raises(BadInput, match=rf"{field}\.1: ") as found:
            check(model, b'{"%s": %s}' % (field.encode(), items), json=True)
        assert len(found.value.errors) == 1
    with pytest.raises(BadInput, match=r"prompts\.1: "):
        check(ClassifyRequest, b'{"images": ["a"], "prompts": %s}' % items, json=True)


def test_thousands_of_unknown_fields_are_counted_and_not_listed() -> None:
    fields = ", ".join(f'"{number}": 1' for number in range(5000))
    with pytest.raises(BadInput, match=r"5000 fields that are wrong. It takes task, timeout_s, images, texts") as found:
        check(EmbedRequest, f"{{{fields}}}".encode(), json=True)
    assert not found.value.errors


def test_images_are_counted_before_they_are_decoded(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> bytes:
        raise AssertionError("one was decoded")

    monkeypatch.setattr("igsp_serve.http.inputs.from_base64", never)
    for path in ("/v1/classify", "/v1/embed"):
        response = ask().post(path, json={"images": [""] * 65})
        assert response.status_code == 413
        assert response.json()["detail"] == "a request may hold 64 images, got 65. Send several."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/classify", 405),
        ("PUT", "/v1/tasks", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/tasks/%00", 405),
    ],
)
def test_unknown_paths_and_methods_are_problems_too(ask: Ask, method: str, path: str, status: int) -> None:
    response = ask().request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert Problem.model_validate(response.json()).status == status
    if status == 405:
        expected = {"/v1/classify": "POST", "/v1/tasks": "GET, HEAD, POST"}.get(path, "DELETE")
        assert response.headers["allow"] == expected


def test_a_mistake_of_ours_is_a_500_without_its_cause(
    ask: Ask, photo: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = ask()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    service = client.app.state.context.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service, "_check_ready", broken)
    response = client.post("/v1/classify", files={"images": photo})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert Problem.model_validate(response.json()).detail.startswith("The server made a mistake")


def test_the_request_id_of_the_client_is_kept_if_it_is_harmless(ask: Ask) -> None:
    assert ask().get("/v1/tasks", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = ask().get("/v1/tasks", headers={"x-request-id": 'a" b'}).headers["x-request-id"]
    assert len(forged) == 32


def test_tasks_and_bundles_change_over_http(ask: Ask, bundled: Any, first_only: Path, photo: bytes) -> None:
    roots = (bundled.bundle.parent, first_only.parent)
    client = ask(first_only, admin_keys=("admin",), bundle_roots=roots)
    before = client.get("/v1/models").json()["models"][0]["version"]
    added = client.post("/v1/tasks", json={"bundle": str(bundled.bundle), "task": "stripes"}, headers=ADMIN)
    assert added.json()["tasks"] == ["colors", "stripes"], added.text
    assert added.json()["model"]["version"] != before
    again = client.post("/v1/tasks", json={"bundle": "bundle", "task": "stripes"}, headers=ADMIN)
    assert again.status_code == 422
    assert "already" in again.json()["detail"]
    removed = client.delete("/v1/tasks/stripes", headers=ADMIN).json()
    assert removed["tasks"] == ["colors"]
    assert removed["model"]["version"] != added.json()["model"]["version"]
    assert client.delete("/v1/tasks/stripes", headers=ADMIN).status_code == 404
    assert client.delete("/v1/tasks/colors", headers=ADMIN).status_code == 422  # the only one
    replaced = client.post("/v1/models", json={"bundle": str(bundled.bundle)}, headers=ADMIN)
    assert replaced.json()["tasks"] == ["colors", "stripes"]
    answer = client.post("/v1/classify", files={"images": photo}).json()
    assert answer["model"] == replaced.json()["model"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("../bundle", 403),
        ("/etc", 403),
        ("linked", 403),
        ("link_inside", 403),
        ("nothing", 422),
        ("empty", 422),
        ("a\0b", 403),
        ("a" * 3000, 422),
        ("", 403),  # the root itself, with links in it
    ],
)
def test_bundles_come_only_from_their_roots(
    ask: Ask, bundled: Any, tmp_path_factory: pytest.TempPathFactory, given: str, status: int
) -> None:
    root = Path(str(tmp_path_factory.getbasetemp())) / "roots"
    if not root.exists():
        (root / "empty").mkdir(parents=True)
        (root / "linked").symlink_to(bundled.bundle)
        (root / "link_inside").mkdir()
        for path in bundled.bundle.iterdir():
            (root / "link_inside" / path.name).symlink_to(path)
    client = ask(admin_keys=("admin",), bundle_roots=(root,))
    response = client.post("/v1/models", json={"bundle": given}, headers=ADMIN)
    assert response.status_code == status, response.text
    assert str(root) not in response.text
    assert str(bundled.bundle) not in response.text


def test_drift_and_metrics_tell_what_came(ask: Ask, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igsp_serve.drift.LOW_CONFIDENCE", 2.0)  # the model is unsure of everything
    client = ask(admin_keys=("admin",), name="watched")
    for task in ("auto", "none"):
        assert client.post("/v1/classify", files={"images": photo}, data={"task": task}).status_code == 200
    drift = client.get("/v1/drift", headers=ADMIN).json()
    assert len(drift["samples"]) == 2
    assert "image" not in drift["samples"][0]
    text = client.get("/metrics").text
    for line in (
        'igsp_requests_total{route="/v1/classify",status="200"} 2.0',
        'igsp_images_total{task="colors"} 1.0',
        'igsp_images_total{task="none"} 1.0',
        'igsp_chosen_total{task="colors"} 1.0',
        "igsp_batch_images_count 2.0",
        "igsp_selector_score_count 1.0",
        "igsp_low_confidence_images_total 2.0",
        "igsp_queue_images 0.0",
        "igsp_ready 1.0",
        'provider="CPUExecutionProvider"',
    ):
        assert line in text, line


def test_the_examples_of_the_openapi_document_are_valid(ask: Ask) -> None:
    client = ask()
    document = client.get("/openapi.json").json()
    checked = 0
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                schema = content["schema"] | {"components": document["components"]}
                examples = [*schema.get("examples", ())]
                if "$ref" in schema:
                    name = schema["$ref"].rpartition("/")[2]
                    examples += document["components"]["schemas"][name].get("examples", [])
                examples += [example["value"] for example in content.get("examples", {}).values()]
                assert examples or kind != "application/json", path
                for example in examples:
                    jsonschema.Draft202012Validator(schema).validate(example)
                    checked += 1
                    if "admin" in operation["tags"]:
                        continue
                    response = client.post(path.replace("{name}", "igsp"), json=example)
                    if "{version}" not in path:
                        assert response.status_code == 200, (path, response.text)
    assert checked >= 6
    for schema in document["components"]["schemas"].values():
        for described in schema.get("properties", {}).values():
            for example in described.get("examples", ()):
                whole = described | {"components": document["components"]}
                jsonschema.Draft202012Validator(whole).validate(example)


def test_the_document_tells_the_errors_of_every_route(ask: Ask) -> None:
    document = ask().get("/openapi.json").json()
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert set(operation["responses"]) - {"200"}, path
