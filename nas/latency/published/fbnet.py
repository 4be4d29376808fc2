"""Reader of the FBNet operator table by jh88: a JSON list of 28 entries in microseconds, null if not measured.

Checked against jh88/fbnet at 5bd12ab8. fbnet/blocks.py defines the entries (0 and 1: stem and batch norm; 2 to 23: the
22 searched layers; 24 to 27: last convolution, batch norm, pooling and linear layer) and the order of the operators
(kernel 3 with expansion and groups 1/1, 1/2, 3/1, 6/1, then the same with kernel 5, then the skip if the layer keeps
its shape). generate_lookup_table.py defines the shapes (1, 32, 32, 3), 10 classes and the strides
1, 1, 2, 2, 1, 1, 1, 1, 1. fbnet/lookup_table.py defines the unit: the mean of eager calls of Keras layers.

The table has 0.23 ms for a skip, the call of an identity layer. fbnet/model.py leaves skipped layers out of deployed
networks, and so do we; these times are ignored. Stem and head were not measured and count 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.errors import TableError
from nas.latency.published.rows import Published, Row, digest, layer_of, mean_rows, milliseconds
from nas.networks.network import Layer

STEM_CHANNELS, SIZE = 16, 32
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 1), (112, 4, 1), (184, 4, 1), (352, 1, 1))
"""(output channels, layers, stride) of the searched stages."""
OPERATORS = tuple((kernel, expand, groups) for kernel in (3, 5) for expand, groups in ((1, 1), (1, 2), (3, 1), (6, 1)))
"""(kernel, expansion, groups) in the order of the table."""
FIRST, ENTRIES = 2, 28
MICROSECONDS_PER_MS = 1000.0


def read(files: Sequence[tuple[Path, Any]]) -> Published | None:
    """Read one JSON file. Raises TableError for a wrong number of entries and invalid times."""
    path, content = files[0]
    if not isinstance(content, list) or not any(isinstance(entry, list) for entry in content):
        return None
    if len(files) > 1:
        raise TableError(f"an FBNet table is one file, but {len(files)} are given", where=files[1][0])
    if len(content) != ENTRIES:
        raise TableError(f"{ENTRIES} entries are needed, not {len(content)}; the file may be cut off", where=path)
    stem = layer_of("conv", {"out_channels": STEM_CHANNELS}, (3, SIZE, SIZE), str(path))
    rows: list[Row] = []
    values: dict[str, float] = {}
    shape: Any = stem.out_shape
    index = FIRST
    for out_channels, depth, stage_stride in STAGES:
        for position in range(depth):
            stride = stage_stride if position == 0 else 1
            times = _times(content[index], shape[0] == out_channels and stride == 1, f"{path}: entry {index}")
            values |= {f"{index}.{number}": ms for number, ms in enumerate(times)}
            layers = _layers(shape, out_channels, stride, f"{path}: entry {index}")
            rows += [Row(layer, ms) for layer, ms in zip(layers, times, strict=False)]  # without the skip
            shape, index = layers[0].out_shape, index + 1
    head = layer_of("classifier", {"num_classes": 10, "hidden_channels": 1984}, (shape,), str(path))
    note = "stem and head were not measured and count 0 ms"
    return Published("fbnet", mean_rows(rows), (digest(values),), (stem, head), (note,))


def _times(entry: object, keeps_shape: bool, where: str) -> list[float]:
    needed = len(OPERATORS) + keeps_shape
    if not isinstance(entry, list) or len(entry) != needed:
        found = len(entry) if isinstance(entry, list) else entry
        raise TableError(f"{needed} times are needed", where=where, value=found)
    return [milliseconds(us, f"{where}, operator {number}", MICROSECONDS_PER_MS) for number, us in enumerate(entry)]


def _layers(shape: Any, out_channels: int, stride: int, where: str) -> list[Layer]:
    shared = {"out_channels": out_channels, "stride": stride}
    return [
        layer_of(
            "fbnet_block", {**shared, "kernel_size": kernel, "expand_ratio": expand, "groups": groups}, shape, where
        )
        for kernel, expand, groups in OPERATORS
    ]
