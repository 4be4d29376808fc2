"""Reads YAML and JSON files with anchors and merge keys, but without code, duplicate keys and expanding aliases."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nas.errors import SpaceError

MOST_VALUES = 100_000
"""The largest number of values of a file after all aliases are expanded."""
MOST_BRACKETS, LONGEST_LINE = 2_000, 2_000
"""Only files within both limits are parsed by libyaml, which overflows the stack if values are nested too deeply."""
_READ_ALIKE = re.compile(r"[\n\x20-\x3e\x40-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]*")
"""Text that libyaml and the loader in Python read alike. Tabs, other line ends and "?" make a difference."""
IGNORED = "x-"
"""Top-level keys that begin with this hold anchors for the rest of the file. They are left out."""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML or JSON file, without executing any of it.

    Merge keys (`<<: *base`) are resolved. Top-level keys that begin with "x-" are left out.

    Raises:
        SpaceError: The file cannot be read, has a key twice, or its aliases contain themselves or are too large.
    """
    try:
        data = _parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SpaceError("no such file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot be read: {error}", where=path) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpaceError(getattr(error, "problem", None) or "not YAML", where=f"{path}{line}") from error
    if not isinstance(data, Mapping):
        return data
    return {key: value for key, value in data.items() if not (isinstance(key, str) and key.startswith(IGNORED))}


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the mapping of a JSON object, for `json.loads`. Raises yaml.YAMLError if a key appears twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' appears twice")
    return found


def _parse(text: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):  # JSON may hold tabs and numbers that YAML reads differently
        try:
            return json.loads(text, object_pairs_hook=unique_keys)
        except json.JSONDecodeError:
            pass  # YAML may begin with a bracket too
    fast = getattr(yaml, "CSafeLoader", None)  # absent if PyYAML was built without libyaml
    if fast is not None and _suits_libyaml(text):
        with contextlib.suppress(yaml.YAMLError, RecursionError, ValueError):
            return _load(text, fast)  # ten times as fast, but its errors are less precise
    return _load(text, yaml.SafeLoader)


def _suits_libyaml(text: str) -> bool:
    """Return whether libyaml reads a text as the loader in Python does, and its values are not nested deeply."""
    brackets = text.count("[") + text.count("{")
    longest = max(map(len, text.splitlines()), default=0)
    return brackets <= MOST_BRACKETS and longest <= LONGEST_LINE and _READ_ALIKE.fullmatch(text) is not None


def _load(text: str, kind: Any) -> Any:
    """Return the content of a YAML text, parsed by a loader of PyYAML. Raises YAMLError."""
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values in a node after all aliases are expanded.

    Raises YAMLError for too many, for a key that appears twice and for an alias that contains itself.
    """
    if id(node) in counts:
        if counts[id(node)] == 0:
            raise _refused("an alias contains itself", node)
        return counts[id(node)]
    counts[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    children = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
    count = 1 + sum(_count_values(child, counts) for child in children)
    if count > MOST_VALUES:
        raise _refused(f"more than {MOST_VALUES:,} values after its aliases are expanded", node)
    counts[id(node)] = count
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise YAMLError if a key of a mapping appears twice."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise _refused(f"the key '{key.value}' appears twice", key)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)


def _refused(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
