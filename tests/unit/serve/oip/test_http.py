"""`/v2`: what the server says of itself, the parameters it takes, tasks by name while they come and go."""

import asyncio
import base64
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from fastapi.testclient import TestClient

from igsp_serve.oip.tensors import read_aside

Ask = Callable[..., TestClient]
ADMIN = {"Authorization": "Bearer boss"}


def body(*photos: bytes, task: list[str] | None = None, **more: Any) -> dict[str, Any]:
    files = [base64.b64encode(photo).decode() for photo in photos]
    inputs: list[dict[str, Any]] = [{"name": "image_bytes", "datatype": "BYTES", "shape": [len(files)], "data": files}]
    if task is not None:
        inputs.append({"name": "task", "datatype": "BYTES", "shape": [len(task)], "data": task})
    return {"inputs": inputs, **more}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {row["name"]: row for row in answer.json()["outputs"]}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """The same to the last digits, which differ with the batch an image was in."""
    assert list(ours) == list(theirs)
    for name, row in ours.items():
        close = row["datatype"] == "FP32"
        expected = pytest.approx(theirs[name]["data"], rel=1e-4, abs=1e-4) if close else theirs[name]["data"]
        assert row == theirs[name] | {"data": expected}


INFER = "/v2/models/igsp/infer"


class TestWhatItIs:
    def test_the_extensions_it_names_are_those_it_has(self, ask: Ask) -> None:
        client = ask()
        paths = client.get("/openapi.json").json()["paths"]
        extensions = client.get("/v2").json()["extensions"]
        assert sorted(extensions) == ["binary_tensor_data", "model_configuration", "parameters", "statistics"]
        assert "/v2/models/{name}/config" in paths
        assert "/v2/models/{name}/stats" in paths
        assert "/v2/models/{name}/versions/{version}/stats" in paths

    @pytest.mark.parametrize("what", ["load", "unload"])
    def test_loading_is_not_claimed_and_refused_with_the_way_out(self, ask: Ask, what: str) -> None:
        answer = ask().post(f"/v2/repository/models/igsp/{what}", json={})
        assert answer.status_code == 400
        assert "POST /v1/models" in answer.json()["error"]

    def test_the_index_names_the_model(self, ask: Ask) -> None:
        row = {"name": "igsp", "version": "1", "state": "READY", "reason": ""}
        for content in (b"", b"{}", b'{"ready": true}', b'{"ready": false}'):
            assert ask().post("/v2/repository/index", content=content).json() == [row]
        for content in (b"[]", b"x", b'{"ready": "yes"}'):
            answer = ask().post("/v2/repository/index", content=content)
            assert answer.status_code == 400
            assert "ready" in answer.json()["error"]

    def test_version_1_is_what_is_served_and_the_bundle_is_named_beside(self, ask: Ask, photo: bytes) -> None:
        client = ask()
        bundle = client.get("/v1/models").json()["models"][0]["version"]
        for path in ("/v2/models/igsp", "/v2/models/igsp/versions/1"):
            metadata = client.get(path).json()
            assert metadata["versions"] == ["1"]
            assert metadata["parameters"] == {"bundle_version": bundle}
            assert client.get(f"{path}/ready").json() == {"ready": True}
            assert client.get(f"{path}/config").json()["parameters"] == {"bundle_version": {"string_value": bundle}}
            answer = client.post(f"{path}/infer", json=body(photo, id="seven")).json()
            assert (answer["model_name"], answer["model_version"], answer["id"]) == ("igsp", "1", "seven")
            assert answer["parameters"]["bundle_version"] == bundle

    @pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/igsp/versions/2", "/v2/models/other/versions/1"])
    def test_others_are_unknown(self, ask: Ask, photo: bytes, path: str) -> None:
        for what in ("", "/ready", "/config", "/stats"):
            answer = ask().get(f"{path}{what}")
            assert answer.status_code == 404
            assert "unknown" in answer.json()["error"]
        assert ask().post(f"{path}/infer", json=body(photo)).status_code == 404


