"""Blocks of other packages: any form of their code is copied, and what cannot be copied is found before a search."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nas.architecture import Architecture
from nas.cli.main import main
from nas.errors import ExportError, SpaceError
from nas.networks.block_check import check_blocks
from nas.networks.network import build, trace
from nas.networks.standalone.source import requirements, standalone_source
from nas.networks.standalone.state_names import exported_state
from nas.spaces.yaml_format import parse_space

NUMBERS = itertools.count()
BLOCK = """
from torch import nn
{top}
class Own(nn.Module):
    \"\"\"A block.\"\"\"

    def __init__(self, in_channels: int, *, out_channels: int = 8):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        x = self.layer(x)
        {body}
"""
HELPERS = """
import math
from dataclasses import dataclass
from enum import Enum
import torch.nn.functional as F

WIDTH: int = 4
HALF, THIRD = WIDTH // 2, WIDTH / 3
LIMITS = {}
LIMITS["low"] = HALF

class Kind(Enum):
    TWICE = 2

@dataclass
class Config:
    factor: float = THIRD
    kind: "Kind" = Kind.TWICE

def scale(x):
    return F.relu(x) * math.sqrt(WIDTH)
"""
OTHER = """
WIDTH = 7
def scale(x):
    return x - WIDTH
def max(x):
    return x.sigmoid()
"""
FORMS = {
    "an annotated constant": ("WIDTH: int = 3", "return x * WIDTH"),
    "assignments to a tuple": ("A, (B, *C) = 2, (3, 4, 5)", "return x * A + B + C[0]"),
    "an optional package that is missing": (
        "try:\n    import no_such_package as fast\nexcept ImportError:\n    fast = None",
        "return x if fast is None else fast.f(x)",
    ),
    "an optional package that is installed": (
        "try:\n    import numpy as fast\nexcept ImportError:\n    fast = None",
        "return x * 2 if fast is None else x * float(fast.sqrt(9))",
    ),
    "a missing helper with a replacement": (
        "try:\n    from .fast import scale\nexcept ImportError:\n    from .helpers import scale",
        "return scale(x)",
    ),
    "a relative import": ("from .helpers import scale as s, Config", "return s(x) * Config().factor"),
    "a module of the package": ("from . import helpers", "return helpers.scale(x) + helpers.LIMITS['low']"),
    "an absolute import with another name": ("import PACKAGE.helpers as h", "return h.scale(x) * h.Kind.TWICE.value"),
    "an absolute import": ("import PACKAGE.helpers", "return PACKAGE.helpers.scale(x)"),
    "everything of a module": ("from .helpers import *", "return scale(x) + HALF"),
    "two helpers of one name": (
        "from .helpers import scale\nfrom .sub.other import scale as other, max as own_max",
        "return scale(x) + other(x) * own_max(x) + max(1, 2)",
    ),
    "an import inside a function": ("", "from .sub.other import scale; import math; return scale(x) * math.pi"),
    "a module imported inside a function": ("", "from .sub import other; return other.scale(x)"),
    "a name that the exported file uses itself": (
        "def build(x):\n    return x + 1\nmain = 2",
        "return build(x) * main",
    ),
    "a lambda and a computed constant": ("N = 2\nM = N ** 3\nf = lambda x, N=M: x * N", "return f(x) + M"),
    "a local variable named like a helper": (
        "from . import helpers\nfrom .sub.other import scale",
        "HALF = helpers.scale(x)\n        return HALF + scale(x) + sum(scale for scale in (1, 2))",
    ),
    "names for type checkers only": (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING, Literal\nif TYPE_CHECKING:\n"
        "    from numpy.typing import NDArray\n    from .helpers import Kind\nMode = Literal['a']\n"
        "def f(x: NDArray, kind: 'Kind | None' = None, mode: Mode = 'a') -> Missing:\n    return x * 3",
        "return f(x)",
    ),
    "a decorated function in a table": (
        "TABLE = {}\ndef register(f):\n    TABLE[f.__name__] = f\n    return f\n"
        "@register\ndef twice(x):\n    return 2 * x",
        "return TABLE['twice'](x)",
    ),
    "a counter": ("CALLS = 0\ndef count():\n    global CALLS\n    CALLS += 1\n    return CALLS", "count(); return x"),
    "a constant that grows": ("SIZES = [1]\nSIZES.append(2)\nSIZES += [3]", "return x * sum(SIZES)"),
    "a table that a loop fills": ("T = {}\nfor k in 'ab':\n    T[k] = len(T) + 2", "return x * T['b']"),
    "an attribute set by name": ("class Q: pass\nsetattr(Q, 'two', 2)", "return x * Q.two"),
    "a conditional definition": (
        "import sys\nif sys.version_info > (3,):\n    def f(x):\n        return x + 4\nelse:\n    f = None",
        "return f(x)",
    ),
    "a package that is installed": ("import numpy as np", "return x * float(np.float32(3))"),
    "a module beside the package": ("from BESIDE import shift", "return shift(x)"),
}


def write_package(folder: Path, monkeypatch: pytest.MonkeyPatch, top: str, body: str) -> str:
    """Write a package with the block `Own`, whose name is new in each test; return the name of the block."""
    name = f"own_package_{next(NUMBERS)}"
    files = {"__init__.py": "", "helpers.py": HELPERS, "sub/__init__.py": "", "sub/other.py": OTHER}
    (folder / name / "sub").mkdir(parents=True)
    (folder / f"{name}_beside.py").write_text("def shift(x):\n    return x - 5\n")
    text = BLOCK.format(top=top, body=body).replace("PACKAGE", name).replace("BESIDE", f"{name}_beside")
    future = "from __future__ import annotations\n"
    text = future + text.replace(future, "") if future in text else text
    for file, content in {**files, "blocks.py": text}.items():
        (folder / name / file).write_text(content)
    monkeypatch.syspath_prepend(folder)
    return f"{name}.blocks:Own"


def network(block: str) -> Architecture:
    text = f"""
