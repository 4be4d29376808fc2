"""Reader of the Single-Path NAS table: {layer: {choice: ms}}, layers 0 to 21 and choices 0 to 3.

Checked against enyac-group/single-path-nas (table of 21c1f3e9, code of f3a84617, d9359b0c, b7c1310e and 7de33883).
nas-search/supernet_macro.py defines the layers (0: 32 to 16 channels, expansion 1; 1 to 20: five stages of four, with
24, 40, 80, 96 and 192 channels and strides 2, 2, 2, 1, 2; 21: 192 to 320, kernel 3, expansion 6).
train-final/parse_netarch.py defines the choices (0: kernel 3, expansion 3; 1: 3, 6; 2: 5, 3; 3: 5, 6), which
nas-search/superkernel.py confirms. runtime-modeling/models.py shows that one network was measured for each choice, all
with the same layers 0 and 21. Their four values are four measurements of one layer; we use the mean. The same holds for
layers 2 to 4 of a stage, which are one layer measured three times.

Stem and head are not in the table. nas-search/singlepath_supernet.py adds 19.5999 ms for stem, head, logits and layers
0 and 21 together. We assign the rest, without these two layers, to the head and 0 to the stem, so that the sum over a
whole network equals the authors'. They count 0.7 ms for a skipped layer, a small value that must not be zero there;
here a skipped layer costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.errors import TableError
from nas.latency.published.rows import Published, Row, digest, layer_of, mean_rows, milliseconds
from nas.networks.network import Layer

STAGES = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2))
"""(output channels, stride) of the five searched stages of four layers."""
CHOICES = ((3, 3), (3, 6), (5, 3), (5, 6))
"""(kernel, expansion) of the choices 0 to 3."""
REST_MS = {"ba460dbb089a238f": 19.5999}
"""Time of stem, head, logits, layer 0 and layer 21 together, by the table's digest (singlepath_supernet.py)."""


def read(files: Sequence[tuple[Path, Any]]) -> Published | None:
    """Read one JSON file. Raises TableError for missing layers or choices and invalid times."""
    path, content = files[0]
    if not isinstance(content, Mapping) or not content or not all(key.isdigit() for key in content):
        return None
    if len(files) > 1:
        raise TableError(f"a single-path-nas table is one file, but {len(files)} are given", where=files[1][0])
    times = _times(content, path)
    layers = _layers(str(path))
    rows = [Row(layer, times[f"{index}.{choice}"]) for index, choice, layer in layers]
    merged = mean_rows(rows)
    stem, head = _stem(str(path)), _head(str(path))
    found = digest(times)
    if found not in REST_MS:
        note = "stem and head are not in the table and count 0 ms"
        return Published("single_path_nas", merged, (found,), (stem, head), (note,))
    fixed = sum(row.ms for row in (merged[0], merged[-1]))
    note = "stem and head were published as one sum, which counts as the head's"
    return Published("single_path_nas", (*merged, Row(head, REST_MS[found] - fixed)), (found,), (stem,), (note,))


def _times(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    times = {}
    for index in map(str, range(2 + 4 * len(STAGES))):
        choices = content.get(index)
        if not isinstance(choices, Mapping):
            raise TableError(f"layer '{index}' is missing; 22 layers, '0' to '21', are needed", where=path)
        for choice in map(str, range(len(CHOICES))):
            if choice not in choices:
                raise TableError(f"choice '{choice}' is missing", where=path, key=f"layer '{index}'")
            times[f"{index}.{choice}"] = milliseconds(choices[choice], f"{path}: layer '{index}': choice '{choice}'")
    for key in content:
        if f"{key}.0" not in times:
            raise TableError("unknown layer; there are 22 layers, '0' to '21'", where=path, value=key)
    return times


def _layers(where: str) -> list[tuple[int, int, Layer]]:
    """Return (layer, choice, our layer) of the whole table."""
    first = layer_of("mbconv", {"out_channels": 16, "expand_ratio": 1}, (32, 112, 112), where)
    found = [(0, choice, first) for choice in range(len(CHOICES))]
    channels, size, index = 16, 112, 1
    for out_channels, stage_stride in STAGES:
        for position in range(4):
            stride = stage_stride if position == 0 else 1
            for choice, (kernel, expand) in enumerate(CHOICES):
                args = {"out_channels": out_channels, "stride": stride, "kernel_size": kernel, "expand_ratio": expand}
                found.append((index, choice, layer_of("mbconv", args, (channels, size, size), where)))
            channels, size, index = out_channels, size // stride, index + 1
    last = layer_of("mbconv", {"out_channels": 320}, (channels, size, size), where)
    return [*found, *((index, choice, last) for choice in range(len(CHOICES)))]


def _stem(where: str) -> Layer:
    return layer_of("conv", {"out_channels": 32, "stride": 2}, (3, 224, 224), where)


def _head(where: str) -> Layer:
    return layer_of("classifier", {"hidden_channels": 1280}, ((320, 7, 7),), where)
