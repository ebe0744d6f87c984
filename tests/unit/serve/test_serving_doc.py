"""docs/serving.md says what is there."""

import re
from pathlib import Path
from typing import Any

from igsp_serve.http.app import create_app
from igsp_serve.settings import Settings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_tests_it_names_are_there() -> None:
    named = re.findall(r"`(?:tests/[\w/]*/)?(test_\w+\.py)(?:::(test_\w+))?`", TEXT)
    assert len(named) >= 10
    for file, name in named:
        texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(file)]
        assert texts, file
        assert not name or any(f"def {name}(" in text for text in texts), (file, name)


def test_the_options_and_files_it_names_are_there() -> None:
    options = {f"--{name.replace('_', '-')}" for name in Settings.__dataclass_fields__}
    named = set(re.findall(r"`(--[a-z-]+)[` ]", TEXT)) - {"--triton", "--profile"}
    assert len(named) >= 10
    assert named <= options
    for path in re.findall(r"`((?:serve|tests|docs|export)/[\w./-]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_the_metrics_and_paths_it_names_are_there(bundled: Any) -> None:
    app = create_app(bundled.bundle, Settings(provider="cpu"))
    kinds = {"_total", "_bucket", "_info", ""}
    served = app.state.context.metrics.text().decode()
    families = set(re.findall(r"^# TYPE (\w+) ", served, re.MULTILINE))
    named = set(re.findall(r"\b(igsp_(?!serve)[a-z_]+)", TEXT))
    assert len(named) >= 14
    for name in named:
        assert any(name.removesuffix(kind) in families or name in families for kind in kinds), name
    for path in re.findall(r"`GET (/[\w/]+)`", TEXT):
        assert path in app.openapi()["paths"]
    app.state.context.service.close()


def test_its_alerts_are_rules_of_prometheus() -> None:
    import yaml

    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (group,) = yaml.safe_load(block)["groups"]
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for"}
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+[mhd]", rule["for"])