resolution: 16
stages: [{{block: "{block}", out_channels: 4}}, {{block: conv, out_channels: 8, stride: 2}}]
head: {{block: classifier, num_classes: 10}}
"""
    return parse_space("own", yaml.safe_load(text), "own.yaml").decode({})


def run_alone(text: str) -> types.ModuleType:
    module = types.ModuleType("exported")
    module.__dict__["__file__"] = "model.py"
    sys.modules["exported"] = module
    exec(compile(text, "model.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_code_is_copied(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = write_package(tmp_path, monkeypatch, *FORMS[form])
    arch = network(block)
    text = standalone_source(arch, "A network.")
    assert block.partition(".")[0] not in text.replace(block, "") or "ImportError(" in text
    ours, theirs = build(arch).eval(), run_alone(text).build().eval()
    theirs.load_state_dict(exported_state(ours.state_dict()))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


def test_the_header_names_the_packages_that_the_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = network(write_package(tmp_path, monkeypatch, *FORMS["a package that is installed"]))
    assert "It needs torch and numpy, but not nas." in standalone_source(arch, "A network.")
    assert requirements(arch) == ["numpy"]
    plain = parse_space("plain", {"resolution": 8, "stages": [{"block": "conv", "out_channels": 4}],
                                  "head": {"block": "classifier"}}, "plain").decode({})  # fmt: skip
    assert "It needs torch, but not nas." in standalone_source(plain, "A network.")


def test_two_blocks_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write_package(tmp_path, monkeypatch, "N = 1", "return x + N")
    two = write_package(tmp_path, monkeypatch, "N = 2", "return x + N")
    text = f"""
resolution: 8
stages: [{{block: "{one}"}}, {{block: "{two}"}}]
head: {{block: classifier, num_classes: 10}}
"""
    arch = parse_space("two", yaml.safe_load(text), "two.yaml").decode({})
    ours, theirs = build(arch).eval(), run_alone(standalone_source(arch, "x")).build().eval()
    theirs.load_state_dict(exported_state(ours.state_dict()))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize(
    ("top", "body", "rule"),
    [
        ("", "import sys; return x * len(type(self).__module__)", "its output differs from the block's"),
        ("from . import helpers", "return getattr(helpers, 'scale')(x)", "uses the module '.*helpers' as a value"),
        ("exec('def f(x): return x')", "return f(x)", "NameError: name 'f' is not defined"),
    ],
)
def test_code_that_cannot_be_copied_is_one_line(
    top: str, body: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = write_package(tmp_path, monkeypatch, top, body)
    with pytest.raises(ExportError, match=rule) as caught:
        check_blocks(trace(network(block)))
    assert f"block '{block}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def search_files(folder: Path, block: str) -> list[str]:
    """Write a space with a block and return a search of it that takes seconds."""
    (folder / "own.yaml").write_text(f"""
