"""Reads the YAML files of search_spaces/ into a `Space`. Every error is one line with the file, key, rule and value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.architecture import RGB_SQUARE, Architecture, InputFormat, Scalar, checked_channels
from nas.errors import SpaceError, located
from nas.networks.block_schema import Role, block_spec, keywords, role
from nas.networks.blocks import find_block
from nas.spaces.resolutions import as_rectangle, one_aspect
from nas.spaces.search_space import Operator, Space, StageSpec, Values
from nas.spaces.trainings import MOST_BRANCHES, FinalTraining, Proxy, SupernetTraining
from nas.spaces.yaml_files import read_yaml
from nas.utils.paths import shipped
from nas.utils.registry import closest, nearest

T = TypeVar("T")

SUFFIXES = (".yaml", ".yml", ".json")
"""The endings of files of spaces and networks. JSON is read as YAML."""
_SPACE_KEYS = (
    "about", "source", "resolution", "channels", "stages", "neck", "head", "proxy", "final", "supernet", "published"
)  # fmt: skip
_STAGE_KEYS = ("block", "depth", "per_layer", "alternate", "tap")


def space_names() -> list[str]:
    """Return the names of the shipped search spaces and reference networks."""
    return sorted(path.stem for path in shipped_files())


def shipped_files() -> list[Path]:
    """Return the shipped YAML files, search_spaces/<family>/<name>.yaml."""
    return sorted(shipped("search_spaces").glob("*/*.yaml"))


def load_space(name: str) -> Space:
    """Return the space of a shipped name ("mnasnet") or the path of a YAML file. Raises SpaceError."""
    path = space_path(name)
    return parse_space(path.resolve().stem, read_yaml(path), where=name if path.suffix in name else path.name)


def space_path(name: str) -> Path:
    """Return the YAML file of a shipped name; a path is returned as it is. Raises SpaceError for an unknown name."""
    path = Path(name).expanduser()
    if path.suffix not in SUFFIXES:
        path = next((file for file in shipped_files() if file.stem == name), path)
        if path.name != f"{name}.yaml":
            raise SpaceError(f"unknown search space '{name}'", nearest=nearest(name, space_names()))
    return path


def load_architecture(name: str) -> Architecture:
    """Return the architecture of a file that describes one network. Raises SpaceError if it has choices."""
    if Path(name).suffix not in SUFFIXES and name not in space_names():
        networks = [known for known in space_names() if load_space(known).is_network]
        close = closest(name, networks)
        hint = f"; did you mean '{close}'?" if close else "; see `nas list networks`"
        raise SpaceError(f"unknown network '{name}'", nearest=hint)
    space = as_rectangle(load_space(name))
    if not space.is_network:
        raise SpaceError(f"a space with {len(space.choices)} choices, not one network", where=name)
    return space.decode({})


def parse_space(name: str, data: object, where: str) -> Space:
    """Return the space that a parsed file describes.

    Args:
        name: The space's name.
        data: The content of the file.
        where: The file, as errors name it.

    Raises:
        SpaceError: The content is not a valid space.
    """
    data = _mapping(data, where, _SPACE_KEYS)
    _require(data, ("resolution", "stages", "head"), where)
    for key in ("stages", "neck"):
        if key in data and (not isinstance(data[key], list) or not data[key]):
            raise SpaceError("must be a list with at least one stage", where=where, key=key, value=data[key])
    stages = tuple(_stage(f"stage{at}", stage, f"{where}, stage {at}") for at, stage in enumerate(data["stages"]))
    _check_taps(stages, where)
    published = _published(data["published"], f"{where}, published") if "published" in data else {}
    heights, aspect = one_aspect(data["resolution"], where)
    space = Space(
        name=name,
        resolution=heights,
        stages=stages,
        neck=tuple(
            _stage(f"neck{at}", stage, f"{where}, neck {at}", "neck") for at, stage in enumerate(data.get("neck", ()))
        ),
        head=_head(data["head"], f"{where}, head"),
        proxy=_section(Proxy, data.get("proxy", {}), f"{where}, proxy"),
        final=_section(FinalTraining, data.get("final", {}), f"{where}, final"),
        supernet=_section(SupernetTraining, data.get("supernet", {}), f"{where}, supernet"),
        about=str(data.get("about", "")),
        source=str(data.get("source", "")),
        input=InputFormat(checked_channels(data.get("channels", RGB_SQUARE.channels), where), aspect),
        **published,
    )
    if published and not space.is_network:
        rule = "is allowed for a single network only; number of choices"
        raise SpaceError(rule, where=where, key="published", value=len(space.choices))
    return space


def _published(data: object, where: str) -> dict[str, Any]:
    """Return the published top-1 accuracy of a classifier, or AP of a detector, in percent, and its source."""
    given = _mapping(data, where, ("top1", "ap", "source"))
    measure = "ap" if "ap" in given else "top1"
    _require(given, (measure, "source"), where)
    value, source = given[measure], given["source"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        raise SpaceError("must be a percentage above 0 and at most 100", where=where, key=measure, value=value)
    if not isinstance(source, str) or not source:
        raise SpaceError("must name the publication of the accuracy", where=where, key="source", value=source)
    return {f"published_{measure}": float(value), "published_source": source}


def _mapping(data: object, where: str, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise SpaceError("must be a mapping of keys to values", where=where, value=data)
    for key in data:
        if known is not None and key not in known:
            raise SpaceError(f"unknown key '{key}'", where=where, nearest=nearest(key, known))
    return data


def _require(data: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if key not in data:
            raise SpaceError(f"the key '{key}' is missing", where=where)


def _values(value: object, where: str, key: str) -> Values:
    """Return the values of a choice; a scalar is a choice with one value."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise SpaceError("a choice needs at least one value", where=where, key=key, value=[])
    for item in values:
        if not isinstance(item, Scalar):
            raise SpaceError("a value must be a number, a word or true/false", where=where, key=key, value=item)
    if len({(type(item), item) for item in values}) < len(values):
        raise SpaceError("a choice must not offer a value twice", where=where, key=key, value=value)
    return tuple(values)


