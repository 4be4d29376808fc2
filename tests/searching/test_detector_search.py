"""A search for detectors: latencies of the parts, the test of the exported file, and references."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nas.cli.main import main
from nas.errors import UsageError
from nas.latency.graph_latency import DetectorLatency
from nas.searching.against.choice import published_networks
from nas.searching.against.references import make_reference
from nas.searching.winner_training import phases
from nas.spaces.trainings import FinalTraining, Proxy
from nas.spaces.yaml_format import load_architecture, load_space, parse_space
from nas.training.recipe import WINNERS, buildable, with_buildable_sizes

SPACE: dict[str, Any] = {
    "resolution": 64,
    "stages": [
        {"block": "conv", "out_channels": 8, "stride": 4, "kernel_size": 5},
        {"block": "mbconv", "out_channels": [8, 12], "stride": 2, "tap": True},
        {"block": "mbconv", "out_channels": 16, "stride": 2, "tap": True},
    ],
    "neck": [{"block": "conv", "kernel_size": 1, "out_channels": 16}],
    "head": {"block": "ssd_head", "form": "separable", "num_classes": 80},
    "proxy": {"resolution": 64, "epochs": 1},
}


def write(path: Path, space: dict[str, Any]) -> str:
    path.write_text(json.dumps(space))
    return str(path)


def test_the_result_has_three_latencies_the_exported_ap_and_a_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.searching.winners.measure_detector", lambda *_: DetectorLatency(1.0, 1.25))
    space = write(tmp_path / "tiny.yaml", SPACE)
    other = {**SPACE, "stages": [SPACE["stages"][0], {**SPACE["stages"][1], "out_channels": 16}, SPACE["stages"][2]]}
    reference, run = write(tmp_path / "other.yaml", other), tmp_path / "run"
    flags = f"--space {space} --target-latency 50ms --runtime null --trials 2 --finalists 2 --finalist-seeds 0"
    flags += f" --proxy-images 32 --final-epochs 1 --final-images 32 --against {reference} --run {run} --quiet"
    assert main(["search", "--task", "detection", *flags.split()]) == 0
    printed = capsys.readouterr().out
    assert "network 1 ms + post-processing 0.25 ms = 1.25 ms" in printed
    result = json.loads((run / "result.json").read_text())
    best, card = result["best"], json.loads((run / "model" / "card.json").read_text())
    parts = {"network": 1.0, "post_processing": 0.25, "both": 1.25}
    assert parts.items() <= best["latency_ms"].items() and parts.items() <= card["latency_ms"].items()
    assert abs(best["exported"]["AP"] - best["test_AP"]) <= 1e-4
    assert card["exported"] == best["exported"]
    assert [(each["name"], each["published_ap"]) for each in result["against"]] == [(reference, None)]
    assert result["against"][0]["metric"] == "AP" and (run / "detections.png").is_file()
    assert (run / "against-other" / "detector.onnx").is_file()


def test_the_pool_of_references_for_detectors_has_what_was_published_on_coco() -> None:
    pool = published_networks(load_space("small_detector").for_classes(3), 320)
    names = [each.reference.name for each in pool]
    assert {"efficientdet_lite0", "pelee_ssd_coco", "mobilenet_v2_ssdlite_c81_r320"} <= set(names)
    assert "pelee_ssd_voc" not in names  # nothing was published on COCO
    assert not {"efficientnet_b0", "small_detector"} & set(names)
    assert [each.accuracy for each in pool] == sorted((each.accuracy for each in pool), reverse=True)
    assert all(dict(each.architecture.head.args)["num_classes"] == 3 for each in pool)


def test_a_reference_is_of_the_kind_that_is_searched() -> None:
    space = parse_space("tiny", SPACE, "tiny.yaml").for_classes(3)
    with pytest.raises(UsageError, match="is no detector, as the networks of this search are"):
        make_reference("mobilenet_v2_1.0", space)


def test_a_network_that_cannot_be_built_at_low_resolutions_trains_at_its_own() -> None:
    pelee, lite = (load_architecture(name) for name in ("pelee_ssd_coco", "efficientdet_lite0"))
    assert not buildable(pelee, 152) and buildable(lite, 160)
    assert with_buildable_sizes(WINNERS, pelee).first_size == 1.0
    assert with_buildable_sizes(WINNERS, lite) == WINNERS
    sizes = [phase.resolution for phase in phases(Proxy(64, 4), FinalTraining(), 304, partial(buildable, pelee))]
    assert sizes == [304]
