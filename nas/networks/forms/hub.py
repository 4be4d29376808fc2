"""A folder for the Hugging Face hub: model card, configuration, weights, and model.py with the hub's mixin."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import yaml

from nas.networks.exported_outputs import check_python
from nas.networks.forms.base import Source, Written
from nas.networks.onnx_graph import metadata_of
from nas.networks.preprocessing import FITS
from nas.utils.files import write_json
from nas.utils.units import format_count

MIXIN = '''

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:  # only the hub's own functions need it
    pass
else:

    class HubNetwork(Network, PyTorchModelHubMixin):
        """The network with `from_pretrained`, `save_pretrained` and `push_to_hub`."""
'''
MAIN_GUARD = '\n\nif __name__ == "__main__":'
USAGE = """
## Use

`model.py` needs torch, and for the weights safetensors.

```python
from PIL import Image

from model import {names}load, preprocess

network = load()
output = network(preprocess(Image.open("image.jpg")))
{result}
```

`load(num_classes=N)` returns the network for a fine-tuning with other classes, `load(features=True)` its feature maps.
With huggingface_hub installed, `model.HubNetwork.from_pretrained(FOLDER_OR_REPOSITORY)` loads it too.
"""


def write_hub(source: Source) -> Written:
    """A folder for the Hugging Face hub, as hub/: README.md, config.json, model.py and model.safetensors.

    Raises ExportError if its model.py does not run.
    """
    folder, card = source.folder / "hub", source.card
    folder.mkdir()
    text = (source.folder / "model.py").read_text(encoding="utf-8")
    before, guard, after = text.rpartition(MAIN_GUARD)
    (folder / "model.py").write_text(before + MIXIN + guard + after, encoding="utf-8")
    for name in ("model.safetensors", "card.json"):
        shutil.copyfile(source.folder / name, folder / name)
    write_json(folder / "config.json", _config(source))
    (folder / "README.md").write_text(f"---\n{_front_matter(card)}---\n\n{_text(source)}", encoding="utf-8")
    check_python(folder / "model.py")
    return Written("hub")


def _config(source: Source) -> dict[str, Any]:
    """Return config.json: what `Network` is made with, and what it is."""
    classes = source.arch.head.kwargs.get("num_classes")
    return {
        **({"num_classes": classes} if classes is not None else {}),
        "architecture": source.card["architecture"],
        "input": source.card["input"],
        "preprocessing": source.card["preprocessing"],
        **({"classes": names} if (names := _classes(source.card)) else {}),
    }


def _classes(card: Mapping[str, Any]) -> list[str]:
    return list(metadata_of(card).get("classes", []))


def _metrics(card: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics on test images that a card holds, those of the network in float32."""
    whole = {**card, **card.get("float32", {})}
    found = {key: value for key, value in whole.items() if key.startswith("test_") and isinstance(value, float)}
    return {key.removeprefix("test_"): value for key, value in found.items()}


def _front_matter(card: Mapping[str, Any]) -> str:
    """Return the metadata that the hub reads, as YAML."""
    is_detector = "select_boxes" in card
    task = "object-detection" if is_detector else "image-classification"
    matter: dict[str, Any] = {"library_name": "pytorch", "pipeline_tag": task, "tags": ["hwnas", task]}
    data = card.get("data")
    if (metrics := _metrics(card)) and isinstance(data, Mapping) and "name" in data:
        name = str(data["name"])
        values = [{"type": key, "value": round(value, 4)} for key, value in metrics.items()]
        result = {"task": {"type": task}, "dataset": {"type": name, "name": name, "split": "test"}, "metrics": values}
        matter["model-index"] = [{"name": str(card["architecture"]), "results": [result]}]
    return yaml.safe_dump(matter, sort_keys=False)


def _text(source: Source) -> str:
    """Return the text of the model card: what the network is, how it was measured, and how to use it."""
    card, shape = source.card, source.arch.input_shape
    rows = [
        ("parameters", format_count(card["params"])),
        ("multiply-accumulates", format_count(card["macs"])),
        ("input", "x".join(map(str, shape))),
        ("preprocessing", FITS[card["preprocessing"]["fit"]]),
        *((f"test {key}", f"{value:.4f}") for key, value in _metrics(card).items()),
        *_latencies(card),
        *((("weights", card["weights"]),) if "weights" in card else ()),
        ("versions", ", ".join(f"{name} {version}" for name, version in card["versions"].items())),
        ("date", card["date"]),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    names = _classes(card)
    result = "print(CLASSES[int(output.argmax())])" if names else "print(output)"
    about = f"# Network {card['architecture']}\n\nWritten by nas, of the distribution hwnas.\n\n{table}\n"
    return about + USAGE.format(names="CLASSES, " if names else "", result=result)


def _latencies(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows about the measured latency, if the card has one."""
    latency = card.get("latency_ms")
    if not isinstance(latency, Mapping):
        return []
    found = {key: value for key, value in latency.items() if isinstance(value, int | float)}
    return [(f"latency, {key.replace('_', ' ')}", f"{value:.3g} ms") for key, value in found.items()]
