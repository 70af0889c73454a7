"""Quality: whether samples have the label that they were drawn for, by a classifier."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab import solvers, subjects
from experiments.networks import catalogue, training
from experiments.networks.catalogue import check
from experiments.quality import judges
from experiments.quality.measure import draw
from flowjax import distances

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTION", "SOLVER", "cells", "check", "measure"]

QUESTION = "quality"
SOLVER = "AB2"
DATA = "digits"
BATCH = 64  # samples drawn together


def cells(config: "Config") -> list[dict]:
    """One cell a network."""
    return catalogue.cells(QUESTION, config)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the fraction of samples with their label, with its interval."""
    judge = judges.judge(DATA)
    for key in todo:
        model = subjects.load(training.model_of(config, key["network"]))
        labels = np.arange(config.samples, dtype=np.int32) % model.card.config.classes
        make_grid = solvers.shifted(1.0)
        plan = solvers.plan_of(SOLVER, model.card.schedule, make_grid, config.sample_steps)
        samples = draw(model, labels, config.guidance, 0, plan, min(BATCH, config.samples))
        correct = judge.correct(samples, labels).astype(float)
        low, high = distances.bootstrap(correct, np.mean, seed=0)
        yield key, {"accuracy": float(np.mean(correct)), "low": low, "high": high}