class TestParameters:
    def test_task_is_a_name_for_all_images(self, ask: Ask, photo: bytes) -> None:
        client = ask()
        for task, name in (("stripes", "stripes"), ("none", ""), ("colors", "colors")):
            one_each = outputs(client.post(INFER, json=body(photo, photo, task=[task, task])))
            for_all = outputs(client.post(INFER, json=body(photo, photo, parameters={"task": task})))
            assert_same(for_all, one_each)
            assert for_all["task_name"]["data"] == [name, name]
        chosen = outputs(client.post(INFER, json=body(photo, parameters={"task": "auto"})))
        assert_same(chosen, outputs(client.post(INFER, json=body(photo))))

    def test_top_k_is_cut_at_the_labels_there_are(self, ask: Ask, photo: bytes) -> None:
        client = ask()
        classes = {task["name"]: len(task["classes"]) for task in client.get("/v1/tasks").json()["tasks"]}
        few = outputs(client.post(INFER, json=body(photo, parameters={"top_k": 1})))
        assert few["labels"]["shape"] == few["scores"]["shape"] == [1, 1]
        wanted = {"top_k": 10_000, "task": "colors"}
        most = outputs(client.post(INFER, json=body(photo, photo, parameters=wanted)))
        assert most["labels"]["shape"] == most["scores"]["shape"] == [2, classes["colors"]]
        mixed = outputs(client.post(INFER, json=body(photo, photo, task=["none", "colors"], parameters={"top_k": 99})))
        width = sum(classes.values())
        assert mixed["labels"]["shape"] == [2, width]
        assert mixed["labels"]["data"][width + classes["colors"] :] == [""] * (width - classes["colors"])

    @pytest.mark.parametrize(
        ("parameters", "word"),
        [
            ({"topk": 3}, "'topk'"),
            ({"prompts": "a cat"}, "JSON list of texts"),
            ({"prompts": ["a cat"]}, "JSON list of texts"),
            ({"prompts": '["Cat", "cat"]'}, "cannot tell"),
            ({"prompts": '["\\ud83d", "cat"]'}, "is no text"),
            ({"template": "a {}"}, "give prompts too"),
            ({"prompts": '["cat"]', "template": "a cat"}, "the template must hold"),
            ({"sequence_id": 7}, "sequence_id"),
            ({"priority": 1}, "priority"),
            ({"top_k": 0}, "top_k"),
            ({"top_k": 10_001}, "top_k"),
            ({"top_k": "3"}, "top_k"),
            ({"top_k": True}, "top_k"),
            ({"task": "color"}, "colors"),
            ({"task": 0}, "name of a task"),
            ({"task": ""}, "no task"),
            ({"timeout": -1}, "timeout"),
            ({"timeout": 1.5}, "timeout"),
        ],
    )
    def test_unknown_and_wrong_ones_are_refused(self, ask: Ask, photo: bytes, parameters: Any, word: str) -> None:
        answer = ask().post(INFER, json=body(photo, parameters=parameters))
        assert answer.status_code == 400
        assert word in answer.json()["error"]

    def test_a_timeout_beyond_every_float_is_none_that_is_reached(self, ask: Ask, photo: bytes) -> None:
        assert ask().post(INFER, json=body(photo, parameters={"timeout": 10**400})).status_code == 200

    def test_the_input_and_the_parameter_task_do_not_go_together(self, ask: Ask, photo: bytes) -> None:
        answer = ask().post(INFER, json=body(photo, task=["none"], parameters={"task": "none"}))
        assert answer.status_code == 400
        assert "not both" in answer.json()["error"]

    @pytest.mark.parametrize("task", [["colours"], ["colors", "colors"], [], ["colors\ud800"], ["0"], ["-1"]])
    def test_wrong_tasks_are_said(self, ask: Ask, photo: bytes, task: list[str]) -> None:
        answer = ask().post(INFER, content=json.dumps(body(photo, task=task)))
        assert answer.status_code == 400
        assert "task" in answer.json()["error"]


