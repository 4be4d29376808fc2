"""Weight sharing: one supernet is trained for the space, a candidate is evaluated with its slices in seconds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from nas.architecture import Architecture
from nas.errors import RunError, UsageError, WeightsError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.supernet.shared_weights import Supernet, load_bank, save_bank
from nas.evaluators.supernet.training import SupernetRecipe, train_supernet
from nas.spaces.search_space import Space
from nas.training.loop import pick_device, recalibrate
from nas.utils.files import write_json

FOLDER, CARD, BANK, CHECKPOINT = "supernet", "supernet.json", "supernet.safetensors", "checkpoint.pt"
RECALIBRATION_BATCHES, RECALIBRATION_BATCH = 4, 128
VALIDATION_IMAGES = 2_000


class SupernetEvaluator:
    """Trains the space's supernet into the run's folder, or takes a finished one, and ranks its children.

    Batch-norm statistics are those of the child itself, over some training images, before each evaluation.
    """

    deterministic = True
    """Another seed gives the same accuracy."""

    def __init__(self, setup: EvaluatorContext):
        if not isinstance(setup.space, Space):
            raise UsageError("--evaluator supernet: holds the networks of one search space, not scaled ones")
        self._setup, self._space, self._proxy = setup, setup.space, setup.space.proxy
        self._task, self._device = setup.task, pick_device()
        self.folder = find_folder(setup.source) if setup.source else setup.folder / FOLDER
        self._images = setup.task.train_set(self._proxy.resolution, self._proxy.images, setup.reporter)
        with torch.random.fork_rng():
            torch.manual_seed(setup.seed)
            self._supernet = Supernet(replace(self._space, resolution=(self._proxy.resolution,)))
        self._card = self._ready()
        self._supernet.to(self._device).eval()
        self._validation = setup.task.validation_set(self._proxy.resolution, VALIDATION_IMAGES)
        self._batches = self._recalibration_batches()

    @property
    def settings(self) -> dict[str, Any]:
        """Return how the supernet was trained and on what children are evaluated."""
        return {
            "evaluator": "supernet",
            "supernet": str(self.folder),
            "resolution": self._proxy.resolution,
            "train_images": self._card["settings"]["train_images"],
            "validation_images": len(self._validation),
            "recalibration_images": sum(len(images) for images, _ in self._batches),
            "training": self._card["settings"],
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield the validation accuracy in [0, 1] of the child with shared weights, once."""
        yield self._task.accuracy(self.trained(arch), self._validation, self._device)

    def trained(self, arch: Architecture) -> nn.Module:
        """Return `arch` with its shared weights: the winner's training starts from them."""
        network = self._supernet.extract(arch.at(self._proxy.resolution))
        network.to(memory_format=torch.channels_last)
        recalibrate(network, self._batches, self._device, len(self._batches))
        return network

    def _ready(self) -> dict[str, Any]:
        """Load the finished supernet of the folder, or train it, and return its card."""
        identity = self._identity()
        if (self.folder / CARD).is_file():
            card = read_card(self.folder)
            _check_fits(card, identity if self._setup.source else self._settings(identity), self.folder)
            load_bank(self._supernet, self.folder / BANK)
            return card
        if self._setup.source:
            raise RunError(
                f"{self._setup.source}: its supernet is not trained to the end: give the command again that began it"
            )
        return self._train(identity)

    def _train(self, identity: dict[str, Any]) -> dict[str, Any]:
        recipe, settings = SupernetRecipe(self._space.supernet), self._settings(identity)
        with self._setup.reporter.task("training the supernet", recipe.training.epochs * len(self._images)) as advance:
            losses = list(
                train_supernet(
                    self._supernet, self._task, self._images, recipe, self._setup.seed,
                    checkpoint=self.folder / CHECKPOINT, identity=settings, watch=advance,
                )
            )  # fmt: skip
        save_bank(self._supernet, self.folder / BANK)
        card = {"settings": settings, "losses": losses}
        write_json(self.folder / CARD, card)
        (self.folder / CHECKPOINT).unlink()
        return card

    def _settings(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return what decides the weights of a supernet that this run trains."""
        return {**identity, **SupernetRecipe(self._space.supernet).to_dict(), "seed": self._setup.seed}

    def _identity(self) -> dict[str, Any]:
        """Return what a supernet must agree in with the search that uses it."""
        return {
            "space": self._space.key,
            "classes": list(self._task.data.classes),
            "data": self._task.data.name,
            "train_images": len(self._images),
            "resolution": self._proxy.resolution,
            "images": self._images.digest,
        }

    def _recalibration_batches(self) -> list[Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loader = DataLoader(self._images, RECALIBRATION_BATCH, shuffle=True, num_workers=self._images.workers)
            return list(itertools.islice(loader, RECALIBRATION_BATCHES))


def find_folder(source: Path) -> Path:
    """Return the folder of a supernet: `source`, or the one in a run's folder. Raises RunError."""
    for folder in (source, source / FOLDER):
        if (folder / CARD).is_file() or (folder / CHECKPOINT).is_file():
            return folder
    raise RunError(f"--supernet: {source}: holds no supernet ({CARD}), nor does {source / FOLDER}")


def read_card(folder: Path) -> dict[str, Any]:
    """Return the settings and losses of a finished supernet. Raises WeightsError for a broken file."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(card["settings"], dict) and isinstance(card["losses"], list):
            return dict(card)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not the card of a supernet: {error!r}") from error
    raise WeightsError(f"{path}: not the card of a supernet: settings or losses are missing")


def _check_fits(card: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    for key, value in identity.items():
        if card["settings"].get(key) != value:
            raise RunError(
                f"--supernet: {folder}: is for another search: {key} is {card['settings'].get(key)!r} there and "
                f"{value!r} here"
            )
