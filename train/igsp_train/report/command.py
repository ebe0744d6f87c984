"""The commands that learn a model again."""

import dataclasses
import shlex
from typing import Any

from igsp_deploy.config import DataConfig, LearnConfig
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.record import TaskRecord


def commands_to_repeat(folder: ModelFolder) -> list[str]:
    """Lines of `igsp train`, one for each stretch of tasks with the same settings, and of `igsp import`.

    Only what is not a default is named.
    """
    stretches: list[tuple[list[str], list[TaskRecord]]] = []
    for record in folder.tasks:
        options = _changed(record.data, DataConfig(), "data")
        options += _changed(record.metrics.get("learn") or {}, LearnConfig(), "learn")
        imported = record.metrics.get("imported")
        if imported:
            options += ["--data", record.source]
        if stretches and stretches[-1][0] == options and not imported:
            stretches[-1][1].append(record)
        else:
            stretches.append((options, [record]))
    lines = []
    for number, (options, records) in enumerate(stretches):
        imported = records[0].metrics.get("imported")
        words = ["igsp", "import" if imported else "train", folder.path.name or "model"]
        words += [records[0].name, imported] if imported else []
        if number == 0:
            words += _changed(dataclasses.asdict(folder.config), type(folder.config)(), "model")
            words += _changed(dataclasses.asdict(folder.selector_config), type(folder.selector_config)(), "selector")
        words += options
        tasks = [shlex.join(["--task", f"{record.name}={record.source}"]) for record in records if not imported]
        lines.append(" \\\n    ".join([shlex.join(words), *tasks]))
    return lines


def learn_settings(records: list[TaskRecord]) -> dict[str, Any] | None:
    """Settings of learning that all tasks share, `varies` where they differ; None where they were not recorded."""
    found = [record.metrics.get("learn") for record in records if not record.metrics.get("imported")]
    if not all(isinstance(settings, dict) for settings in found):
        return None
    first = (found[0] if found else None) or {}
    return {key: value if all((s or {}).get(key) == value for s in found) else "varies" for key, value in first.items()}


def _changed(values: dict[str, Any], defaults: Any, section: str) -> list[str]:
    options = []
    for field in dataclasses.fields(defaults):
        default = getattr(defaults, field.name)
        if values.get(field.name, default) != default:
            options += ["--set", f"{section}.{field.name}={_yaml(values[field.name])}"]
    return options


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
