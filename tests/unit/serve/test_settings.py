"""Options: all from texts, all errors at once, one source for command line, environment and README."""

import dataclasses
from pathlib import Path

import pytest

from igsp_deploy.errors import UsageError
from igsp_serve.commands.serve import serve
from igsp_serve.settings import Settings, table, variable

README = Path(__file__).parents[3] / "serve" / "README.md"


def test_the_command_line_goes_before_the_environment() -> None:
    environment = {
        "IGSP_PORT": "9000",
        "IGSP_HOST": "::1",
        "IGSP_DEMO": "yes",
        "IGSP_API_KEYS": "a, b,",
        "IGSP_NAME": "",
        "IGSP_BATCH_SIZES": "1, 8,32",
    }
    settings = Settings.read({"port": "9001", "bundle_roots": ["/a", "/b"], "docs": False}, environment)
    assert (settings.port, settings.host, settings.demo, settings.docs) == (9001, "::1", True, False)
    assert settings.api_keys == ("a", "b")
    assert settings.bundle_roots == (Path("/a"), Path("/b"))
    assert settings.name == "igsp"
    assert settings.batch_sizes == (1, 8, 32)


def test_all_errors_are_said_at_once() -> None:
    environment = {"IGSP_MAX_BATCH": "many", "IGSP_DEMO": "perhaps", "IGSP_PROVIDER": "gpu"}
    with pytest.raises(UsageError) as error:
        Settings.read({"port": "70000", "timeout_s": "nan", "bla": "1"}, environment)
    text = str(error.value)
    for part in (
        "IGSP_MAX_BATCH must be a whole number, got 'many'",
        "IGSP_DEMO must be true or false, got 'perhaps'",
        "provider must be one of auto, cpu, cuda, tensorrt, got 'gpu'",
        "--port: port must be in [0, 65535], got 70000",
        "--timeout-s: timeout_s must be at least 0.01, got nan",
        "no option 'bla'",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"queue": 8, "max_images": 64}, "queue must hold the images of one request"),
        ({"tls_key": Path("key.pem")}, "go together"),
        ({"max_body_bytes": 2048, "max_buffered_bytes": 1024}, "at least max_body_bytes"),
        ({"max_batch": 0}, "max_batch must be in"),
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
    assert list(serve.__annotations__) == ["bundle", *names]
    assert table() in README.read_text(encoding="utf-8"), "renew it: python -m igsp_serve.settings"
    assert variable("max_batch") == "IGSP_MAX_BATCH"
