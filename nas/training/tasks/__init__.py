"""What is learnt: data, loss and metric. To add one: write a file, add a line here."""

from __future__ import annotations

from nas.training.tasks.classification import Classification

TASKS = {
    "classification": Classification,
}
