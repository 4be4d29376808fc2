"""NAS-Bench-Macro's accuracies as a table for `nas search --space nb_macro --accuracies`.

    python benchmarks/nb_macro.py nb_macro.csv accuracies.csv

The source is a CSV of the benchmark (Su et al. 2021; github.com/xiusu/NAS-Bench-Macro, Apache-2.0): `arch` has one
digit for each of eight layers (0 identity, 1 MBConv with kernel 3 and expansion 3, 2 with kernel 5 and expansion 6),
`acc1` to `acc3` are the percent of three trainings, `params` and `flops` what it counts. Its 6,561 rows are 3,969
networks: an identity at stride 1 is nothing. Each network becomes one row; ours must have its parameters and MACs.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from nas.architecture import Scalar
from nas.networks.network import totals, trace
from nas.spaces.yaml_format import load_space

SPACE = load_space("nb_macro")
STAGES = (2, 3, 3)
FIRST = ("conv", "mbconv", "mbconv2")
LATER = {1: "mbconv", 2: "mbconv2"}
SEEDS = ("acc1", "acc2", "acc3")


def choices_of(code: str) -> dict[str, Scalar]:
    """Return the choices of space nb_macro that the benchmark's eight digits spell."""
    digits = [int(digit) for digit in code]
    choices: dict[str, Scalar] = {}
    for index, layers in enumerate(STAGES):
        first, *later = digits[:layers]
        digits = digits[layers:]
        blocks = [LATER[digit] for digit in later if digit]
        head, tail = f"stage{2 * index + 1}", f"stage{2 * index + 2}"
        choices |= {f"{head}.block": FIRST[first], f"{tail}.depth": len(blocks)}
        choices |= {f"{tail}.layer{place}.block": block for place, block in enumerate(blocks)}
    return choices


def convert(source: Path, target: Path) -> int:
    """Write the table and return its number of networks. Raises ValueError where a network is not the benchmark's."""
    seen: dict[tuple[Scalar | str, ...], tuple[str, ...]] = {}
    with source.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            choices = choices_of(row["arch"])
            cells = tuple(choices.get(key, "") for key in SPACE.choices)
            accuracies = tuple(row[name] for name in SEEDS)
            if seen.setdefault(cells, accuracies) != accuracies:
                raise ValueError(f"{row['arch']}: the same network as another code, with other accuracies")
            whole = totals(trace(SPACE.decode(choices)))
            if (whole.params, whole.macs) != (int(row["params"]), int(row["flops"])):
                raise ValueError(f"{row['arch']}: has {row['params']} parameters and {row['flops']} MACs: {whole}")
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*SPACE.choices, *(f"accuracy_seed{index}" for index in range(len(SEEDS)))])
        writer.writerows([*cells, *accuracies] for cells, accuracies in seen.items())
    return len(seen)


def main() -> None:
    """Convert the file that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the benchmark's CSV")
    parser.add_argument("target", type=Path, help="the table to write")
    args = parser.parse_args()
    print(f"{args.target}: {convert(args.source, args.target)} networks")


if __name__ == "__main__":
    main()