def test_a_removed_task_is_an_error_never_another_task(ask: Ask, bundled: Any, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundled.bundle, copy)
    client = ask(copy, admin_keys=("boss",), bundle_roots=(tmp_path,))
    photo = bundled.images("stripes")[0].read_bytes()
    wanted = body(photo, task=["stripes"])
    answered = client.post(INFER, json=wanted)
    before, tensors = answered.json(), outputs(answered)
    assert json.loads(before["parameters"]["tasks"]) == ["colors", "stripes"]
    assert client.delete("/v1/tasks/colors", headers=ADMIN).status_code == 200
    answered = client.post(INFER, json=wanted)
    after = answered.json()
    # The first of two tasks is gone: the other one is meant by what meant it before, and its columns are named.
    scores = tensors["task_scores"]
    assert_same(outputs(answered), tensors | {"task_scores": scores | {"shape": [1, 1], "data": scores["data"][1:]}})
    assert json.loads(after["parameters"]["tasks"]) == ["stripes"]
    assert after["parameters"]["bundle_version"] != before["parameters"]["bundle_version"]
    for gone in (body(photo, task=["colors"]), body(photo, parameters={"task": "colors"})):
        answer = client.post(INFER, json=gone)
        assert answer.status_code == 400
        assert "no task 'colors'" in answer.json()["error"]
    for index in (0, 1, -1):
        by_index = body(photo)
        by_index["inputs"].append({"name": "task", "datatype": "INT64", "shape": [1], "data": [index]})
        answer = client.post(INFER, json=by_index)
        assert answer.status_code == 400
        assert "by name" in answer.json()["error"]
    again = {"bundle": str(copy), "task": "colors"}
    assert client.post("/v1/tasks", headers=ADMIN, json=again).status_code == 200
    assert_same(outputs(client.post(INFER, json=wanted)), tensors)


class TestStatistics:
    def test_they_count_what_perf_analyzer_reads(self, ask: Ask, photo: bytes) -> None:
        client = ask(timeout_s=29.0)

        def read() -> dict[str, Any]:
            (of_all,) = client.get("/v2/models/stats").json()["model_stats"]
            for path in ("/v2/models/igsp/stats", "/v2/models/igsp/versions/1/stats"):
                assert client.get(path).json()["model_stats"] == [of_all]
            return dict(of_all)

        before = read()
        for count in (1, 3):
            assert client.post(INFER, json=body(*[photo] * count)).status_code == 200
        assert client.post(INFER, json=body(b"no image")).status_code == 400
        after = read()
        assert (after["name"], after["version"]) == ("igsp", "1")
        assert after["inference_count"] - before["inference_count"] == 4
        assert 2 <= after["execution_count"] - before["execution_count"] <= 4
        assert after["last_inference"] > before["last_inference"]
        parts = {
            part: (after["inference_stats"][part]["count"] - before["inference_stats"][part]["count"])
            for part in after["inference_stats"]
        }
        answered = dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 2)
        assert parts == answered | {"fail": 1, "cache_hit": 0, "cache_miss": 0}
        for part in ("success", "fail", "compute_input", "compute_infer", "compute_output"):
            assert after["inference_stats"][part]["ns"] > before["inference_stats"][part]["ns"]
        batches = {row["batch_size"]: row["compute_infer"]["count"] for row in after["batch_stats"]}
        assert sum(size * count for size, count in batches.items()) == after["inference_count"]
        assert sum(batches.values()) == after["execution_count"]


