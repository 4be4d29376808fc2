"""Reads the YAML files of search_spaces/ into a Space. Whatever is wrong in one is named in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nas.architecture import Architecture, Scalar
from nas.errors import SpaceError
from nas.networks.block_schema import block_spec, keywords, takes_maps
from nas.networks.blocks import BLOCKS
from nas.spaces.search_space import FinalTraining, Operator, Proxy, Space, StageSpec, SupernetTraining, Values
from nas.utils.paths import shipped
from nas.utils.registry import closest, lookup, nearest

T = TypeVar("T")

_TOP_KEYS = ("about", "source", "resolution", "stages", "head", "proxy", "final", "supernet", "published")
_SLOT_KEYS = ("block", "depth", "per_layer", "alternate")


def space_names() -> list[str]:
    """Return the names of the shipped search spaces and reference networks."""
    return sorted(path.stem for path in shipped_files())


def shipped_files() -> list[Path]:
    """Return the YAML files that ship: search_spaces/<family>/<name>.yaml, each found by its bare name."""
    return sorted(shipped("search_spaces").glob("*/*.yaml"))


def load_space(name: str) -> Space:
    """Return the space of a shipped name ("mnasnet") or of a YAML file's path.

    Raises SpaceError with the file, the key, the rule and the value of what is wrong.
    """
    path = space_path(name)
    return parse_space(path.stem, read_yaml(path), where=name if path.suffix in name else path.name)


def space_path(name: str) -> Path:
    """Return the YAML file of a shipped name, or the path that `name` is. Raises SpaceError for an unknown name."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = next((file for file in shipped_files() if file.stem == name), path)
        if path.name != f"{name}.yaml":
            raise SpaceError(f"unknown search space '{name}'{nearest(name, space_names())}")
    return path


def load_architecture(name: str) -> Architecture:
    """Return the architecture of a space that has no choice. Raises SpaceError for any other."""
    if Path(name).suffix not in (".yaml", ".yml") and name not in space_names():
        networks = [known for known in space_names() if load_space(known).is_network]
        close = closest(name, networks)
        hint = f"; did you mean '{close}'?" if close else "; see `nas list networks`"
        raise SpaceError(f"unknown network '{name}'", nearest=hint)
    space = load_space(name)
    if not space.is_network:
        raise SpaceError(f"{name}: a space with {len(space.choices)} choices, not one network")
    return space.decode({})


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, but a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, never executing any of it. Raises SpaceError where it is not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise SpaceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{path}{line}: {getattr(error, 'problem', None) or 'not YAML'}") from error


def parse_space(name: str, data: object, where: str) -> Space:
    """Return the space that a parsed file describes; `where` names the file in errors."""
    data = _mapping(data, where, _TOP_KEYS)
    for key in ("resolution", "stages", "head"):
        if key not in data:
            raise SpaceError(f"{where}: the key '{key}' is missing")
    stages = data["stages"]
    if not isinstance(stages, list) or not stages:
        raise SpaceError(f"{where}: stages must be a list with at least one stage: {stages!r}")
    top1, published_source = None, ""
    if "published" in data:
        top1, published_source = _published(data["published"], f"{where}, published")
    space = Space(
        name=name,
        resolution=_integers(data["resolution"], f"{where}: resolution", least=1),
        stages=tuple(
            _slot(f"stage{index}", stage, f"{where}, stage {index}", in_stage=True)
            for index, stage in enumerate(stages)
        ),
        head=_slot("head", data["head"], f"{where}, head", in_stage=False),
        proxy=_numbers(Proxy, data.get("proxy", {}), f"{where}, proxy"),
        final=_numbers(FinalTraining, data.get("final", {}), f"{where}, final"),
        supernet=_numbers(SupernetTraining, data.get("supernet", {}), f"{where}, supernet"),
        about=str(data.get("about", "")),
        source=str(data.get("source", "")),
        published_top1=top1,
        published_source=published_source,
    )
    if top1 is not None and not space.is_network:
        raise SpaceError(f"{where}: published is of one network, this space has choices: {len(space.choices)}")
    return space


def _published(data: object, where: str) -> tuple[float, str]:
    given = _mapping(data, where, ("top1", "source"))
    for key in ("top1", "source"):
        if key not in given:
            raise SpaceError(f"{where}: the key '{key}' is missing")
    top1, source = given["top1"], given["source"]
    if isinstance(top1, bool) or not isinstance(top1, int | float) or not 0 < top1 <= 100:
        raise SpaceError(f"{where}: top1 must be a percentage above 0 and at most 100: {top1!r}")
    if not isinstance(source, str) or not source:
        raise SpaceError(f"{where}: source must be a text that says where the number stands: {source!r}")
    return float(top1), source


