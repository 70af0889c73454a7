"""What a configuration of training names: data, network, optimizer, devices and random numbers."""

import functools
import pathlib
from typing import Any

import jax
import optax

import flowjax
from experiments.cli.run import check_names
from flowjax import data, models, seeds, train
from flowjax.errors import check_choice


def _sana(heads: int, **sizes: Any) -> models.SanaConfig:
    return models.SanaConfig(heads=heads, cross_heads=heads, interpolation=1.0, **sizes)


SCHEDULES = {"linear": flowjax.Linear(), "cosine": flowjax.Cosine()}
# A SANA has places of tokens here, as in its 2K and 4K networks: small ones need them.
NETWORKS = {"dit": models.DiTConfig, "sana": _sana}
# One stream of random numbers for each purpose, of the one seed.
STREAMS = {"parameters": 0, "training": 1, "samples": 2, "pairs": 3}


def key_of(config: Any, stream: str) -> jax.Array:
    """The key of one purpose, a name in STREAMS."""
    return jax.random.fold_in(seeds.key(config.seed), STREAMS[stream])


def check(config: Any) -> None:
    """Refuse names that are not known and sizes that do not fit, before anything is written."""
    check_names("schedule", config.schedule, SCHEDULES)
    check_names("coupling", config.coupling, data.COUPLINGS)
    check_names("times", config.times, train.TIMES)
    # The batch over the devices.
    devices = len(devices_of(config.devices))
    train.check_split(config.batch, devices, config.microbatches)
    if config.label_dropout == 0 and config.guidance != 1:
        raise ValueError(
            "train: label_dropout=0 trains no null label, and the pictures of training with "
            f"guidance={config.guidance} need it; give guidance=1, or a label_dropout above 0."
        )
    # The images of a reflow are made in the run, by the teacher.
    if config.coupling == "reflow":
        teacher = load_teacher(config.teacher)
        wants_null = config.pair_guidance != 1 or config.label_dropout > 0
        if wants_null and not teacher.card.config.has_null:
            raise ValueError(
                f"train: the teacher {config.teacher} was trained without a null label, which "
                f"pair_guidance={config.pair_guidance} and label_dropout={config.label_dropout} "
                "need; give pair_guidance=1 and label_dropout=0, or another teacher."
            )
    else:
        held = load_data(config.data, config.size)
        batches_of(config, held)
        make_card(config, held)


@functools.lru_cache(maxsize=1)
def load_data(name: str, size: int) -> data.Data:
    """The data set of a configuration, read once for its checks and for the run."""
    return data.load(name, size=size or None)


def load_teacher(name: str) -> models.Model:
    """The model that makes the pairs of reflow."""
    try:
        return models.load(name)
    except FileNotFoundError as error:
        raise ValueError(f"train: coupling 'reflow' needs a teacher. {error}") from error


def batches_of(config: Any, held: data.Data) -> data.Batches:
    """The batches of a run."""
    return data.Batches(held, config.batch, config.seed, config.coupling, config.pool, config.flip)


def make_card(config: Any, held: data.Data) -> models.Card:
    """The card of the network that `config` trains on the data `held`."""
    check_choice("train", "schedule", config.schedule, SCHEDULES)
    check_choice("train", "network", config.network, NETWORKS)
    # The data give the size, the channels and the classes.
    sizes = NETWORKS[config.network](
        size=held.images.shape[1:3],
        channels=held.images.shape[3],
        patch=config.patch,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        classes=len(held.classes),
        # A null label that no step trains would be random.
        has_null=config.label_dropout > 0,
        dtype=None if config.dtype == "float32" else config.dtype,
    )
    name = pathlib.Path(held.name).stem
    schedule = SCHEDULES[config.schedule]
    return models.Card(name, sizes, schedule, config.prediction, config.clock, config.clock_scale)


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """`config.optimizer()` where a configuration defines one, else `flowjax.train.adamw`."""
    if hasattr(config, "optimizer"):
        return config.optimizer()
    names = ("learning_rate", "warmup", "weight_decay", "clip")
    return train.adamw(config.steps, **{name: getattr(config, name) for name in names})


def devices_of(count: int) -> list[jax.Device]:
    """The first devices that JAX has, or all of them where `count` is 0."""
    there = jax.devices()
    if count > len(there):
        raise ValueError(
            f"train: devices={count}, and there are {len(there)}; 0 takes all of them."
        )
    return there[: count or len(there)]