def test_images_are_counted_as_under_v1(ask: Ask, photo: bytes) -> None:
    client = ask(max_batch=16)
    assert client.post(INFER, json=body(photo, photo, task=["colors", "none"])).status_code == 200
    only = [{"name": "features"}]
    assert client.post(INFER, json=body(photo, task=["colors"], outputs=only)).status_code == 200
    metrics = client.get("/metrics").text
    assert 'igsp_images_total{task="colors"} 1.0' in metrics
    assert 'igsp_images_total{task="none"} 1.0' in metrics
    assert 'igsp_requests_total{route="/v2/models/{name}/infer",status="200"} 2.0' in metrics


def test_many_images_are_labelled_as_few_are(ask: Ask, photo: bytes, bundled: Any) -> None:
    other = bundled.images("stripes")[0].read_bytes()
    photos = [photo, other] * 6
    many = outputs(ask().post(INFER, json=body(*photos)))
    few = outputs(ask().post(INFER, json=body(photo, other)))
    assert many["labels"]["data"] == few["labels"]["data"] * 6
    assert np.allclose(many["scores"]["data"], few["scores"]["data"] * 6, atol=1e-5)


def _untyped(schema: Any, at: str = "") -> list[str]:
    """Places of a schema that do not say what is there."""
    found = []
    if isinstance(schema, dict):
        if schema.get("type") == "array" and not schema.get("items"):
            found.append(f"{at}: items")
        if schema.get("type") == "object" and not (schema.get("properties") or schema.get("additionalProperties")):
            found.append(f"{at}: properties")
        for key, value in schema.items():
            found += _untyped(value, f"{at}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            found += _untyped(value, f"{at}[{index}]")
    return found


def _titles(schema: Any) -> list[str]:
    """Titles of schemas that stand in place, not by reference: a generator makes a class of each."""
    if isinstance(schema, list):
        return [title for value in schema for title in _titles(value)]
    if not isinstance(schema, dict):
        return []
    own = [schema["title"]] if schema.get("type") == "object" and isinstance(schema.get("title"), str) else []
    return own + _titles([value for key, value in schema.items() if key not in ("example", "examples")])


def test_no_class_of_an_operation_is_described_twice(ask: Ask) -> None:
    for path, methods in ask().get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            titles = _titles(operation)
            assert len(titles) == len(set(titles)), path


def test_every_call_with_a_body_tells_what_may_be_wrong_with_one(ask: Ask) -> None:
    answer = ask().post("/v2/repository/index", content=b"{}", headers={"content-encoding": "br"})
    assert answer.status_code == 415
    for path, methods in ask().get("/openapi.json").json()["paths"].items():
        if "requestBody" in methods.get("post", {}):
            assert {"408", "413", "415"} <= set(methods["post"]["responses"]), path


def test_many_numbers_become_tensors_in_a_thread() -> None:
    """Where they are read, not how fast: the thread's name tells."""

    def where() -> str:
        return threading.current_thread().name

    async def ask() -> tuple[str, str]:
        return await read_aside(1000, where), await read_aside(2**20, where)

    small, large = asyncio.run(ask())
    assert small == threading.current_thread().name
    assert large != small


def test_the_document_types_the_infer_call_to_its_last_item(ask: Ask, photo: bytes) -> None:
    document = ask().get("/openapi.json").json()
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer == {"$ref": "#/components/schemas/InferAnswer"}
        assert _untyped(content) == []
        for example in (content["examples"]["file"]["value"], body(photo, task=["auto"], parameters={"top_k": 2})):
            jsonschema.validate(example, content["schema"])
            made = ask().post("/v2/models/igsp/infer", json=example).json()
            jsonschema.validate(made, {**answer, "components": document["components"]})
        pixels = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [[[[1, 2, 3]], [[4, 5, 6]]]]}
        jsonschema.validate({"inputs": [pixels]}, content["schema"])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body(photo, parameters={"topk": 1}), content["schema"])
    components = document["components"]["schemas"]
    for name in ("InferAnswer", "OutputTensor", "ModelMetadata", "AllStatistics", "ModelIndex", "ServerMetadata"):
        assert _untyped(components[name]) == []
