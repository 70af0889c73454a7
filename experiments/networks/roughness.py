"""Roughness: second differences of each network's velocity, in time alone and in state alone."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from experiments.networks import catalogue, training
from experiments.networks.catalogue import check
from experiments.order import clock

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTION", "STEPS", "cells", "check", "falls", "measure"]

QUESTION = "roughness"
STEPS = (20, 40, 80)  # 1/h at which a fall is read: from h to h/2


def cells(config: "Config") -> list[dict]:
    """One cell a network."""
    return catalogue.cells(QUESTION, config)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the second differences by step (see `experiments.order.clock`)."""
    for key in todo:
        name = training.model_of(config, key["network"])
        yield key, {"differences": clock.network_differences(name)}


def falls(row: dict, steps: int) -> dict[str, float]:
    """{moved: by how much halving a step of 1/steps divides its second difference}; 4 is smooth."""
    return clock.shrinkage(row, 1 / steps)
