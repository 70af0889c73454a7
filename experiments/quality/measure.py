"""The rows of the quality experiment: one for each data set, one for each model and scale."""

import base64
import functools
import io
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

import flowjax
from experiments.cli import images
from experiments.cli.run import progress
from experiments.lab import solvers
from experiments.quality import judges
from flowjax import Plan, data, distances, guidance, models, records

QUESTION = "quality"
SHOWN = 8  # samples of a class in a grid
PAIRS = 12  # samples that are shown above their nearest images
FLOOR_SEEDS = 8  # pairs of draws of the data, at least
DISTANCES = {"frechet": distances.frechet, "kid": distances.kid}


# ---- cells


def cells(config: Any) -> list[dict]:
    """One cell a model for its data, and one a model and scale."""
    found = []
    for name in config.networks:
        found.append({"question": QUESTION, "part": "data", "model": name})
        for scale in config.scales:
            key = {"question": QUESTION, "part": "samples", "model": name, "scale": scale}
            found.append(key)
    return found


def check(config: Any) -> None:
    """Refuse what cannot be measured, before anything is drawn."""
    solvers.check("solver", [config.solver], [solvers.shifted(1.0)], [config.nfe])
    if min(config.seeds, config.samples) < 2:
        raise ValueError(
            f"quality: seeds={config.seeds}, samples={config.samples}; wanted two or more of each."
        )
    for name in config.networks:
        found = data.load(judges.data_of(name))
        if any(scale != 1 for scale in config.scales):
            _ = judges.load(name).card.null_label  # it refuses a network without one
        classes = len(found.classes)
        if config.samples < classes:
            raise ValueError(
                f"quality: samples={config.samples} is less than one for each of the {classes} "
                f"classes of {name}."
            )
        if config.samples + config.reference > len(found):
            raise ValueError(
                f"quality: samples={config.samples} and reference={config.reference} are more than "
                f"the {len(found)} images of {name}, and the floor wants as many different ones; "
                "lower one of them."
            )


def run(config: Any, workdir: str | os.PathLike) -> list[dict]:
    """Measure the cells that `workdir` has no rows of, and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    todo = [key for key in cells(config) if not kept.done(key)]
    for key in progress(todo, _cell_text):
        measure = of_data if key["part"] == "data" else of_samples
        kept.add(key, **measure(config, key))
    return kept.rows


def _cell_text(key: dict) -> str:
    return ", ".join(str(value) for value in key.values())


# ---- samples


def draw(
    model: models.Model,
    labels: np.ndarray,
    scale: float,
    seed: int,
    plan: Plan,
    batch: int,
) -> np.ndarray:
    """Samples (B, H, W, C) of the labels (B,), in batches of one size.

    Args:
      model: the network.
      labels: (B,) integers.
      scale: of classifier-free guidance.
      seed: the noise of sample i depends on (seed, i).
      plan: the solver.
      batch: samples drawn together.
    """
    card = model.card
    shape = (*card.config.size, card.config.channels)
    run = _program(card.kind)
    # Without guidance the null label is never evaluated, and the network need not have one.
    null = np.int32(card.null_label if scale != 1 else 0)
    made = []
    for first in range(0, len(labels), batch):
        # The last batch is filled up, so that the program stays the same; the rest is dropped.
        ids = np.arange(first, first + batch)
        noise = flowjax.draw_noise(jax.random.key(seed), ids, shape)
        label = np.resize(labels[first:], batch)
        made.append(np.asarray(run(model.params, noise, label, null, scale, plan)))
    return np.concatenate(made)[: len(labels)]


@functools.cache
def _program(kind: tuple) -> Callable:
    """The compiled sampler of networks of one kind: (params, noise, label, null label, scale, plan)
    -> samples.

    Args:
      kind: of the card.
    """
    card = models.Card("quality", *kind)

    @jax.jit
    def sample(params: Any, noise: Any, label: Any, null: Any, scale: Any, plan: Plan) -> jax.Array:
        def network(x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
            return card.velocity(params, x, t, label)

        model = guidance.classifier_free(network, label, null, scale)
        return flowjax.sample(model, noise, plan).x

    return sample


# ---- values


def of_data(config: Any, key: dict) -> dict:
    """The values of a data set: the numbers that its own images give."""
    judge = judges.judge(judges.data_of(key["model"]))
    every = np.arange(len(judge.images))
    seen = np.setdiff1d(every, judge.unseen)
    first, second, _ = judges.neighbours(judge.images, judge.images, own=every)

    def accuracy(chosen: np.ndarray) -> float:
        return float(np.mean(judge.correct(judge.images[chosen], judge.labels[chosen])))

    values = {
        "accuracy": accuracy(judge.unseen),
        "accuracy_seen": accuracy(seen),
        "nearest": float(np.median(first)),
        "copies": float(np.mean(judges.copies(first, second))),
        "images": len(first),
    }

    # The floor of a distance: its mean over two draws of the data.
    features = judge.features(judge.images)

    def draw_features(seed: int, count: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(features)[:count]

    sizes = (config.samples, config.reference)
    for name, distance in DISTANCES.items():
        seeds = range(max(config.seeds, FLOOR_SEEDS))
        floor = distances.floor(distance, draw_features, sizes, seeds=seeds)
        values |= {name: floor.mean, f"{name}_sd": floor.sd}
    return values


def of_samples(config: Any, key: dict) -> dict:
    """The values of one model and scale."""
    model = judges.load(key["model"])
    judge = judges.judge(judges.data_of(key["model"]))
    classes = model.card.config.classes

    # The samples, seed by seed; labels go round the classes.
    plan = solvers.plan_of(config.solver, model.card.schedule, solvers.shifted(1.0), config.nfe)
    labels = np.arange(config.samples, dtype=np.int32) % classes
    by_seed = [
        draw(model, labels, key["scale"], seed, plan, config.batch) for seed in range(config.seeds)
    ]
    every = np.concatenate(by_seed)
    seed = np.repeat(np.arange(config.seeds), config.samples)

    # Classes, and neighbours in the data.
    correct = judge.correct(every, np.tile(labels, config.seeds)).astype(float)
    first, second, nearest = judges.neighbours(every, judge.images)
    is_copy = judges.copies(first, second).astype(float)
    values = {
        **_mean("accuracy", correct, seed),
        **_mean("copies", is_copy, seed),
        "nearest": float(np.median(first)),
        "samples": len(every),
    }

    # Distances to as many images of the data as the floor has.
    features = judge.features(judge.images)
    for name, distance in DISTANCES.items():
        each = []
        for s, samples in enumerate(by_seed):
            reference = np.random.default_rng(s).permutation(features)[: config.reference]
            each.append(distance(judge.features(samples), reference))
        values |= {name: float(np.mean(each)), f"{name}_sd": float(np.std(each, ddof=1))}

    # Pictures: a row a class, and samples above their nearest images.
    columns = min(SHOWN, config.samples // classes)
    shown = np.concatenate([by_seed[0][labels == c][:columns] for c in range(classes)])
    pairs = np.concatenate([every[:PAIRS], judge.images[nearest[:PAIRS]]])
    return {
        **values,
        "grid": _png(images.grid(shown, columns)),
        "neighbours": _png(images.grid(pairs, PAIRS)),
    }


def _mean(name: str, values: np.ndarray, seed: np.ndarray) -> dict[str, float]:
    """The mean of zeros and ones with its 95 % interval, over seeds, then samples."""
    low, high = distances.bootstrap(values, np.mean, seed=0, groups=seed)
    return {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}


def _png(array: np.ndarray) -> str:
    """(H, W, 3) bytes as a PNG in base64, as a row can hold it."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
