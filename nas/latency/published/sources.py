"""Known sources of published tables: device, runtime, license, identified by the tables' values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """The source of a published table; "unknown" for what is not stated.

    Attributes:
        name: Name of the table.
        family: Name of the format and of the shipped space.
        digests: Digests of its files' values.
        processor: The device.
        runtime: The runtime.
        threads: Number of threads.
        dtype: Data type of the weights.
        url: Where it was published.
        licence: The license (the key in table files has this spelling).
    """

    name: str
    family: str
    digests: tuple[str, ...]
    processor: str
    runtime: str
    threads: int | str
    dtype: str
    url: str
    licence: str

    def header(self) -> dict[str, Any]:
        """Return the header of the table in our format. No authors state the version of their runtime."""
        return {
            "device": {"processor": self.processor},
            "runtime": self.runtime,
            "runtime_version": "unknown",
            "threads": self.threads,
            "dtype": self.dtype,
            "batch": 1,
            "source": self.url,
            "licence": self.licence,
        }


SOURCES = (
    # nas-search/pixel1_runtime_model.json; threads and the float model: runtime-modeling/profiler_scripts.py
    Source(
        "pixel1", "single_path_nas", ("ba460dbb089a238f",), "Google Pixel 1 (Snapdragon 821)", "tflite", 1, "float32",
        "https://github.com/enyac-group/single-path-nas@21c1f3e9", "Apache-2.0",
    ),
    # lookup_table_pi.json; the board: its README.md
    Source(
        "rpi4", "fbnet", ("82ddec88216fd460",), "Raspberry Pi 4 Model B 4GB", "tensorflow (eager Keras layers)",
        "unknown", "float32", "https://github.com/jh88/fbnet@5bd12ab8", "MIT",
    ),
    # The phone: section 4.2 of the paper; float32 and one thread: logs/proxyless_mobile_10_latency.txt, which is of a
    # whole network on the same phone
    Source(
        "proxylessnas_pixel1", "proxylessnas", ("64e745891d1a7245",), "Google Pixel 1 (Snapdragon 821)", "tflite", 1,
        "float32", "https://github.com/han-cai/files@a7c9bcd5", "not stated",
    ),
    # The phone and TensorFlow Lite: section 4.1 of the paper
    Source(
        "ofa_note10", "ofa",
        ("dd1672120d872e51", "26e40640dc516895", "d83cbaa1e9e36fe0", "d1236ce15403aeb0", "1d5fdb9af7c37711"),
        "Samsung Galaxy Note 10", "tflite", "unknown", "float32",
        "https://github.com/han-cai/files@a7c9bcd5", "not stated",
    ),
)  # fmt: skip
