"""Readers of the tables of ProxylessNAS and Once-for-All: one key per operator, with its shapes and arguments.

Keys were checked against mit-han-lab/proxylessnas (search/utils/latency_estimator.py and
search/models/super_nets/super_proxyless.py) and mit-han-lab/once-for-all at 80a2e26e
(ofa/nas/efficiency_predictor/latency_lookup_table.py and ofa/imagenet_classification/networks/mobilenet_v3.py).
Shapes are HxWxC. `Conv` is the 3x3 stem of stride 2. `expand` is the ratio in ProxylessNAS and the number of middle
channels in Once-for-All. `idskip` is the residual. `se` squeezes to a quarter of the middle channels with a hard
sigmoid. `hs` is hard swish instead of ReLU; ProxylessNAS always uses ReLU6. Both predict a network as the sum of its
rows. Our head is the sum of theirs: Conv_1 + Logits ("all operations after Conv_1"), and Conv_1 + AvgPool2D + Conv_2 +
Logits. Each output shape in a key must equal the output shape of our block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import TableError
from nas.latency.published.rows import Entry, Keyed, Published, Row, digest, layer_of, mean_rows
from nas.networks.network import Layer
from nas.utils.registry import nearest

_KEY = re.compile(
    r"(?P<kind>\w+)-input:(?P<h>\d+)x(?P<w>\d+)x(?P<c>\d+)-output:(?:(?P<oh>\d+)x(?P<ow>\d+)x)?(?P<oc>\d+)"
    r"(?:-expand:(?P<expand>\d+)-kernel:(?P<kernel>\d+)-stride:(?P<stride>\d+)-idskip:(?P<skip>[01])"
    r"(?:-se:(?P<se>[01])-hs:(?P<hs>[01]))?)?"
)
_PARTS = {"proxylessnas": ("Conv_1", "Logits"), "ofa": ("Conv_1", "AvgPool2D", "Conv_2", "Logits")}
Content = Sequence[tuple[Path, Any]]
Fields = dict[str, Any]


def read_proxyless(files: Content) -> Published | None:
    """Read a table of ProxylessNAS, at one resolution. Raises TableError for a broken file."""
    if _family(files[0][1]) != "proxylessnas":
        return None
    if len(files) > 1:
        raise TableError(f"a ProxylessNAS table is one file, but {len(files)} are given", where=files[1][0])
    path, content = files[0]
    _, rows = _read_file(path, content, "proxylessnas")
    return Published("proxylessnas", mean_rows(rows), (_digest(content),))


def read_ofa(files: Content) -> Published | None:
    """Read a table of Once-for-All, one file per resolution, and merge the files.

    Layers of the last stages have the same shape at two resolutions (7x7 at 208 and 224 px); their times are averaged.
    """
    if _family(files[0][1]) != "ofa":
        return None
    seen: dict[int, Path] = {}
    rows: list[Row] = []
    for path, content in files:
        if _family(content) != "ofa":
            raise TableError(f"has another format than {files[0][0]}; import one table at a time", where=path)
        resolution, found = _read_file(path, content, "ofa")
        if resolution in seen:
            raise TableError(f"has {resolution} px, as {seen[resolution]}; give one file per resolution", where=path)
        seen[resolution] = path
        rows += found
    merged = mean_rows(rows)
    notes = [f"measured at {', '.join(map(str, sorted(seen)))} px"]
    if len(merged) < len(rows):
        notes.append(f"{len(rows) - len(merged)} layers are in two files; their mean counts")
    return Published("ofa", merged, tuple(_digest(content) for _, content in files), notes=tuple(notes))


def _family(content: Any) -> str:
    if not isinstance(content, Keyed):
        return ""
    if any("-se:" in key for key in content.entries):
        return "ofa"
    return "proxylessnas" if any("-expand:" in key for key in content.entries) else ""


def _digest(content: Keyed) -> str:
    return digest({key: entry.ms for key, entry in content.entries.items()})


def _read_file(path: Path, content: Keyed, family: str) -> tuple[int, list[Row]]:
    """Return the resolution of a file and its rows; the parts of the head become one row."""
    parts: dict[str, tuple[Fields, Entry]] = {}
    rows: list[Row] = []
    parsed = [(_fields(key, entry, family), entry) for key, entry in content.entries.items()]
    resolution = _resolution(path, parsed)
    sizes = {-(-resolution // 2**halvings) for halvings in range(6)} | {1}
    for fields, entry in parsed:
        if fields["h"] != fields["w"] or fields["h"] not in sizes:
            shape = f"{fields['h']}x{fields['w']}"
            rule = f"{resolution} px gives no feature map of {shape}; give one file per resolution"
            raise TableError(rule, where=entry.where)
        if fields["kind"] in _PARTS[family]:
            if fields["kind"] in parts:
                raise TableError(f"a second row of {fields['kind']}", where=entry.where)
            parts[fields["kind"]] = fields, entry
        else:
            block = _stem(fields, entry, family) if fields["kind"] == "Conv" else _mbconv(fields, entry, family)
            rows.append(Row(block, entry.ms))
    return resolution, [*rows, _head(path, parts, family)]


def _fields(key: str, entry: Entry, family: str) -> Fields:
    match = _KEY.fullmatch(key)
    if match is None:
        raise TableError(f"not a key of {family}", where=entry.where, value=key)
    kind, known = match["kind"], ("Conv", "expanded_conv", *_PARTS[family])
    if kind not in known:
        raise TableError("unknown layer", where=entry.where, value=kind, nearest=nearest(kind, known))
    if (kind == "expanded_conv") != (match["expand"] is not None) or (
        kind == "expanded_conv" and (family == "ofa") != (match["se"] is not None)
    ):
        raise TableError(f"not a key of {family}", where=entry.where, value=key)
    fields = {
        name: value if name == "kind" or value is None else int(value) for name, value in match.groupdict().items()
    }
    if fields.get("c") == 0:
        raise TableError("an input must have channels", where=entry.where, value=key)
    return fields


def _resolution(path: Path, parsed: Sequence[tuple[Fields, Entry]]) -> int:
    stems = [(fields, entry) for fields, entry in parsed if fields["kind"] == "Conv"]
    if not stems:
        raise TableError("has no row of the stem 'Conv', which defines the resolution", where=path)
    for fields, entry in stems[1:]:
        rule = f"two stems, of {stems[0][0]['h']} px and {fields['h']} px; give one file per resolution"
        raise TableError(rule, where=entry.where)
    return int(stems[0][0]["h"])


def _stem(fields: Fields, entry: Entry, family: str) -> Layer:
    activation = "hard_swish" if family == "ofa" else "relu6"
    args = {"out_channels": fields["oc"], "stride": 2, "activation": activation}
    return _check_output(layer_of("conv", args, _in_shape(fields), entry.where), fields, entry)


def _mbconv(fields: Fields, entry: Entry, family: str) -> Layer:
    args: dict[str, Any] = {
        "out_channels": fields["oc"],
        "stride": fields["stride"],
        "kernel_size": fields["kernel"],
        "expand_ratio": fields["expand"] / fields["c"] if family == "ofa" else fields["expand"],
        "activation": "relu6" if family == "proxylessnas" else "hard_swish" if fields["hs"] else "relu",
    }
    if fields["se"]:
        args |= {"se_ratio": 0.25, "se_from": "expansion"}
    keeps_shape = fields["stride"] == 1 and fields["c"] == fields["oc"]
    if fields["skip"] and not keeps_shape:
        channels = f"{fields['c']} -> {fields['oc']}"
        raise TableError("idskip:1 needs stride 1 and equal channels", where=entry.where, value=channels)
    if not fields["skip"] and keeps_shape:
        args["skip"] = "none"
    return _check_output(layer_of("mbconv", args, _in_shape(fields), entry.where), fields, entry)


def _check_output(layer: Layer, fields: Fields, entry: Entry) -> Layer:
    stated = (fields["oc"], fields["oh"], fields["ow"])
    if layer.out_shape != stated:
        raise TableError(f"the output must be {_hwc(layer.out_shape)}, not {_hwc(stated)}", where=entry.where)
    return layer


def _head(path: Path, parts: dict[str, tuple[Fields, Entry]], family: str) -> Row:
    for kind in _PARTS[family]:
        if kind not in parts:
            raise TableError(f"has no row of '{kind}', a part of the head; the file may be cut off", where=path)
    conv, logits = parts["Conv_1"][0], parts["Logits"]
    args = {"hidden_channels": conv["oc"], "num_classes": logits[0]["oc"], "activation": "relu6"}
    chain = [conv["oc"], logits[0]["c"]]
    if family == "ofa":
        pool, mix = parts["AvgPool2D"][0], parts["Conv_2"][0]
        args |= {"pooled_channels": mix["oc"], "activation": "hard_swish"}
        chain = [conv["oc"], pool["c"], pool["oc"], mix["c"], mix["oc"], logits[0]["c"]]
    if any(before != after for before, after in zip(chain[::2], chain[1::2], strict=True)):
        raise TableError("the channels of the parts of the head do not match", where=logits[1].where, value=chain)
    layer = layer_of("classifier", args, (_in_shape(conv),), logits[1].where)
    return Row(layer, sum(entry.ms for _, entry in parts.values()))


def _in_shape(fields: Fields) -> tuple[int, int, int]:
    return fields["c"], fields["h"], fields["w"]


def _hwc(shape: tuple[Any, ...]) -> str:
    channels, *sizes = shape
    return "x".join(str(size) for size in (*sizes, channels))