resolution: 16
stages: [{{block: "{block}", out_channels: [4, 8]}}, {{block: conv, out_channels: 8, stride: 2}}]
head: {{block: classifier}}
proxy: {{resolution: 8, epochs: 1, images: 100}}
final: {{epochs: 1, images: 100}}
""")
    flags = ["--space", "own.yaml", "--runtime", "null", "--trials", "2", "--finalists", "2", "--run", "run"]
    return ["search", "--target-latency", "1000ms", "--data", "digits", *flags]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_finds_a_block_that_cannot_be_exported_before_its_first_trial(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = write_package(here, monkeypatch, "import inspect", "return x * len(inspect.getsource(type(self)))")
    assert main(search_files(here, block)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    file = here / block.partition(".")[0] / "blocks.py"
    assert f"block '{block}': {file}, line 13: its source, copied into a file without its package, fails" in line
    assert not (here / "run").exists()


def test_a_search_whose_export_fails_keeps_its_result_and_exports_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = search_files(here, "conv")
    with monkeypatch.context() as patch:
        patch.setattr("nas.networks.export.standalone_source", lambda *_: "raise ValueError('broken on purpose')")
        assert main(command) == 2
        assert "kept in 'run/failed-model': the same command tries again" in capsys.readouterr().err
        assert {path.name for path in (here / "run/failed-model").iterdir()} >= {"card.json", "model.safetensors"}
        result = json.loads((here / "run/result.json").read_text())
        assert "broken on purpose" in result["export_error"]
        assert not (here / "run/model").exists()
        assert main(command) == 2
    monkeypatch.setattr("nas.searching.job.find_winners", None)  # nothing but the export is done again
    monkeypatch.setattr("nas.searching.job.select_tables", None)
    assert main(command) == 0
    assert (here / "run/model/card.json").is_file()
    assert not list((here / "run").glob("failed*")) and not list((here / "run").glob("winner*"))
    again = json.loads((here / "run/result.json").read_text())
    assert "export_error" not in again
    assert again["best"] == result["best"]


def test_a_training_whose_export_fails_keeps_its_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "net.yaml").write_text("""
resolution: 8
stages: [{block: conv, out_channels: 4, stride: 2}]
head: {block: classifier}
""")
    command = ["train", "net.yaml", "--epochs", "1", "--images", "64", "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr("nas.networks.export.standalone_source", lambda *_: "raise ValueError('broken on purpose')")
        assert main(command) == 2
    assert (here / "out/failed-model/model.safetensors").is_file()
    assert "broken on purpose" in json.loads((here / "out/result.json").read_text())["export_error"]
    assert main(command) == 0
    assert not (here / "out/failed-model").exists()
    assert "export_error" not in json.loads((here / "out/result.json").read_text())


def test_a_block_of_a_module_in_the_current_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    name = f"own_module_{next(NUMBERS)}"
    (here / f"{name}.py").write_text(BLOCK.format(top="", body="return x"))
    (here / "net.yaml").write_text(f"""
