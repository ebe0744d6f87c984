"""Ablation presets: YAML files that name a base and variants of it."""

from pathlib import Path
from typing import Any

from igsp_deploy.checked import build
from igsp_deploy.config import RunConfig, apply_overrides, load_yaml
from igsp_deploy.errors import UsageError
from igsp_deploy.yaml_keys import check_unique_keys


def read_ablation(path: Path, overrides: list[str]) -> dict[str, RunConfig]:
    """Settings of every variant of a preset.

    Args:
        path: YAML file with `variants` and optionally `base`.
        overrides: `a.b=c` settings put over the base (a variant's own settings win).

    Returns:
        Label -> settings.

    Raises:
        UsageError: not such a file, unknown settings or values out of range.
    """
    check_unique_keys(path)
    values = load_yaml(path)
    unknown = sorted(set(values) - {"base", "variants"})
    if unknown:
        raise UsageError(f"{path}: {', '.join(unknown)} is not known here; expected base and variants.")
    base, variants = values.get("base") or {}, values.get("variants")
    if not isinstance(variants, dict) or not variants or not isinstance(base, dict):
        raise UsageError(f"{path} must have `variants`, a mapping of labels to settings, and may have `base`.")
    base = apply_overrides(base, overrides)
    configs = {}
    for label, changes in variants.items():
        merged = merge(base, changes or {})
        if "tasks" in merged:
            raise UsageError(f"{path}: tasks are given on the command line, with --task.")
        configs[str(label)] = build(RunConfig, merged, f"{path}, {label}")
    return configs


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, section by section."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result