def _integers(value: object, where: str, key: str, minimum: int) -> tuple[int, ...]:
    numbers = []
    for item in _values(value, where, key):
        if not isinstance(item, int) or isinstance(item, bool) or item < minimum:
            raise SpaceError(f"must be a whole number of at least {minimum}", where=where, key=key, value=item)
        numbers.append(item)
    return tuple(numbers)


def _section(kind: type[T], data: object, where: str) -> T:
    """Return the dataclass `kind`, with fields of type int and bool, of a section of the file."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = _mapping(data, where, tuple(fields))
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, list):
            raise SpaceError("must be a single value, not a choice", where=where, key=key, value=value)
        if isinstance(fields[key].default, bool):
            if not isinstance(value, bool):
                raise SpaceError("must be true or false", where=where, key=key, value=value)
            found[key] = value
        else:
            minimum = 0 if key in ("images", "warmup_epochs", "full_epochs", "branches") else 1  # 0 images: all of them
            found[key] = _integers(value, where, key, minimum)[0]
            if key == "branches" and found[key] > MOST_BRANCHES:
                raise SpaceError(f"must be at most {MOST_BRANCHES}", where=where, key=key, value=value)
    return kind(**found)


def _head(data: object, where: str) -> StageSpec:
    data = _mapping(data, where)
    if "alternate" in data:
        raise SpaceError("is allowed in a stage only", where=where, key="alternate", value=data["alternate"])
    head = _stage("head", data, where, "head")
    if head.depth != (1,):
        raise SpaceError("must be 1", where=where, key="depth", value=data["depth"])
    return head


def _check_taps(stages: tuple[StageSpec, ...], where: str) -> None:
    """Raise SpaceError if stages are tapped, but not the last one: nothing would read it."""
    taps = [number for number, stage in enumerate(stages) if stage.tap]
    if taps and taps[-1] < len(stages) - 1:
        rule = (
            "nothing reads it: with taps, neck and head read the tapped stages only, so the last stage must be tapped"
        )
        raise SpaceError(rule, where=f"{where}, stage {len(stages) - 1}")


def _stage(name: str, data: object, where: str, of: Role = "block") -> StageSpec:
    data = _mapping(data, where)
    _require(data, ("block",), where)
    operators = _operators(data["block"], where)
    for operator in operators:
        _check_role(operator.block, of, where)
    shared = {key: value for key, value in data.items() if key not in _STAGE_KEYS}
    args = _arguments(shared, operators, where)
    depth = _integers(data.get("depth", 1), where, "depth", minimum=1 if of == "head" else 0)
    tap = _tap(data, of, depth, where)
    strides = dict(args).get("stride", (1,))
    if 0 in depth and any(stride != 1 for stride in strides):
        rule = f"must not be 0 in a stage with stride {strides[0]}"
        raise SpaceError(rule, where=where, key="depth", value=list(depth))
    alternate = _alternate(data.get("alternate", {}), shared, operators, where)
    _check_blocks({**{key: values[0] for key, values in alternate}, **shared}, operators, where)
    per_layer = _per_layer(data.get("per_layer", []), shared, operators, where)
    return StageSpec(name, operators, depth, args, per_layer, alternate, tap)


def _check_role(op: str, of: Role, where: str) -> None:
    """Raise SpaceError if a block does not belong to the part of a network that it is in."""
    own, places = role(op), {"block": "a stage", "neck": "the neck", "head": "the head"}
    if own == of or (own, of) == ("block", "neck"):
        return
    rule = f"is a {own} and does not belong in {places[of]}"
    raise SpaceError(f"'{op}' {rule if own != 'block' else 'belongs in a stage, not in the head'}", where=where)


def _tap(data: Mapping[str, Any], of: Role, depth: tuple[int, ...], where: str) -> bool:
    """Return whether a stage is tapped. Raises SpaceError if it cannot be."""
    tap = data.get("tap", False)
    if not isinstance(tap, bool):
        raise SpaceError("must be true or false", where=where, key="tap", value=tap)
    if tap and of != "block":
        raise SpaceError("is allowed in a stage of the backbone only", where=where, key="tap", value=tap)
    if tap and 0 in depth:
        raise SpaceError(
            "must not be 0 in a stage with a tap: neck and head read it", where=where, key="depth", value=list(depth)
        )
    return tap


def _alternate(
    data: object, shared: Mapping[str, Any], operators: tuple[Operator, ...], where: str
) -> tuple[tuple[str, Values], ...]:
    """Return the keywords whose values the layers of a stage take in turn: `alternate: {order: [a, b]}`."""
    where = f"{where}: alternate"
    taken = {*shared, *(own for operator in operators for own, _ in operator.args)}
    cycles = []
    for key, values in _mapping(data, where).items():
        if key == "stride":
            raise SpaceError("'stride' applies to the first layer only", where=where)
        if key in taken:
            raise SpaceError(f"'{key}' is already a keyword of the stage", where=where)
        if not isinstance(values, list) or len(values) < 2:
            raise SpaceError("must be a list of at least two values", where=where, key=key, value=values)
        if any(isinstance(value, list) for value in values):
            raise SpaceError("must not hold a choice", where=where, key=key, value=values)
        checked = [_arguments({key: value}, operators, where) for value in values]
        cycles.append((key, tuple(value for ((_, (value,)),) in checked)))
    return tuple(cycles)


def _check_blocks(given: Mapping[str, Any], operators: tuple[Operator, ...], where: str) -> None:
    for operator in operators:
        own = dict(operator.args)
        block_spec(operator.block, {key: _first(value) for key, value in {**given, **own}.items()}, where)
        if set(own) & set(given):
            key = min(set(own) & set(given))
            raise SpaceError(f"'{key}' is given for the stage and for '{operator.block}'", where=where)


def _operators(block: object, where: str) -> tuple[Operator, ...]:
    entries = block if isinstance(block, list) else [block]
    if not entries:
        raise SpaceError("a choice needs at least one value", where=where, key="block", value=[])
    operators: list[Operator] = []
    for entry in entries:
        fields = {"op": entry} if isinstance(entry, str) else _mapping(entry, f"{where}: block")
        op = fields.get("op")
        if not isinstance(op, str):
            raise SpaceError("an operator is a name or a mapping with 'op'", where=where, key="block", value=entry)
        find_block(op, where)
        with located(where):
            keywords(op)
        own = {key: value for key, value in fields.items() if key != "op"}
        alone = (Operator(op, op),)
        repeats = sum(operator.block == op for operator in operators)
        label = f"{op}{repeats + 1}" if repeats else op
        operators.append(Operator(label, op, _arguments(own, alone, where)))
    return tuple(operators)


def _arguments(given: Mapping[str, Any], operators: tuple[Operator, ...], where: str) -> tuple[tuple[str, Values], ...]:
    checked = []
    for key, value in given.items():
        values = _values(value, where, key)
        for operator in operators:
            known = keywords(operator.block)
            if key not in known:
                close = nearest(key, [*known, *_STAGE_KEYS])
                raise SpaceError(f"block '{operator.block}' has no keyword '{key}'", where=where, nearest=close)
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
            close = nearest(str(key), known)
            raise SpaceError(f"unknown key '{key}'", where=where, key="per_layer", nearest=close)
    return frozenset(keys)


def _first(values: object) -> object:
    return values[0] if isinstance(values, list | tuple) else values
