"""Draw the packages of `nas` and their imports, from the code itself: `python -m benchmarks.import_graph OUT.svg`.

Each row is one layer of the import contract in pyproject.toml; an arrow goes from a package to one that it imports.
An arrow that goes up, or a circle, is printed and drawn in red; the exit status is then 1.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nas"
ROW, COLUMN, WIDTH, HEIGHT, MARGIN = 84, 190, 150, 36, 24
"""Distances in pixels: between rows and columns, of a box, and around the picture."""


@cache
def rows() -> list[list[str]]:
    """Return the layers of the contract from the top, each with the packages that stand side by side in it."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(each for each in config["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [[name.strip().removeprefix("nas.") for name in layer.split("|")] for layer in contract["layers"]]


def layers() -> list[str]:
    """Return the packages from the top."""
    return [name for row in rows() for name in row]


@cache
def package_imports() -> dict[str, set[str]]:
    """Return for each package, and for each module beside them, those of the others that it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found[own] |= {name.split(".")[1] for name in names if name.startswith("nas.")} - {own}
    return {name: found[name] for name in layers()}


def upward(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports that do not go down: every circle has one."""
    level = {name: number for number, row in enumerate(rows()) for name in row}
    return [
        (name, other) for name, others in imports.items() for other in sorted(others) if level[other] <= level[name]
    ]


def draw(imports: dict[str, set[str]]) -> str:
    """Return the picture as SVG."""
    width = MARGIN * 2 + COLUMN * 3
    height = MARGIN * 2 + ROW * len(rows())
    at = {
        name: (width / 2 + (place - (len(row) - 1) / 2) * COLUMN, MARGIN + number * ROW + HEIGHT / 2)
        for number, row in enumerate(rows())
        for place, name in enumerate(row)
    }
    wrong = set(upward(imports))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="14" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, others in imports.items():
        for other in sorted(others):
            (x, y), (to_x, to_y) = at[name], at[other]
            bend = 0 if to_y - y <= ROW else 40 + 14 * (to_y - y) / ROW
            colour = "#c00" if (name, other) in wrong else "#9ab"
            path = f"M{x:.0f} {y + HEIGHT / 2:.0f} C{x + bend:.0f} {y + ROW:.0f} {to_x + bend:.0f} {to_y - ROW:.0f}"
            lines.append(f'<path d="{path} {to_x:.0f} {to_y - HEIGHT / 2:.0f}" fill="none" stroke="{colour}"/>')
    for name, (x, y) in at.items():
        box = f'x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" height="{HEIGHT}"'
        lines.append(
            f'<rect {box} rx="6" fill="#eef3f8" stroke="#345"/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> int:
    """Write the picture and print what goes up."""
    imports = package_imports()
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "packages.svg"
    path.write_text(draw(imports), encoding="utf-8")
    wrong = upward(imports)
    for name, other in wrong:
        print(f"{name} imports {other}, which is not below it")
    print(f"{path}: {len(imports)} packages, {sum(map(len, imports.values()))} arrows, {len(wrong)} of them not down")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
