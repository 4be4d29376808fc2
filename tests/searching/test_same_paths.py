"""A path in another spelling is the same in a run's identity, and so is a file that was only moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nas.cli.main import main
from nas.errors import RunError
from nas.searching.identity import source_identity
from nas.searching.prior_runs import prior_content, prior_identity, read_sources
from nas.spaces.search_space import Space
from nas.spaces.yaml_format import load_space
from nas.training.tasks.image_datasets import load_images
from nas.utils.run_identity import PATHS, check_same_settings, same_setting

Write = Callable[[Path, Space], None]
SPELLINGS: dict[str, Callable[[Path], str]] = {
    "home": lambda path: f"~/{path}",
    "link": lambda path: f"link-{path}",
    "moved": lambda path: f"sub/{path}",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the current directory the home directory, with a subfolder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()


def spell(path: Path, spelling: str) -> str:
    """Return another spelling of a path in the current directory, and make the link or the copy that it needs."""
    if spelling == "link":
        Path(f"link-{path}").symlink_to(path)
    if spelling == "moved":
        path.rename(Path("sub") / path)
    return SPELLINGS[spelling](path)


@pytest.mark.parametrize("key", PATHS)
def test_every_path_setting_is_the_same_in_every_spelling(key: str, tmp_path: Path) -> None:
    Path("a.file").write_text("x")
    Path("link.file").symlink_to("a.file")
    for other in (str(tmp_path / "a.file"), "./a.file", "~/a.file", "link.file", "sub/../a.file"):
        assert same_setting(key, {key: "a.file"}, {key: other})
        assert same_setting(key, {key: ["a.file", "b"]}, {key: [other, "./b"]})
    assert not same_setting(key, {key: "a.file"}, {key: "b.file"})
    assert not same_setting(key, {key: "a.file"}, {})
    (digest, *_) = PATHS[key]
    assert same_setting(key, {key: "a.file", digest: "1"}, {key: "b.file", digest: "1"})
    assert not same_setting(key, {key: "a.file", digest: "1"}, {key: "b.file", digest: "2"})


def test_a_trailing_slash_of_a_folder_is_the_same() -> None:
    assert same_setting("source", {"source": "sub"}, {"source": "sub/"})
    assert same_setting("source", {"source": "sub"}, {"source": "sub/."})


@pytest.mark.parametrize("spelling", ["home", "link", "moved"])
def test_a_search_continues_with_its_files_in_another_spelling(
    spelling: str, tiny_text: str, write_accuracies: Write, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    space, table = Path("own.yaml"), Path("accuracies.csv")
    space.write_text(tiny_text)
    write_accuracies(table, load_space("own.yaml").for_classes(10))
    common = ["search", "--run", "run", "--target-latency", "1ms", "--runtime", "null", "--controller", "random"]
    assert main([*common, "--quiet", "--space", "own.yaml", "--accuracies", "accuracies.csv", "--trials", "1"]) == 0
    moved = ["--space", spell(space, spelling), "--accuracies", spell(table, spelling)]
    assert main([*common, "--quiet", *moved, "--trials", "2"]) == 0, capsys.readouterr().err
    file = Path(moved[3]).expanduser()
    file.write_text(file.read_text().replace("architecture,accuracy", "architecture,accuracy\n" + "0" * 16 + ",0.1"))
    assert main([*common, "--quiet", *moved, "--trials", "3"]) == 2
    said = capsys.readouterr().err
    moved_and_changed = "source is 'accuracies.csv' there and 'sub/accuracies.csv' now"
    assert (moved_and_changed if spelling == "moved" else "accuracies.csv has changed since this run began") in said


def test_a_changed_proxy_is_named_by_its_setting_and_a_changed_space_by_its_file(
    tiny_text: str, without_winner: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(tiny_text)
    common = ["search", "--run", "run", "--space", "own.yaml", "--target-latency", "1ms", "--runtime", "null"]
    common += ["--controller", "random", "--evaluator", "params", "--quiet", "--trials"]
    assert main([*common, "1"]) == 0
    assert main([*common, "2", "--proxy-epochs", "2"]) == 2
    assert "proxy_epochs is 1 there and 2 now" in capsys.readouterr().err
    Path("own.yaml").write_text(tiny_text.replace("[12, 16]", "[12, 24]"))
    assert main([*common, "2"]) == 2
    assert "--space: own.yaml has changed since this run began" in capsys.readouterr().err


def test_a_start_is_the_same_in_another_spelling(tiny_text: str) -> None:
    Path("own.yaml").write_text(tiny_text)
    network = tiny_text.replace("[separable, {op: mbconv, expand_ratio: [2, 3]}, {op: osa, mid_channels: 8, num_"
                                "layers: [1, 2]}]", "separable")  # fmt: skip
    for choice, value in (("[1, 2]", "1"), ("[12, 16]", "12"), ("[0, 1]", "0"), ("[3, 5]", "3"),
                          ("[none, identity]", "none")):  # fmt: skip
        network = network.replace(choice, value)
    Path("net.yaml").write_text(network)
    space = load_space("own.yaml").for_classes(10)

    def identity(name: str) -> dict[str, object]:
        sources = read_sources([name], space, {}, Path("run"))
        return {**prior_identity(sources), **prior_content(sources)}

    before = identity("net.yaml")
    for other in ("./net.yaml", "~/net.yaml", str(Path("net.yaml").absolute())):
        check_same_settings("run", before, identity(other), "--run")
    check_same_settings("run", before, identity(spell(Path("net.yaml"), "moved")), "--run")
    Path("sub/net.yaml").write_text(network.replace("out_channels: 12", "out_channels: 16"))
    with pytest.raises(RunError, match=r"start_from is .* there and .* now"):
        check_same_settings("run", before, identity("sub/net.yaml"), "--run")


def test_a_supernet_that_was_moved_is_the_same_and_another_one_is_not() -> None:
    Path("a/supernet").mkdir(parents=True)
    for name in ("supernet.json", "supernet.safetensors"):
        Path("a/supernet", name).write_text(name)
    before = {"source": "a", **source_identity(Path("a"))}
    Path("a").rename("b")
    check_same_settings("run", before, {"source": "b", **source_identity(Path("b"))}, "--run")
    check_same_settings("run", before, {"source": "b/supernet", **source_identity(Path("b/supernet"))}, "--run")
    Path("b/supernet/supernet.safetensors").write_text("another")
    with pytest.raises(RunError, match="--supernet: a has changed since this run began"):
        check_same_settings("run", before, {"source": "a", **source_identity(Path("b"))}, "--run")


def test_a_data_folder_has_one_name_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cat", "dog"):
        Path("photos", kind).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(Path("photos", kind, f"{index}.png"))
    Path("current").symlink_to("photos")
    for spelling in ("photos", "photos/", "./photos", "sub/../photos", "~/photos", str(Path("photos").absolute()),
                     "current"):  # fmt: skip
        assert load_images(spelling).name == "photos"
    monkeypatch.chdir("photos")
    assert load_images(".").name == "photos"


def test_a_training_continues_with_a_moved_start_and_refuses_a_changed_one(
    tiny_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.yaml").write_text(
        "resolution: 8\nstages: [{block: conv, out_channels: 4, stride: 2}]\nhead: {block: classifier, num_classes: 10}"
    )
    train = ["train", "net.yaml", "--epochs", "1", "--images", "100", "--runtime", "null", "--quiet"]
    assert main([*train, "--out", "first"]) == 0
    Path("first/model/model.safetensors").rename("weights.safetensors")
    assert main([*train, "--out", "second", "--init-from", "weights.safetensors"]) == 0
    Path("weights.safetensors").rename("sub/start.safetensors")
    assert main([*train, "--out", "second", "--init-from", "sub/start.safetensors"]) == 0
    capsys.readouterr()
    assert main([*train, "--out", "third", "--seed", "1"]) == 0
    Path("third/model/model.safetensors").replace("sub/start.safetensors")
    assert main([*train, "--out", "second", "--init-from", "sub/start.safetensors"]) == 2
    assert "init_from is 'weights.safetensors' there and 'sub/start.safetensors' now" in capsys.readouterr().err
