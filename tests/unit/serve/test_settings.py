"""Options: all from texts, all errors at once, one source for command line, environment and README."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igsp_deploy.errors import UsageError
from igsp_serve.commands.serve import serve
from igsp_serve.settings import Settings, table, variable

README = Path(__file__).parents[3] / "serve" / "README.md"


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_command_line_goes_before_the_environment_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables = {
        "IGSP_PORT": "9000",
        "IGSP_HOST": "::1",
        "IGSP_DEMO": "yes",
        "IGSP_API_KEYS": "a, b,",
        "IGSP_NAME": "",
        "IGSP_BATCH_SIZES": "1, 8,32",
    }
    set_variables(monkeypatch, variables)
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nhost: file\nname: shop\nqueue: 99\nadmin_keys: [x, y]\nbundle_roots: [/c]\n")
    given = {"port": "9001", "bundle_roots": ["/a", "/b"], "docs": False, "config": str(file), "grace_s": None}
    settings = Settings.read(given)
    assert (settings.port, settings.host, settings.demo, settings.docs) == (9001, "::1", True, False)
    assert settings.api_keys == ("a", "b")
    assert settings.bundle_roots == (Path("/a"), Path("/b"))
    assert settings.name == "shop"
    assert (settings.queue, settings.admin_keys) == (99, ("x", "y"))
    assert settings.batch_sizes == (1, 8, 32)
    assert settings == Settings.read({name: value for name, value in given.items() if name != "config"}, file)


def test_all_errors_are_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {"IGSP_MAX_BATCH": "many", "IGSP_DEMO": "perhaps", "IGSP_PROVIDER": "gpu", "IGSP_BATCH_SIZES": "1,x"}
    set_variables(monkeypatch, variables)
    file = tmp_path / "serve.yaml"
    file.write_text("queue: true\nhots: 0.0.0.0\nname: 5\napi_keys: 7\nmax_images: 2.5\n")
    with pytest.raises(UsageError) as error:
        Settings.read({"port": "70000", "timeout_s": "nan", "bla": "1"}, file)
    assert sorted(line.strip() for line in str(error.value).splitlines()) == sorted(
        [
            "IGSP_MAX_BATCH must be a whole number, got 'many'.",
            "IGSP_DEMO must be true or false, got 'perhaps'.",
            "IGSP_PROVIDER must be one of auto, cpu, cuda, tensorrt, got 'gpu'.",
            "IGSP_BATCH_SIZES must be a whole number each, got 'x'.",
            "--port must be a whole number in [0, 65,535], got '70000'.",
            "--timeout-s must be a number from 0.01, got 'nan'.",
            "--bla: there is no option 'bla'; see igsp serve --help.",
            f"{file}: queue must be a whole number, got 'true'.",
            f"{file}: hots: there is no option 'hots'; did you mean host?",
            f"{file}: name must be text, got 5.",
            f"{file}: api_keys must be a list, got 7.",
            f"{file}: max_images must be a whole number, got 2.5.",
        ]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("queue: [", "is not YAML"),
        ("queue: 2024-13-45", "is not YAML"),
        ("- queue", "must hold options by name"),
        ("queue: 1000\nqueue: 2000\n", "given twice"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_file_of_options_is_said_to_be_none(
    text: str | bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=said):
        Settings.read({}, file)


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_the_port_that_kubernetes_sets_for_a_service_called_igsp_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    set_variables(monkeypatch, {"IGSP_PORT": f"{scheme}://10.0.0.1:80", "IGSP_PORT_80_TCP_ADDR": "10.0.0.1"})
    assert Settings.read({}).port == 8000
    assert "enableServiceLinks: false" in caplog.text
    assert Settings.read({"port": "9"}).port == 9


def test_help_is_grouped_and_shows_defaults(igsp: Callable[..., Any]) -> None:
    text = igsp("serve", "--help").stdout
    for group in dict.fromkeys(field.metadata["group"] for field in dataclasses.fields(Settings)):
        assert f"─ {group} ─" in text
    for default in ("[default: 8000]", "[default: 127.0.0.1]", "[default: true]", "[default: 2.0]"):
        assert default in text
    assert "--config" in text


def test_the_options_cost_no_heavy_import() -> None:
    heavy = "{'pydantic', 'pydantic_settings', 'yaml', 'numpy', 'fastapi'}"
    program = f"import sys, igsp_serve.commands.serve; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"queue": 8, "max_images": 64}, "queue must hold the images of one request"),
        ({"tls_key": Path("key.pem")}, "go together"),
        ({"max_batch": 0}, r"max_batch must be a whole number in \[1, 4,096\], got 0"),
        ({"root_path": "igsp"}, "must start with / and not end with it"),
        ({"root_path": "/igsp/"}, "must start with / and not end with it"),
        ({"cors_origin": ("https://shop.example/",)}, "an origin without a path"),
        ({"cors_origin": ("*", "shop.example")}, "got 'shop.example'"),
    ],
)
def test_options_must_fit_together(values: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Settings(**values)  # type: ignore[arg-type]


def test_keys_come_from_files_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\none\n\n two \n")
    assert Settings(api_keys=("zero",), api_key_file=file).all_api_keys() == ("zero", "one", "two")
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no key"):
        Settings(admin_key_file=file).all_admin_keys()
    with pytest.raises(UsageError, match="cannot be read"):
        Settings(api_key_file=tmp_path / "missing").all_api_keys()


def test_every_option_is_on_the_command_line_in_the_environment_and_in_the_readme() -> None:
    names = [field.name for field in dataclasses.fields(Settings)]
    assert list(serve.__annotations__) == ["bundle", "config", *names]
    assert table() in README.read_text(encoding="utf-8"), "renew it: python -m igsp_serve.settings"
    assert variable("max_batch") == "IGSP_MAX_BATCH"


@pytest.mark.parametrize("name", ["port", "grpc_port"])
def test_what_kubernetes_says_of_a_service_of_the_same_name_is_no_port(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = "tcp://10.0.0.1:80"
    monkeypatch.setenv(variable(name), text)
    with caplog.at_level("WARNING"):
        settings = Settings.read({})
    assert getattr(settings, name) == getattr(Settings(), name)
    assert f"{variable(name)}={text}" in caplog.text
    with pytest.raises(UsageError):
        Settings.read({name: text})


def test_the_first_line_of_help_names_both_protocols() -> None:
    assert "over HTTP and gRPC" in (serve.__doc__ or "").splitlines()[0]
