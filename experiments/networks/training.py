"""Training: each network in a folder of its own, and the row of its loss."""

import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from configs import train_digits
from experiments import train
from experiments.networks import catalogue
from experiments.networks.catalogue import NETWORKS, check, command_of, training_of
from flowjax import models
from flowjax.records import Records, read

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTION", "cells", "check", "final_loss", "measure", "model_of"]

QUESTION = "training"
LAST = 100  # steps over which the final loss is the mean
# What a training leaves that is not needed once its model is written.
LEFT_OVER = ("checkpoints", "pairs.npz", "samples.png")


def cells(config: "Config") -> list[dict]:
    """One cell a network."""
    return catalogue.cells(QUESTION, config)


def model_of(config: "Config", name: str) -> str:
    """The folder, or the name, of network `name`; it is trained here if it was not yet.

    The folder WORKDIR/networks/NAME keeps model/ and the rows of its training. A training that was
    interrupted goes on from its newest checkpoint.
    """
    if NETWORKS[name].is_shipped:
        return name
    folder = pathlib.Path(config.folder) / name
    given = training_of(config, name)
    if not (_records(folder, given).finished and (folder / "model").exists()):
        command = command_of(given, str(folder))
        train.run(given, folder, command=command)
        Records(folder, given).finish({"command": command})
    # Also after a kill between the mark of success and this line.
    for left in LEFT_OVER:
        _remove(folder / left)
    return str(folder / "model")


def _records(folder: pathlib.Path, given: train_digits.Config) -> Records:
    """The rows of a training, which another configuration must not have made."""
    try:
        return Records(folder, given)
    except ValueError as error:
        # --overwrite forgets rows of this experiment and no trained network.
        raise ValueError(
            f"networks: {folder} holds another training than this run wants; remove the folder, "
            f"or give another --config.folder. {error}"
        ) from error


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def final_loss(rows: list[dict]) -> float:
    """The mean loss of the rows of the last `LAST` steps."""
    last = max(row["step"] for row in rows)
    return float(np.mean([row["loss"] for row in rows if row["step"] > last - LAST]))


def _loss_of(config: "Config", name: str, details: dict) -> float:
    """The final loss of a network; a shipped one has that of its last row, 20 steps."""
    if NETWORKS[name].is_shipped:
        return details["loss"]
    folder = pathlib.Path(config.folder) / name
    return final_loss(read(folder))


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the final loss, and what made the network."""
    for key in todo:
        name = key["network"]
        model = models.load(model_of(config, name))
        details = model.card.details
        values = {
            "loss": _loss_of(config, name, details),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
            "training_seconds": details["seconds"],
            "trained_on": details["environment"]["device_kind"],
            "command": details["command"],
        }
        yield key, values
