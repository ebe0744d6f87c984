"""Requests nobody should send: each with the statuses it may be answered with."""

# ruff: noqa: E501 (a row of a table is a line)

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.load.hostile_images import bombs, damaged_images

REFUSED = frozenset(range(400, 500))
"""Statuses that say: your mistake."""
TAKEN_OR_REFUSED = REFUSED | {200}
"""A damaged picture may still be one."""
CLOSED = 0
"""The connection was closed without an answer."""
FORM = "multipart/form-data; boundary=edge"
JSON = "application/json"
PATHS = (
    "../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\win.ini",
    "file:///etc/passwd",
    "~/secret",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%252f..%252fetc",
    "bundle/../../etc",
    "bundle\0/etc",
    "./././.",
    "a/" * 300,
    "a" * 3000,
    "con",
    "$(id)",
    "`id`",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "%s%s%n",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "\u202egnp.exe",
    "\U0001f600" * 40,
    "/proc/self/environ",
    "/dev/zero",
)
"""Names that mean something to somebody else."""


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One request.

    Attributes:
        what: its name.
        raw: bytes to send as they are.
        allowed: statuses that may answer.
    """

    what: str
    raw: bytes
    allowed: frozenset[int] = REFUSED


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What a request needs to get past the first door.

    Attributes:
        good: a good image.
        size: side of the model's input.
        key: the admin key.
    """

    good: bytes
    size: int
    key: str
    headers: Mapping[str, str] = field(default_factory=dict)


def corpus(secrets: Secrets) -> Iterator[Hostile]:
    """All of them."""
    yield from _images()
    yield from _content_types(secrets)
    yield from _forms(secrets)
    yield from _json(secrets)
    yield from _http(secrets)
    yield from _tensors(secrets)
    yield from _names(secrets)