resolution: 8
stages: [{{block: "{name}:Own", out_channels: 4}}]
head: {{block: classifier, num_classes: 10}}
""")
    assert main(["export", "net.yaml", "--out", "model", "--quiet"]) == 0
    assert main(["train", "model", "--epochs", "1", "--images", "64", "--out", "trained", "--quiet"]) == 0
    assert main(["export", "model", "--out", "again", "--quiet"]) == 0
    assert json.loads(Path("again/card.json").read_text())["blocks"]["stages"][0][0]["block"] == f"{name}:Own"
    capsys.readouterr()
    for wrong, message in {
        f"{name}:Owm": f"net.yaml, stage 0: block: no such class in {name}: 'Owm'; did you mean 'Own'?",
        f"{name[:-1]}:Own": "no such module",
        f"{name}:nn": "not a class but module",
        "math:sqrt": "must be a class derived from torch.nn.Module: 'math:sqrt'",
        ":Own": "must be package.module:Class: ':Own'",
    }.items():
        (here / "wrong.yaml").write_text(Path("net.yaml").read_text().replace(f"{name}:Own", wrong))
        assert main(["show", "wrong.yaml"]) == 2
        assert message.replace("net.yaml", "wrong.yaml") in capsys.readouterr().err


def test_a_card_never_imports_a_module_beside_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "received").mkdir()
    monkeypatch.chdir(here / "received")
    Path("evil.py").write_text(BLOCK.format(top="open('executed', 'w')", body="return x"))
    blocks = {"resolution": 8, "stages": [[{"block": "evil:Own"}]], "head": {"block": "classifier"}}
    Path("card.json").write_text(json.dumps({"blocks": blocks}))
    Path("model.safetensors").write_bytes(b"")
    for command in (["export", "."], ["train", "card.json"], ["train", "."]):
        assert main(command) == 2, command
    Path("model").mkdir()  # the same in the form of a run folder
    for file in ("card.json", "model.safetensors"):
        Path(file).rename(Path("model") / file)
    Path("result.json").write_text("{}")
    for command in (["show", "."], ["show", "model"], ["train", "model/card.json"], ["export", "."]):
        assert main(command) == 2, command
    assert not Path("executed").exists()


def plug_in(monkeypatch: pytest.MonkeyPatch, **blocks: str) -> None:
    points = [EntryPoint(name, value, "nas.blocks") for name, value in blocks.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "nas.blocks" else [])


def test_a_plug_in_that_cannot_be_imported_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_package(here, monkeypatch, "", "return x")
    plug_in(monkeypatch, good=good, gone="no_such_package:Block", conv="no_such_package:Conv")
    assert main(["list", "blocks", "--json"]) == 0
    printed = capsys.readouterr()
    rows: dict[str, Any] = {row["name"]: row for row in json.loads(printed.out)}
    assert rows["good"]["from"] == good and rows["conv"]["from"] == "nas" and "gone" not in rows
    assert "No module named 'no_such_package'" in printed.err and "'gone'" in printed.err
    assert "the block 'conv' of no_such_package:Conv is ignored" in printed.err
    assert main(["list", "spaces", "--json"]) == 0
    with pytest.raises(SpaceError, match="No module named 'no_such_package': 'gone'") as caught:
        network("gone")
    assert caught.value.where == "own.yaml, stage 0"


@pytest.mark.parametrize(
    ("init", "forward", "message"),
    [
        ("raise KeyError('no table')", "return x", "KeyError: 'no table'"),
        ("raise RuntimeError('not here')", "return x", "RuntimeError: not here"),
        ("raise ValueError('out_channels must be even: 3')", "return x", "out_channels must be even: 3"),
        ("pass", "return x.no_such_method()", "no_such_method"),
        ("pass", "return (x, x)", "must return a tensor"),
    ],
)
def test_an_error_of_a_block_names_the_block_its_class_and_the_file(
    init: str,
    forward: str,
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = write_package(here, monkeypatch, "", forward)
    file = here / block.partition(".")[0] / "blocks.py"
    file.write_text(file.read_text().replace("super().__init__()", f"super().__init__()\n        {init}"))
    search_files(here, block)
    (here / "net.yaml").write_text((here / "own.yaml").read_text().replace("[4, 8]", "4"))
    for command in (["show", "net.yaml"], ["export", "net.yaml"], ["train", "net.yaml"], search_files(here, block)):
        assert main(command) == 2, command
        printed = capsys.readouterr().err
        assert message in printed and "Own" in printed and "stage 0" in printed, printed
        assert ("net.yaml" if "net.yaml" in command else "own.yaml") in printed, printed
        assert len(printed.strip().splitlines()) == 1, printed


def test_keywords_without_a_usable_annotation_are_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for annotation in ("", ": Missing", ": list"):
        block = write_package(here, monkeypatch, "from __future__ import annotations", "return x")
        file = here / block.partition(".")[0] / "blocks.py"
        file.write_text(file.read_text().replace("out_channels: int", f"out_channels{annotation}"))
        with pytest.raises(SpaceError, match=r"'out_channels'.*bool, int, float, str or Literal"):
            network(block)
