"""The supernet evaluator: trains one supernet for the space, then evaluates each candidate with shared weights."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.architecture import Architecture
from nas.errors import RunError, UsageError, WeightsError
from nas.evaluators.base import EvaluatorContext
from nas.evaluators.supernet.shared_weights import Supernet, load_bank, save_bank
from nas.evaluators.supernet.training import SubnetSampler, SupernetRecipe, train_supernet
from nas.spaces.search_space import Space
from nas.training.loop import pick_device, recalibrate
from nas.training.pretrained_network import PretrainedNetwork
from nas.training.tasks.base import make_loader
from nas.utils.files import write_json
from nas.utils.run_identity import FORMER_VALUES

FOLDER, CARD, BANK, CHECKPOINT = "supernet", "supernet.json", "supernet.safetensors", "checkpoint.pt"
RECALIBRATION_BATCHES, RECALIBRATION_BATCH = 4, 128
VALIDATION_IMAGES = 2_000
TRAINED_WITH = ("class_weights", "fit", "flip")
"""Settings of the task that a supernet is trained with. Cards lack the defaults."""


class SupernetEvaluator:
    """Evaluates candidates with the weights of a supernet.

    The supernet is read from `context.source` if that is given, and trained in the run folder otherwise. Before each
    evaluation, the batch-norm statistics of the candidate are computed from training images.

    Raises:
        UsageError: The space is not a search space.
        RunError: The supernet was trained for another space, data set or settings, or is not finished.
        WeightsError: A file of the supernet is broken.
    """

    deterministic = True
    """The seed does not change the accuracy."""
    uses_task = True

    def __init__(self, context: EvaluatorContext):
        if not isinstance(context.space, Space):
            rule = "needs a search space; it cannot evaluate scaled networks"
            raise UsageError(rule, key="evaluator", value="supernet")
        self._context, self._space, self._proxy = context, context.space, context.space.proxy
        self._task, self._device = context.task, pick_device()
        self.folder = find_folder(context.source) if context.source else context.folder / FOLDER
        self._images = context.task.train_set(self._proxy.resolution, self._proxy.images, context.reporter)
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            self._supernet = Supernet(replace(self._space, resolution=(self._proxy.resolution,)))
        if context.pretrained:
            fill_bank(self._supernet, context.pretrained)
        self._card = self._load_or_train()
        self._supernet.to(self._device).eval()
        self._validation = context.task.validation_set(self._proxy.resolution, VALIDATION_IMAGES)
        self._batches = self._recalibration_batches()

    @property
    def settings(self) -> dict[str, Any]:
        """Return how the supernet was trained and on which images candidates are evaluated."""
        return {
            "evaluator": "supernet",
            "supernet": str(self.folder),
            "resolution": self._proxy.resolution,
            "train_images": self._card["settings"]["train_images"],
            "validation_images": len(self._validation),
            "recalibration_images": sum(len(images) for images, _ in self._batches),
            "training": self._card["settings"],
            **self._task.settings,
        }

    def evaluate(self, arch: Architecture, seed: int) -> Iterator[float]:
        """Yield one value: the task's metric on the validation images, in [0, 1], with shared weights."""
        yield self._task.evaluate(self.trained(arch), self._validation, self._device).metric_value

    def trained(self, arch: Architecture) -> nn.Module:
        """Return the network with its shared weights. The training of the winner starts from it."""
        network = self._supernet.extract(arch.at(self._proxy.resolution))
        network.to(memory_format=torch.channels_last)
        recalibrate(network, self._batches, self._device, len(self._batches))
        return network

    def _load_or_train(self) -> dict[str, Any]:
        """Load the supernet in the folder, or train it. Return its card."""
        identity = self._identity()
        if (self.folder / CARD).is_file():
            card = read_card(self.folder)
            _check_fits(card, identity if self._context.source else self._settings(identity), self.folder)
            load_bank(self._supernet, self.folder / BANK)
            return card
        if self._context.source:
            rule = "the training of the supernet is not finished; rerun the command that started it"
            raise RunError(rule, where=self._context.source)
        return self._train(identity)

    def _train(self, identity: dict[str, Any]) -> dict[str, Any]:
        recipe, settings = SupernetRecipe(self._space.supernet), self._settings(identity)
        with self._context.reporter.task(
            "training the supernet", recipe.training.epochs * len(self._images)
        ) as advance:
            losses = train_supernet(
                self._supernet,
                self._task,
                self._images,
                recipe,
                self._context.seed,
                checkpoint=self.folder / CHECKPOINT,
                identity=settings,
                watch=advance,
            )
            card = {"settings": settings, "losses": list(losses)}
        save_bank(self._supernet, self.folder / BANK)
        write_json(self.folder / CARD, card)
        (self.folder / CHECKPOINT).unlink()
        return card

    def _settings(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that determine the weights of a supernet trained by this run."""
        pretrained = self._context.pretrained
        weights = {"weights": pretrained.digest} if pretrained else {}
        recipe = SupernetRecipe(self._space.supernet).to_dict()
        return {**identity, **recipe, "seed": self._context.seed, **weights}

    def _identity(self) -> dict[str, Any]:
        """Return the settings that a supernet must share with any search that uses it."""
        return {
            "space": self._space.key,
            "classes": list(self._task.data.classes),
            "data": self._task.data.name,
            "train_images": len(self._images),
            "resolution": self._proxy.resolution,
            "images": self._images.digest,
            **{key: value for key, value in self._task.settings.items() if key in TRAINED_WITH},
        }

    def _recalibration_batches(self) -> list[Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loader = make_loader(self._task, self._images, RECALIBRATION_BATCH, shuffle=True)
            return list(itertools.islice(loader, RECALIBRATION_BATCHES))


def fill_bank(supernet: Supernet, pretrained: PretrainedNetwork) -> None:
    """Let a supernet inherit a pretrained network's weights: every operator at every place, in its largest form."""
    sampler = SubnetSampler.of(supernet.space)
    words = max((len(values) for values in supernet.space.choices.values() if isinstance(values[0], str)), default=1)
    for arch in sampler.sample(words, random.Random(0), prefer_largest=1.0):
        supernet.fill(arch, pretrained.initialize)


def find_folder(source: Path) -> Path:
    """Return the folder of a supernet.

    Args:
        source: The folder itself, or a run folder that contains it.

    Raises:
        RunError: There is no supernet.
    """
    for folder in (source, source / FOLDER):
        if (folder / CARD).is_file() or (folder / CHECKPOINT).is_file():
            return folder
    raise RunError(f"--supernet: no supernet ({CARD}) in this folder or its subfolder '{FOLDER}'", value=str(source))


def supernet_files(source: Path) -> list[Path]:
    """Return the card and the weights of the finished supernet in `source`, see `find_folder`; empty without one."""
    for folder in (source, source / FOLDER):
        if (folder / CARD).is_file() and (folder / BANK).is_file():
            return [folder / CARD, folder / BANK]
    return []


def read_card(folder: Path) -> dict[str, Any]:
    """Return the settings and losses of a finished supernet. Raises WeightsError if the file is broken."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(card["settings"], dict) and isinstance(card["losses"], list):
            return dict(card)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"not the card of a supernet ({error!r})", where=path) from error
    raise WeightsError("not the card of a supernet (settings or losses have the wrong type)", where=path)


def _check_fits(card: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    for key in dict.fromkeys([*TRAINED_WITH, *identity]):  # a digest says less: it comes last
        there, here = (settings.get(key, FORMER_VALUES.get(key)) for settings in (card["settings"], identity))
        if there != here:
            rule = f"the supernet is for another search: {there!r} there, {here!r} here"
            raise RunError(rule, where=f"--supernet: {folder}", key=key)