def _mapping(data: object, where: str, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise SpaceError(f"{where}: must be a mapping of keys to values: {data!r}")
    for key in data:
        if known is not None and key not in known:
            raise SpaceError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    return data


def _values(value: object, where: str) -> Values:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise SpaceError(f"{where}: a choice needs at least one value: []")
    for item in values:
        if not isinstance(item, Scalar):
            raise SpaceError(f"{where}: a value must be a number, a word or true/false: {item!r}")
    if len({(type(item), item) for item in values}) < len(values):
        raise SpaceError(f"{where}: a choice must not offer a value twice: {value!r}")
    return tuple(values)


def _integers(value: object, where: str, least: int) -> tuple[int, ...]:
    numbers = []
    for item in _values(value, where):
        if not isinstance(item, int) or isinstance(item, bool) or item < least:
            raise SpaceError(f"{where} must be whole numbers of at least {least}: {item!r}")
        numbers.append(item)
    return tuple(numbers)


def _numbers(kind: type[T], data: object, where: str) -> T:
    """Return the dataclass of whole numbers and of true or false that a section holds."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = _mapping(data, where, tuple(fields))
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, list):
            raise SpaceError(f"{where}: {key} cannot be a choice: {value!r}")
        if isinstance(fields[key].default, bool):
            if not isinstance(value, bool):
                raise SpaceError(f"{where}: {key} must be true or false: {value!r}")
            found[key] = value
        else:
            least = 0 if key in ("images", "warmup_epochs") else 1  # no images: all of them
            found[key] = _integers(value, f"{where}: {key}", least)[0]
    return kind(**found)


def _slot(name: str, data: object, where: str, in_stage: bool) -> StageSpec:
    data = _mapping(data, where)
    if "block" not in data:
        raise SpaceError(f"{where}: the key 'block' is missing")
    operators = _operators(data["block"], where)
    for operator in operators:
        if takes_maps(operator.block) == in_stage:
            place = "a head, it cannot stand in a stage" if in_stage else "a block of a stage, it cannot be the head"
            raise SpaceError(f"{where}: '{operator.block}' is {place}")
    shared = {key: value for key, value in data.items() if key not in _SLOT_KEYS}
    args = _arguments(shared, operators, where)
    depth = _integers(data.get("depth", 1), f"{where}: depth", least=0 if in_stage else 1)
    if not in_stage and depth != (1,):
        raise SpaceError(f"{where}: depth must be 1: {data['depth']!r}")
    if not in_stage and "alternate" in data:
        raise SpaceError(f"{where}: alternate belongs to a stage, it has layers: {data['alternate']!r}")
    strides = dict(args).get("stride", (1,))
    if 0 in depth and any(stride != 1 for stride in strides):
        raise SpaceError(f"{where}: depth 0 would drop the stage's stride: depth {list(depth)}, stride {strides[0]}")
    alternate = _alternate(data.get("alternate", {}), shared, operators, where)
    _check_blocks({**{key: values[0] for key, values in alternate}, **shared}, operators, where)
    per_layer = _per_layer(data.get("per_layer", []), shared, operators, where)
    return StageSpec(name, operators, depth, args, per_layer, alternate)


def _alternate(
    data: object, shared: Mapping[str, Any], operators: tuple[Operator, ...], where: str
) -> tuple[tuple[str, Values], ...]:
    """Return the keywords whose values the layers of a stage take in turn: `alternate: {order: [a, b]}`."""
    cycles = []
    for key, values in _mapping(data, f"{where}: alternate").items():
        taken = {"stride", *shared, *(own for operator in operators for own, _ in operator.args)}
        if key in taken:
            rule = "is the first layer's alone" if key == "stride" else "already stands in the stage"
            raise SpaceError(f"{where}: alternate: '{key}' {rule}")
        if not isinstance(values, list) or len(values) < 2:
            raise SpaceError(f"{where}: alternate: {key} must be a list of at least two values: {values!r}")
        if any(isinstance(value, list) for value in values):
            raise SpaceError(f"{where}: alternate: {key} cannot hold a choice: {values!r}")
        checked = [_arguments({key: value}, operators, f"{where}: alternate") for value in values]
        cycles.append((key, tuple(value for ((_, (value,)),) in checked)))
    return tuple(cycles)


def _check_blocks(given: Mapping[str, Any], operators: tuple[Operator, ...], where: str) -> None:
    for operator in operators:
        own = dict(operator.args)
        block_spec(operator.block, {key: _first(value) for key, value in {**given, **own}.items()}, where)
        if set(own) & set(given):
            raise SpaceError(f"{where}: '{min(set(own) & set(given))}' stands in the stage and in '{operator.block}'")


def _operators(block: object, where: str) -> tuple[Operator, ...]:
    entries = block if isinstance(block, list) else [block]
    if not entries:
        raise SpaceError(f"{where}: block: a choice needs at least one value: []")
    operators: list[Operator] = []
    for entry in entries:
        fields = {"op": entry} if isinstance(entry, str) else _mapping(entry, f"{where}: block")
        op = fields.get("op")
        if not isinstance(op, str):
            raise SpaceError(f"{where}: block: an operator is a name or a mapping with 'op': {entry!r}")
        lookup(BLOCKS, op, "block", where, SpaceError)
        own = {key: value for key, value in fields.items() if key != "op"}
        alone = (Operator(op, op),)
        repeats = sum(operator.block == op for operator in operators)
        label = f"{op}{repeats + 1}" if repeats else op
        operators.append(Operator(label, op, _arguments(own, alone, where)))
    return tuple(operators)


def _arguments(given: Mapping[str, Any], operators: tuple[Operator, ...], where: str) -> tuple[tuple[str, Values], ...]:
    checked = []
    for key, value in given.items():
        values = _values(value, f"{where}: {key}")
        for operator in operators:
            known = keywords(operator.block)
            if key not in known:
                raise SpaceError(
                    f"{where}: block '{operator.block}' has no keyword '{key}'{nearest(key, [*known, *_SLOT_KEYS])}"
                )
            values = tuple(known[key].check(item, where) for item in values)
        checked.append((key, values))
    return tuple(checked)


def _per_layer(value: object, shared: Mapping[str, Any], operators: tuple[Operator, ...], where: str) -> frozenset[str]:
    known = {"block", *shared, *(key for operator in operators for key, _ in operator.args)}
    if value is True:
        return frozenset(known - {"stride"})
    keys = value if isinstance(value, list) else [value] if value else []
    for key in keys:
        if not isinstance(key, str) or key not in known:
            raise SpaceError(f"{where}: per_layer: unknown key '{key}'{nearest(str(key), known)}")
    return frozenset(keys)


def _first(values: object) -> object:
    return values[0] if isinstance(values, list | tuple) else values
