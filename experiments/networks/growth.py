"""Growth: the push from which an error of copies grows from row to row, on each network."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from experiments.lab import subjects
from experiments.networks import catalogue, training
from experiments.networks.catalogue import NETWORKS, check
from experiments.staleness.loop import gain, threshold

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTION", "cells", "check", "measure"]

QUESTION = "growth"
READ = ("push", "push_low", "push_high")  # the ends are those of the bisection


def cells(config: "Config") -> list[dict]:
    """One cell a network with softmax attention: the loop is that of its keys and values."""
    names = [name for name in config.networks if NETWORKS[name].changes.get("network") != "sana"]
    return [key for key in catalogue.cells(QUESTION, config) if key["network"] in names]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the threshold with all layers stale, see `experiments.staleness.loop`.

    It is infinite where no forecast that is tried lets the loop grow.
    """
    for key in todo:
        name = training.model_of(config, key["network"])
        depth = subjects.load(name).card.config.depth
        cell = {"network": name, "layers": depth, "steps": gain.STEPS}
        ((_, values),) = threshold.measure(config, [cell])
        yield key, {field: values[field] for field in READ}
