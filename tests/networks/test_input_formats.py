"""Inputs that are no squares of RGB: rectangles, gray images, and images with alpha."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.architecture import Architecture, BlockSpec, InputFormat, height_and_aspect
from nas.cli.main import main
from nas.errors import DataError, SpaceError, UsageError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.registry import EVALUATORS
from nas.latency.graph_latency import measure_detector
from nas.networks.export import export_folder
from nas.networks.network import build, trace
from nas.networks.preprocessing import COLORED, ORIENTATION, PADDING, conversion, decode, fitted, normalize, prepare
from nas.searching.resolution.choice import resolution_identity, stored_resolution
from nas.spaces.automaton import choices_for, unroll
from nas.spaces.resolutions import at_resolutions, sizes_of, with_sizes
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_architecture, load_space, parse_space
from nas.training.detection.boxes import BoxData, Boxes, BoxSplit
from nas.training.detection.detection import Detection
from nas.training.inherited_weights import inherit
from nas.training.initial_weights import initial_weights
from nas.training.tasks.classification import Classification
from nas.training.tasks.fit import choose_fit, describe_fit, sampled_sizes
from nas.training.tasks.image_datasets import check_images
from nas.training.tasks.image_files import read_image
from nas.training.tasks.splits import ImageData, Split
from nas.utils.reporting import Reporter
from nas.utils.units import parse_resolutions

STAGES = [
    {"block": "conv", "out_channels": [4, 8], "stride": 2},
    {"block": "mbconv", "out_channels": 8, "stride": 2, "kernel_size": [3, 5]},
]
HEAD = {"block": "classifier", "num_classes": 3}


def space(**changes: Any) -> Space:
    return parse_space("small", {"resolution": "24x32", "stages": STAGES, "head": HEAD, **changes}, "small.yaml")


def network(**changes: Any) -> Architecture:
    found = space(**changes)
    return found.decode({key: values[0] for key, values in found.choices.items()})


@given(st.integers(1, 999), st.integers(1, 999), st.sampled_from([1, 3, 4]))
def test_every_input_survives_its_json_form_and_its_spelling(height: int, width: int, channels: int) -> None:
    form = InputFormat(channels, Fraction(width, height))
    arch = Architecture(height, (), BlockSpec.of("classifier", {"num_classes": 2}), input=form)
    assert arch.input_shape == (channels, height, width)
    assert Architecture.from_dict(arch.to_dict()) == arch
    assert height_and_aspect(arch.input_size, "") == (height, form.aspect)
    assert ("channels" in arch.to_dict()) == (channels != 3)
    assert isinstance(arch.to_dict()["resolution"], int) == (height == width)


@given(st.integers(1, 4096), st.integers(1, 4096), st.sampled_from("xX"))
def test_a_size_is_read_as_height_and_width(height: int, width: int, sign: str) -> None:
    assert parse_resolutions(f"{height}{sign}{width}") == (f"{height}x{width}",)
    assert parse_resolutions(f" {height} {sign} {width} ") == (f"{height}x{width}",)


def test_a_square_of_rgb_has_the_digests_of_before() -> None:
    plain = network(resolution=32)
    assert plain.digest == network(resolution="32x32", channels=3).digest
    assert space(resolution=32).digest == space(resolution="32x32", channels=3).digest
    others = [space(resolution="24x32"), space(resolution=24), space(resolution=24, channels=1)]
    assert len({each.key for each in others} | {each.digest for each in others}) == 6


def test_the_layers_have_the_shapes_of_the_rectangle() -> None:
    layers = trace(network(channels=1))
    assert layers[0].in_shape == (1, 24, 32)
    assert layers[1].out_shape == (8, 6, 8)
    assert network().at(12).input_shape == (3, 12, 16)
    assert build(network(channels=4))(torch.zeros(2, 4, 24, 32)).shape == (2, 3)


def test_a_space_of_rectangles_is_encoded_and_decoded() -> None:
    several = space(resolution=["24x32", "12x16"], channels=1)
    assert several.choices["resolution"] == (24, 12)
    assert sizes_of(several) == ["24x32", "12x16"]
    automaton = unroll(several)
    for seed in range(5):
        arch = several.decode(several.sample(random.Random(seed)))
        assert several.decode(choices_for(several, arch)) == automaton.architecture(automaton.path(arch)) == arch
    with pytest.raises(SpaceError, match="has inputs of 1 channels, width/height 4/3; this network of 3 channels"):
        choices_for(several, network())


def test_two_numbers_are_height_and_width_of_a_network_and_a_choice_of_a_space(tmp_path: Path) -> None:
    plain = [{**stage, "out_channels": 8, "kernel_size": 3} for stage in STAGES]
    (tmp_path / "net.yaml").write_text(json.dumps({"resolution": [24, 32], "stages": plain, "head": HEAD}))
    assert load_architecture(str(tmp_path / "net.yaml")).input_shape == (3, 24, 32)
    assert space(resolution=[24, 32]).choices["resolution"] == (24, 32)
    assert sizes_of(space(resolution=[[24, 32]])) == ["24x32"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": "24x"}, "small.yaml: resolution: must be a whole number of at least 1, or height and width as"),
        ({"resolution": [[24, 32, 3]]}, "small.yaml: resolution: must be a whole number of at least 1, or height"),
        ({"resolution": "0x32"}, "must be a whole number of at least 1, or height and width as 192x256: '0x32'"),
        ({"resolution": ["24x32", "32x32"]}, "resolution: all sizes of a space must have the same aspect ratio"),
        ({"resolution": ["24x32", [24, 32]]}, "resolution: a choice must not offer a value twice"),
        ({"channels": 2}, "small.yaml: channels: must be one of 1 (gray), 3 (RGB), 4 (RGB and alpha): 2"),
        ({"channels": [1, 3]}, "small.yaml: channels: must be one of 1 (gray), 3 (RGB), 4 (RGB and alpha)"),
        ({"channels": True}, "small.yaml: channels: must be one of"),
    ],
)
def test_a_wrong_input_is_named_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_sizes_keep_or_change_the_aspect_ratio() -> None:
    assert sizes_of(at_resolutions(space(), parse_resolutions("12,48"))) == ["12x16", "48x64"]
    assert sizes_of(at_resolutions(space(), parse_resolutions("16x16,32x32"))) == [16, 32]
    with pytest.raises(UsageError, match="all sizes of a space must have the same aspect ratio: '16x32,32'"):
        at_resolutions(space(), parse_resolutions("16x32,32"))
    for text in ("16x", "16x0", "16x32x3", "16:32"):
        with pytest.raises(UsageError, match=r"whole numbers of pixels from 1 to 4096, as '96', .* '192x256': "):
            parse_resolutions(text)


def picture(mode: str, height: int = 30, width: int = 50) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 1), ("RGB", 3), ("L", 3), ("RGBA", 3), ("RGBA", 4)])
def test_a_picture_becomes_the_input(mode: str, channels: int, fit: str) -> None:
    ready = prepare(picture(mode), (channels, 24, 32), fit)
    assert ready.shape == (1, channels, 24, 32)
    assert ready.dtype == torch.float32
    assert ready.abs().max() < 3


def test_gray_pictures_keep_their_values_and_rgb_becomes_luma() -> None:
    gray = picture("L")
    assert torch.equal(decode(gray, 1)[0], torch.from_numpy(np.array(gray)))
    assert torch.equal(decode(gray.convert("RGB"), 1), decode(gray, 1))
    assert torch.equal(decode(gray, 3), decode(gray, 1).expand(3, -1, -1))
    assert torch.equal(decode(picture("RGBA"), 4).permute(1, 2, 0), torch.from_numpy(np.array(picture("RGBA"))))


def test_fits_place_a_picture_in_a_rectangle() -> None:
    wide = torch.arange(60, dtype=torch.uint8).reshape(1, 6, 10)
    assert torch.equal(fitted(wide, 6, 8, "crop"), wide[:, :, 1:9])
    assert torch.equal(fitted(wide, 4, 10, "crop"), wide[:, 1:5])
    padded = fitted(wide, 10, 12, "pad")
    assert padded.shape == (1, 10, 12)
    assert (padded[:, 0] == PADDING[1][0]).all()
    assert torch.equal(fitted(wide, 8, 10, "pad")[:, 1:7], wide)
    assert fitted(wide, 3, 20, "stretch").shape == (1, 3, 20)
    assert fitted(torch.zeros((4, 5, 5), dtype=torch.uint8), 5, 9, "pad")[3, :, 0].tolist() == [0] * 5


def test_an_image_without_alpha_is_refused_by_a_network_that_reads_it(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "a.png")
    rule = "it has no alpha channel, and the network's input has four channels, RGB and alpha"
    with pytest.raises(DataError, match=rf"a\.png: not a readable image: {rule}"):
        read_image(tmp_path / "a.png", 4)
    with pytest.raises(DataError, match=f"--data: not a usable image: {rule}"):
        read_image(np.zeros((4, 4, 3), dtype=np.uint8), 4)


@pytest.mark.parametrize(
    ("mode", "channels", "said"),
    [
        ("RGB", 1, "2 of 2 images have colors: they are converted to gray, for an input with one channel"),
        ("L", 3, "2 of 2 images are gray: their values become all three channels; `channels: 1` in a space's file"),
        ("RGBA", 3, "2 of 2 images have transparent parts: they are laid over white"),
        ("RGB", 3, ""),
        ("L", 1, ""),
        ("RGBA", 4, ""),
    ],
)
def test_conversions_are_reported(
    mode: str, channels: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file in files:
        picture(mode).save(file)
    check_images([Split(files, (0, 1))], Reporter(), channels)
    output = capsys.readouterr().err
    assert said in output
    assert bool(output) == bool(said)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_images_have_the_form_of_the_input(channels: int) -> None:
    task = Classification.load("digits").for_input(InputFormat(channels, Fraction(4, 3)))
    images = task.train_set(24, 40)
    assert images[0][0].shape == (channels, 24, 32)
    batch = task.collate([images[number] for number in range(4)])
    assert task.move(batch, torch.device("cpu"), 12)[0].shape == (4, channels, 12, 16)
    plain = Classification.load("digits").train_set(24, 40)
    assert plain.digest != images.digest
    assert Classification.load("digits").renamed("x").input == plain.input


def test_colored_arrays_become_gray_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = [np.full((5, 5, 3), value, dtype=np.uint8) for value in (10, 200)]
    check_images([Split(arrays, (0, 1))], Reporter(), 1)
    assert "2 of 2 images have colors" in capsys.readouterr().err
    check_images([Split(arrays, (0, 1))], Reporter(), 3)
    assert not capsys.readouterr().err
    from nas.training.tasks.image_datasets import ImageDataset

    images = ImageDataset(Split(arrays, (0, 1)), 4, input_format=InputFormat(1))
    assert images[1][0].shape == (1, 4, 4)
    assert images[1][0].flatten().tolist() == [200] * 16


def test_random_augment_has_no_operations_for_alpha() -> None:
    from nas.training.recipe import Recipe

    task = Classification.load("digits").for_input(InputFormat(4))
    with pytest.raises(UsageError, match="--randaugment: applies to gray and RGB images only"):
        task.augmented(None, Recipe(epochs=1, randaugment=5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("head", "size", "channels"),
    [("efficientdet_head", "64x96", 3), ("ssd_head", "96x64", 1), ("gfl_head", "64x96", 4), ("ssd_head", "64x96", 3)],
)
def test_a_detector_of_rectangles_learns_and_is_exported(head: str, size: str, channels: int, tmp_path: Path) -> None:
    stages = [
        {"block": "conv", "out_channels": 8, "stride": 8, "kernel_size": 9},
        {"block": "conv", "out_channels": 8, "stride": 2, "tap": True},
        {"block": "conv", "out_channels": 8, "stride": 2, "tap": True},
    ]
    detector = {"resolution": size, "channels": channels, "stages": stages, "head": {"block": head, "num_classes": 3}}
    arch = parse_space("small", detector, "").decode({})
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (70, 90, 4 if channels == 4 else 3), dtype=np.uint8) for _ in range(3)]
    boxes = Boxes.of([[10, 10, 40, 60], [50, 20, 80, 50]], [0, 2])
    part = BoxSplit(pictures, (boxes,) * 3, ((90, 70),) * 3)
    task = Detection(BoxData("rects", ("a", "b", "c"), (1, 2, 3), part, part, part)).for_input(arch.input)
    torch.manual_seed(0)
    images, model = task.train_set(arch.resolution), build(arch)
    batch, targets = task.move(task.collate([images[number] for number in range(3)]), torch.device("cpu"))
    assert batch.shape == (3, *arch.input_shape)
    predictions = task.outputs(model.train(), batch)
    _, height, width = arch.input_shape
    assert predictions.anchors[:, 0].max() < width < predictions.anchors[:, 0].max() + 40
    assert predictions.anchors[:, 1].max() < height < predictions.anchors[:, 1].max() + 40
    loss = task.loss(predictions, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    smaller, found = task.move((batch, targets), torch.device("cpu"), height // 2)
    assert smaller.shape[2:] == (height // 2, width // 2)
    torch.testing.assert_close(found[0].corners, targets[0].corners / 2)
    report = task.evaluate(model, task.test_set(arch.resolution), torch.device("cpu"))
    export_folder(arch, model, tmp_path / "model", "onnxruntime", {}, "pad")
    exported = task.evaluate_exported(tmp_path / "model", arch.resolution)
    assert exported.metric_value == pytest.approx(report.metric_value, abs=1e-3)
    assert measure_detector(tmp_path / "model", "onnxruntime", 1, "local", Reporter(quiet=True)) is not None


@pytest.mark.parametrize(("channels", "aspect"), [(1, "24x32"), (4, "32x24")])
def test_an_exported_network_reads_the_same_input(channels: int, aspect: str, tmp_path: Path) -> None:
    arch = network(resolution=aspect, channels=channels)
    model = build(arch)
    card = export_folder(arch, model, tmp_path / "model", "onnxruntime", {}, "pad")
    shape = onnx.load(tmp_path / "model/model.onnx").graph.input[0].type.tensor_type.shape
    assert tuple(each.dim_value for each in shape.dim) == (1, *arch.input_shape)
    assert card["input"] == dict(zip(("channels", "height", "width"), arch.input_shape, strict=True))
    picture("RGBA" if channels == 4 else "RGB").save(tmp_path / "a.png")
    code = "import torch, model; from PIL import Image; torch.save(model.preprocess(Image.open('../a.png')), 'x.pt')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "model", check=True)
    expected = normalize(fitted(read_image(tmp_path / "a.png", channels), *arch.input_shape[1:], "pad")[None])
    assert torch.equal(torch.load(tmp_path / "model/x.pt", weights_only=True), expected)


@pytest.mark.parametrize(("source", "channels"), [(3, 1), (1, 3), (3, 4), (4, 3), (1, 4), (4, 1)])
def test_weights_of_other_channels_see_a_gray_image_alike(source: int, channels: int) -> None:
    theirs, ours = network(channels=source), network(channels=channels)
    torch.manual_seed(0)
    taught, learner = build(theirs).eval(), build(ours).eval()
    if source == 4:
        torch.nn.init.zeros_(dict(taught.named_parameters())["stages.0.0.conv.0.weight"][:, 3])
    inherit(learner, ours, taught, theirs)
    gray = torch.randn(2, 1, 24, 32)
    with torch.no_grad():
        expected = taught(gray.expand(-1, source, -1, -1))
        torch.testing.assert_close(learner(gray.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["128x192", "256x128", "192x256"])
def test_a_network_of_another_shape_inherits_everything(size: str) -> None:
    source = load_architecture("mobilenet_v2_0.35")
    ours = source.sized(size)
    found = inherit(build(ours), ours, build(source), source)
    assert (found.blocks, found.parameters) == (found.of_blocks, found.of_parameters)


def test_weights_of_the_same_gray_network_are_loaded(tmp_path: Path) -> None:
    arch = network(channels=1)
    torch.manual_seed(0)
    model = build(arch)
    export_folder(arch, model, tmp_path / "model", "onnxruntime", {})
    again, said = initial_weights(arch, str(tmp_path / "model"), "small.yaml", 1)
    assert "another" not in said
    for own, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)
    rgb, _ = initial_weights(network(), str(tmp_path / "model"), "small.yaml", 1)
    first = dict(rgb.named_parameters())["stages.0.0.conv.0.weight"]
    torch.testing.assert_close(first.sum(1, keepdim=True), dict(model.named_parameters())["stages.0.0.conv.0.weight"])


@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 300))
def test_a_rounded_width_survives_the_json_form(height: int, width: int, other: int) -> None:
    form = InputFormat(1, Fraction(width, height))
    arch = Architecture(height, (), BlockSpec.of("classifier", {"num_classes": 2}), input=form).at(other)
    assert Architecture.from_dict(arch.to_dict()) == arch
    assert arch.input_shape == form.shape(other)


@pytest.mark.parametrize("given", ["128", "160x160", "128,100", "144x256", "100x178"])
def test_the_sizes_of_a_run_are_read_again(given: str) -> None:
    own = space(resolution="144x256")
    found = at_resolutions(own, parse_resolutions(given))
    stored = json.loads(json.dumps(resolution_identity(found, own)))
    again = with_sizes(own, stored_resolution(own, stored))
    assert sizes_of(again) == sizes_of(found)
    assert again.key == found.key
    for height in found.resolution:
        arch = found.decode({key: values[0] for key, values in found.choices.items()} | {"resolution": height})
        assert choices_for(found, Architecture.from_dict(arch.to_dict())) is not None


def test_auto_fits_images_to_the_input() -> None:
    tall = [np.zeros((100, 50, 3), dtype=np.uint8)] * 4
    part = Split(tall, (0, 1, 0, 1))
    data = ImageData("tall", ("a", "b"), part, part, part)
    assert (choose_fit("auto", data), choose_fit("auto", data, InputFormat(3, Fraction(1, 2)))) == ("pad", "crop")
    assert describe_fit("crop", data, InputFormat(3, Fraction(1, 2))) == ()
    assert "of the input's aspect ratio, 2" in describe_fit("crop", data, InputFormat(3, Fraction(2)))[0]


def test_zero_cost_scores_build_portraits_at_their_height(tmp_path: Path) -> None:
    deep = [{"block": "conv", "out_channels": 4, "stride": 2}] * 5
    portrait = space(resolution="64x32", stages=deep, proxy={"resolution": 64})
    task = Classification.load("digits").for_input(portrait.input)
    for name in ("synflow", "grad_norm"):
        evaluator = EVALUATORS[name](EvaluatorContext(task, portrait.for_classes(10), tmp_path))
        (score,) = evaluator.evaluate(portrait.for_classes(10).decode({}), 0)
        assert np.isfinite(score)


def test_the_size_of_a_png_is_read_from_its_start(tmp_path: Path) -> None:
    picture("RGB", 300, 500).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    assert sampled_sizes([tmp_path / "cut.png"], 10) == [(300, 500)]
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    picture("RGB", 300, 500).save(tmp_path / "turned.png", exif=turned)
    picture("RGB", 300, 500).save(tmp_path / "turned.jpg", exif=turned)
    assert sampled_sizes([tmp_path / "turned.png", tmp_path / "turned.jpg"], 10) == [(500, 300)] * 2


def test_grays_of_a_palette_are_no_colors() -> None:
    assert conversion(picture("L").convert("P"), 1) == ""
    assert conversion(picture("RGB").convert("P"), 1) == COLORED
    assert conversion(picture("RGB").convert("LAB"), 1) == COLORED


def test_a_reference_gets_the_input_of_the_space() -> None:
    from nas.searching.against.references import make_reference

    reference = make_reference("mobilenet_v2_0.35", space(resolution="48x64", channels=1))
    assert reference.at(48).input_shape == (1, 48, 64)


@pytest.fixture
def gray_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 6), ("test", 6)):
        for label in range(2):
            folder = tmp_path / "gray" / part / f"c{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (24, 32), dtype=np.uint8) + 100 * np.uint8(label)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "gray"


def test_a_search_of_gray_rectangles(gray_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = {"resolution": "24x32", "channels": 1, "stages": STAGES, "head": HEAD, "proxy": {"resolution": 24}}
    (tmp_path / "gray.yaml").write_text(json.dumps(text))
    command = ["search", "--space", str(tmp_path / "gray.yaml"), "--data", str(gray_folder), "--runtime", "null"]
    command += ["--target-latency", "1s", "--trials", "2", "--proxy-epochs", "1", "--final-epochs", "1"]
    command += ["--run", str(tmp_path / "run"), "--against", "mobilenet_v2_0.35"]
    assert main(command) == 0
    assert "24x32 px" in capsys.readouterr().err
    card = json.loads((tmp_path / "run/model/card.json").read_text())
    assert card["input"] == {"channels": 1, "height": 24, "width": 32}
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["against"][0]["resolution"] == "24x32"
    assert main(command) == 0, "the finished run is read again"
    small = [*command[:-4], "--run", str(tmp_path / "other"), "--against", "none", "--resolution", "12x16"]
    assert main(small) == 0
    assert json.loads((tmp_path / "other/model/card.json").read_text())["input"]["width"] == 16


def test_a_training_at_another_size(gray_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "squeezenet_1.1", "--data", str(gray_folder), "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main([*command, "--resolution", "32x48"]) == 0
    assert "32 of 32" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out/model/card.json").read_text())["input"]["width"] == 48
    assert main([*command[:-1], str(tmp_path / "two"), "--resolution", "32x48,64"]) == 2
    assert "--resolution: must be one size: '32x48,64'" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "two"), "--resolution", "32:48"]) == 2
    assert not (tmp_path / "two").exists()


def test_shipped_spaces_are_squares_of_rgb() -> None:
    assert load_space("mnasnet").input == InputFormat()
