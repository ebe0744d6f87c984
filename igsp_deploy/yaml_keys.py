"""Keys that a YAML file gives twice: YAML readers keep the last one and say nothing."""

from pathlib import Path

from igsp_deploy.errors import UsageError


def check_unique_keys(path: Path) -> None:
    """Refuse a YAML file in which one mapping has the same key twice, for example two tasks of one name.

    A file that cannot be read or parsed passes: whoever reads its values reports that.

    Raises:
        UsageError: names the key and both lines.
    """
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    open_nodes, seen = [root], set()
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            open_nodes.extend(node.value)
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            open_nodes.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise UsageError(f"{path}: {key.value!r} is given twice, in lines {lines[key.value]} and {line}.")
            lines[key.value] = line