def request(
    method: str,
    target: str,
    body: bytes = b"",
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A whole request; its connection is closed after the answer."""
    given = {"host": "x", "connection": "close", "content-length": str(len(body)), **(headers or {})}
    if content_type is not None:
        given["content-type"] = content_type
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def form(*parts: tuple[str, bytes], end: bool = True) -> bytes:
    """A form's body of (headers, data)."""
    body = b"".join(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
    return body + (b"--edge--\r\n" if end else b"")


def file_part(data: bytes, name: str = "images", filename: str = "a.png") -> tuple[str, bytes]:
    """A file of a form."""
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"', data


def text_part(name: str, value: str) -> tuple[str, bytes]:
    """A field of a form."""
    return f'Content-Disposition: form-data; name="{name}"', value.encode("utf-8", "surrogatepass")


def _classify(
    what: str, body: bytes, content_type: str | None, allowed: frozenset[int] = REFUSED, **headers: str
) -> Hostile:
    raw = request("POST", "/v1/classify", body, content_type, {k.replace("_", "-"): v for k, v in headers.items()})
    return Hostile(what=what, raw=raw, allowed=allowed)


def _images() -> Iterator[Hostile]:
    for name, data in damaged_images():
        yield _classify(name, form(file_part(data)), FORM, TAKEN_OR_REFUSED)
    harmless = {
        "GIF of many frames",
        "PNG with a text that unpacks",
        "PNG with too much data",
        "a strip of 1 by 900000",
    }
    harmless |= {
        "JPEG with an Exif that points outside",
        "PNG with a profile that unpacks",
        "TIFF whose directory is its own next",
    }
    for name, data in bombs():
        allowed = TAKEN_OR_REFUSED if name in harmless else REFUSED
        yield _classify(f"form: {name}", form(file_part(data)), FORM, allowed)
    for name, data in list(bombs())[:12]:
        allowed = TAKEN_OR_REFUSED if name in harmless else REFUSED
        text = base64.b64encode(data).decode()
        yield _classify(f"JSON: {name}", json.dumps({"images": [text]}).encode(), JSON, allowed)


def _content_types(secrets: Secrets) -> Iterator[Hostile]:
    body, text = (
        form(file_part(secrets.good)),
        json.dumps({"images": [base64.b64encode(secrets.good).decode()]}).encode(),
    )
    for kind in (
        *(
            None,
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "image/png",
            "application/xml",
            "multipart/mixed",
        ),
        *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=other"),
        *(f"multipart/form-data; boundary={'e' * 500}", 'multipart/form-data; boundary="', "multipart/form-data;;;="),
        *("application/json; charset=utf-16", "application/json, multipart/form-data", "*/*", "/", ";", "a" * 3000),
    ):
        yield _classify(f"a form as {str(kind)[:40]}", body, kind)
    for kind in (FORM, "application/jsonx", "application/vnd.api+json", "text/json", "application/octet-stream"):
        yield _classify(f"JSON as {kind}", text, kind)
    for encoding, data in (
        ("gzip", body),
        ("deflate", body),
        ("br", body),
        ("gzip, gzip", body),
        ("compress", b""),
        ("gzip", _gzip(body)[:-9]),
        ("gzip", _gzip(bytes(30_000_000))),
        ("deflate", zlib.compress(bytes(30_000_000))),
        ("deflate", zlib.compress(body)[:20]),
    ):
        yield _classify(f"{len(data)} bytes as {encoding}", data, FORM, content_encoding=encoding)


def _forms(secrets: Secrets) -> Iterator[Hostile]:
    good = file_part(secrets.good)
    bodies = {
        "no end": form(good, end=False)[:-30],
        "nothing": b"",
        "only an end": b"--edge--\r\n",
        "no headers": b"--edge\r\n\r\nabc\r\n--edge--\r\n",
        "a header without a colon": form(("Content-Disposition form-data", b"x")),
        "no disposition": form(("X-A: b", secrets.good)),
        "no name": form(('Content-Disposition: form-data; filename="a.png"', secrets.good)),
        "an attachment": form(('Content-Disposition: attachment; filename="a.png"', secrets.good)),
        "a name of 100,000 letters": form(file_part(secrets.good, "n" * 100_000)),
        "a NUL in a name": form(file_part(secrets.good, "images\0")),
        "a line break in a name": form(file_part(secrets.good, "ima\r\nges")),
        "a name that is no UTF-8": b'--edge\r\nContent-Disposition: form-data; name="\xff\xfe"\r\n\r\nx\r\n--edge--\r\n',
        "a text as image": form(text_part("images", "hello")),
        "a file as task": form(good, file_part(b"auto", "task")),
        "a task twice": form(good, text_part("task", "auto"), text_part("task", "none")),
        "an unknown field": form(good, text_part("model", "other")),
        "an unknown task": form(good, text_part("task", "nothing")),
        "top_k of 0": form(good, text_part("top_k", "0")),
        "top_k of -1": form(good, text_part("top_k", "-1")),
        "top_k of NaN": form(good, text_part("top_k", "nan")),
        "top_k of 10**400": form(good, text_part("top_k", "9" * 400)),
        "top_k of 10**5000": form(good, text_part("top_k", "9" * 5000)),
        "a timeout of NaN": form(good, text_part("timeout_s", "nan")),
        "a timeout of infinity": form(good, text_part("timeout_s", "inf")),
        "a timeout of -1": form(good, text_part("timeout_s", "-1")),
        "an empty prompt": form(good, text_part("prompts", " ")),
        "a prompt of 100,000 letters": form(good, text_part("prompts", "a" * 100_000)),
        "1,000 prompts": form(good, *[text_part("prompts", f"a {k}") for k in range(1000)]),
        "11,000 fields": form(*[text_part(f"f{k}", "x") for k in range(11_000)]),
        "1,000 images": form(*[good] * 1000),
        "an empty image": form(file_part(b"")),
        "one good image, one bad": form(good, file_part(b"bad")),
        "the edge in the data": form(file_part(b"--edge--\r\n--edge\r\n")),
        "base64 in a form": form((good[0] + "\r\nContent-Transfer-Encoding: base64", base64.b64encode(secrets.good))),
        "line feeds alone": form(good).replace(b"\r\n", b"\n"),
        "200 headers of a part": form((good[0] + "".join(f"\r\nX-{k}: y" for k in range(200)), b"bad")),
        "a body over the limit": form(file_part(bytes(3_000_000))),
    }
    for what, body in bodies.items():
        yield _classify(f"form: {what}", body, FORM)


def _json(secrets: Secrets) -> Iterator[Hostile]:
    image = base64.b64encode(secrets.good).decode()
    wrong: list[Any] = [
        None,
        True,
        1,
        "auto",
        [],
        {},
        {"images": []},
        {"images": image},
        {"images": {}},
        {"images": [1]},
    ]
    wrong += [{"images": ["!!"]}, {"images": [""]}, {"images": ["data:image/png;base64"]}, {"images": ["a" * 5]}]
    wrong += [{"images": [None]}, {"images": [[image]]}, {"images": [image] * 65}, {"images": ["\ud800"]}]
    fields: dict[str, list[Any]] = {
        "task": [None, 1, [], {}, "", "nothing", "\0", "\ud800", "a" * 100_000, ["auto"]],
        "top_k": [None, 0, -1, 1.5, "x", [], 10**30, True],
        "timeout_s": [0, -1, "x", [], 1e-12, {}, True],
        "prompts": ["a cat", [], [1], [None], [" "], ["\ud800"], [["a"]], ["a"] * 1000, ["a" * 100_000], {}],
        "other": [1],
    }
    for name, values in fields.items():
        wrong += [{"images": [image], name: value} for value in values]
    for value in wrong:
        text = json.dumps(value)
        # A prompt with half a character, or a time of nothing, is a text and a time after all.
        taken = {200, 504} if isinstance(value, dict) and {"prompts", "timeout_s"} & set(value) else set()
        yield _classify(f"JSON: {text[-60:]}", text.encode(), JSON, REFUSED | taken)
    yield from (
        _classify(f"JSON: {what}", body, JSON)
        for what, body in {
            "nothing": b"",
            "half": b'{"images": [',
            "100,000 lists": b"[" * 100_000,
            "100,000 objects": b'{"a":' * 100_000,
            "NaN": b'{"images": ["' + image.encode() + b'"], "timeout_s": NaN}',
            "infinity": b'{"images": ["' + image.encode() + b'"], "timeout_s": 1e999}',
            "a number of 10,000 digits": b'{"images": ["' + image.encode() + b'"], "top_k": ' + b"9" * 10_000 + b"}",
            "no UTF-8": b'{"images": ["\xff\xfe"]}',
            "UTF-16": '{"images": []}'.encode("utf-16"),
            "a half of a character": b'{"images": ["\\ud800"], "task": "\\udfff"}',
            "single quotes": b"{'images': []}",
            "a remark": b'{"images": [] /* none */}',
        }.items()
    )
    for value in (
        [],
        {},
        {"texts": []},
        {"texts": [1]},
        {"texts": ["a"], "images": [image]},
        {"texts": ["a"], "task": "auto"},
    ):
        yield _post("/v1/embed", value)
    yield _post("/v1/embed", {"texts": ["\ud800"]}, TAKEN_OR_REFUSED)
    yield _post("/v1/embed", {"texts": ["a"], "task": "\ud800"})
    yield _post("/v1/embed", {"texts": ["a\0b"]}, TAKEN_OR_REFUSED)


def _http(secrets: Secrets) -> Iterator[Hostile]:
    body = form(file_part(secrets.good))
    head = f"POST /v1/classify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {FORM}\r\n"
    lines = {
        "a garbage line": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "no version": b"GET /v1/tasks\r\n\r\n",
        "version 9.9": b"GET /v1/tasks HTTP/9.9\r\nhost: x\r\n\r\n",
        "an unknown method": request("BREW", "/v1/classify"),
        "a method of 5,000 letters": request("A" * 5000, "/v1/classify"),
        "TRACE": request("TRACE", "/v1/classify"),
        "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "a target of 100,000 letters": request("GET", "/" + "a" * 100_000),
        "1,000 headers": head.encode() + b"".join(b"x-%d: y\r\n" % k for k in range(9000)) + b"\r\n",
        "a header of 200,000 letters": head.encode() + b"x-a: " + b"a" * 200_000,
        "a header without a name": head.encode() + b": y\r\ncontent-length: 0\r\n\r\n",
        "a header with a NUL": head.encode() + b"x-a: \0\r\ncontent-length: 0\r\n\r\n",
        "a negative length": (head + "content-length: -5\r\n\r\n").encode() + body,
        "a length of letters": (head + "content-length: abc\r\n\r\n").encode() + body,
        "a length of 10**30": (head + f"content-length: {10**30}\r\n\r\n").encode() + body,
        "a length over the limit": (head + "content-length: 999999999\r\n\r\n").encode() + body,
        "two lengths": (head + "content-length: 4\r\ncontent-length: 5\r\n\r\n").encode() + body,
        "a length and chunks": (head + "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n").encode() + body,
        "chunks of no size": (head + "transfer-encoding: chunked\r\n\r\nzz\r\n").encode() + body,
        "a chunk of 2**64": (head + "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n").encode() + body,
        "unknown transfer": (head + "transfer-encoding: magic\r\n\r\n").encode() + body,
        "a body that ends early": (head + f"content-length: {len(body) + 500}\r\n\r\n").encode() + body,
        "a length that is too short": (head + f"content-length: {len(body) // 2}\r\n\r\n").encode() + body,
    }
    for what, raw in lines.items():
        # A line without a version is the HTTP of 1991, which the parser knows.
        taken = {200} if what == "no version" else set()
        yield Hostile(what=what, raw=raw, allowed=REFUSED | taken | {CLOSED})
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        yield Hostile(what=f"{method} classify", raw=request(method, "/v1/classify"))
    for target in (
        "*",
        "http://evil/v1/x",
        "//",
        "/v1//classify",
        "/v1/classify/%00",
        "/%",
        "/%zz",
        "/\x7f",
    ):
        yield Hostile(what=f"target {target[:30]!r}", raw=request("GET", target))
    # The first page looks at no query.
    yield Hostile(what="a long query", raw=request("GET", "/?" + "a" * 5000), allowed=REFUSED | {200, CLOSED})
    for value in ("a" * 9000, "\x00\x01", "../../x", "<b>", "é"):
        raw = request("GET", "/v1/nothing", headers={"x-request-id": value})
        yield Hostile(what=f"request id {value[:20]!r}", raw=raw)
    for headers in (
        {"authorization": "Basic " + "=" * 500},
        {"authorization": "Bearer " + "k" * 5000},
        {"x-api-key": "\xff\xfe"},
    ):
        raw = request("POST", "/v1/models", b"{}", JSON, headers)
        yield Hostile(what=f"key {str(headers)[:40]}", raw=raw)


def _post(
    target: str, value: Any, allowed: frozenset[int] = REFUSED, headers: Mapping[str, str] | None = None
) -> Hostile:
    raw = request("POST", target, json.dumps(value).encode(), JSON, headers)
    return Hostile(what=f"{target[:40]} {str(value)[:160]!r}", raw=raw, allowed=allowed)


def _tensors(secrets: Secrets) -> Iterator[Hostile]:
    infer, side = "/v2/models/igsp/infer", secrets.size
    good = np.zeros((1, side, side, 3), np.uint8)

    def tensor(**changed: Any) -> dict[str, Any]:
        values = {"name": "images", "datatype": "UINT8", "shape": list(good.shape), "data": good.ravel().tolist()}
        return {key: value for key, value in (values | changed).items() if value is not ...}

    nan = [float("nan")] * good.size
    inputs: list[Any] = [None, 1, [], {}, [1], [None], [[]], [{}], [tensor(), tensor()]]
    inputs += [[tensor(**{key: ...})] for key in ("name", "datatype", "shape", "data")]
    inputs += [[tensor(name=name)] for name in ("", "x", None, 3, ["images"], "../images", "a" * 5000)]
    inputs += [[tensor(datatype=kind)] for kind in ("FP32", "INT64", "uint8", "BYTES", None, 8, "", ["UINT8"])]
    inputs += [
        [tensor(shape=shape)]
        for shape in (
            *(
                [],
                [0],
                [1],
                [-1, side, side, 3],
                [1, 3, side, side],
                [1, side, side, 4],
                [1, side, side],
                [1] * 40,
                None,
                "x",
            ),
            *([2**62, 2**62, 2], [2**39] * 4, [1.0, side, side, 3], [True, side, side, 3], [[1]], [0, side, side, 3]),
        )
    ]
    datas: list[Any] = [nan, [], [1], "AAAA", {}, [[1, 2], [3]], [-1] * good.size, [256] * good.size]
    inputs += [[tensor(data=data)] for data in datas]
    inputs += [[tensor(data=[None] * good.size)], [tensor(data=[1.5] * good.size)], [tensor(data=[True] * good.size)]]
    inputs += [[tensor(data=[10**40] * good.size)], [tensor(data=["\ud800"] * good.size)]]
    owns: list[Any] = [1, [], {"shared_memory_region": "x"}, {"binary_data_size": 9**30}]
    inputs += [[tensor(parameters=own)] for own in owns]
    inputs += [[tensor(parameters={"binary_data_size": size}, data=...)] for size in (-1, 1.5, "x", True, 5, good.size)]
    tasks: list[list[Any]] = [[5], [-3], [2**63], [-(2**63)], [1.5], [float("nan")], ["colors"], [None], [], [0, 1]]
    for task in (
        *tasks,
        [[0], [1]],
        ["-1"],
        ["x" * 5000],
        ["\ud800"],
        ["../colors"],
        ["colors\0"],
        [["colors"], ["auto"]],
    ):
        for kind in ("INT64", "BYTES"):
            if (task, kind) != (["colors"], "BYTES"):
                inputs.append([tensor(), {"name": "task", "datatype": kind, "shape": [len(task)], "data": task}])
    files: list[list[Any]] = [
        ["!!"],
        ["\ud800"],
        [1],
        [None],
        [""],
        [base64.b64encode(b"no image").decode()],
        ["AAAA"] * 70,
    ]
    inputs += [[{"name": "image_bytes", "datatype": "BYTES", "shape": [len(data)], "data": data}] for data in files]
    for value in inputs:
        yield _post(infer, {"inputs": value})
    wanted: list[Any] = [1, {}, [1], [{}], [{"name": 1}], [{"name": "x"}], [{"name": "features", "parameters": 1}]]
    for outputs in wanted:
        yield _post(infer, {"inputs": [tensor()], "outputs": outputs})
    yield _post(infer, {"inputs": [tensor()], "outputs": [{"name": "labels", "parameters": {"classification": 3}}]})
    given: list[Any] = [
        1,
        [],
        {"x": 1},
        {"task": 0},
        {"task": "x"},
        {"task": ["colors"]},
        {"top_k": 0},
        {"top_k": 10**9},
        {"top_k": "x"},
        {"top_k": True},
    ]
    for parameters in (*given, {"timeout": -1}, {"timeout": "x"}):
        yield _post(infer, {"inputs": [tensor()], "parameters": parameters})
    for what, head, body in (
        ("NaN as it is", None, json.dumps({"inputs": [tensor(data=nan)]}).encode()),
        (
            "deep lists",
            None,
            b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": ' + b"[" * 50_000,
        ),
        ("a length of letters", "abc", b"{}"),
        ("a length that is too long", "999", b"{}"),
        ("a negative length", "-1", b"{}"),
        ("a length of 5,000 digits", "9" * 5000, b"{}"),
        ("a length in other digits", "\xb2", b"{}"),
        ("bytes that belong to nobody", "2", b"{}" + bytes(50)),
        (
            "half a number",
            *_binary({"name": "images", "datatype": "UINT8", "shape": list(good.shape)}, good.tobytes()[:-1]),
        ),
        (
            "strings cut off",
            *_binary({"name": "image_bytes", "datatype": "BYTES", "shape": [1]}, b"\xff\xff\xff\xffab"),
        ),
        ("too many strings", *_binary({"name": "image_bytes", "datatype": "BYTES", "shape": [1]}, bytes(4000))),
        ("strings of no length", *_binary({"name": "image_bytes", "datatype": "BYTES", "shape": [2**39]}, bytes(400))),
    ):
        headers = {} if head is None else {"inference-header-content-length": head}
        raw = request("POST", infer, body, "application/octet-stream", headers)
        yield Hostile(what=f"tensors: {what}", raw=raw)


def _names(secrets: Secrets) -> Iterator[Hostile]:
    admin = {"authorization": f"Bearer {secrets.key}"}
    for name in PATHS:
        # Names of files are not looked at.
        shown = name.replace("\0", "").replace('"', "")
        body = form(file_part(secrets.good, filename=shown), text_part("task", name))
        yield _classify(f"task {name[:30]!r}", body, FORM)
        yield _post("/v1/models", {"bundle": name}, headers=admin)
        yield _post("/v1/tasks", {"bundle": name, "task": "colors"}, headers=admin)
        quoted = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogatepass"))
        yield Hostile(what=f"model {name[:30]!r}", raw=request("GET", f"/v2/models/{quoted}"))
        yield Hostile(what=f"removes {name[:30]!r}", raw=request("DELETE", f"/v1/tasks/{quoted}", headers=admin))
        yield Hostile(what=f"path {name[:30]!r}", raw=request("GET", f"/{quoted}"))


def _binary(described: Mapping[str, Any], data: bytes) -> Sequence[Any]:
    """Length of the JSON, and the body, of a request with one binary tensor."""
    values = {"inputs": [{**described, "parameters": {"binary_data_size": len(data)}}]}
    text = json.dumps(values).encode()
    return str(len(text)), text + data


def _gzip(data: bytes) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()
