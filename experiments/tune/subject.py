"""What is tuned: a network at a guidance scale with labels, or an exact field, by one interface."""

import dataclasses
import functools
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from configs.tune import Config
from experiments.cli.embeddings import Texts, texts_of
from experiments.lab import own, subjects
from flowjax import Linear, Plan, grids, models, plans
from flowjax.models.weights import SHIPPED
from flowjax.schedules import Schedule, Straight, straight
from flowjax.schedules.base import expand

EXACT = "exact-"  # before the name of a field that a network has too: "exact-digits"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidedNetwork:
    """A network at a fixed guidance scale, bound to labels, on the straight path of its own.

    In contrast to `subjects.NetworkField` the scale is static, so that a scale of 1 costs one
    evaluation a row and not two; and a network of another path than the linear one is asked on the
    straight path with the same data and noise (`flowjax.schedules.straight`), where its velocity is
    finite at both ends.

    Attributes:
      params: the tree of parameters.
      label: (B,) integers, or a `Condition`.
      scale: of classifier-free guidance.
      kind: what a `Card` states about the computation, its `kind`.
    """

    params: Any
    label: Any
    scale: float = dataclasses.field(metadata={"static": True})
    kind: tuple = dataclasses.field(metadata={"static": True})

    def velocity(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Guided velocity (B, H, W, C) on the path `schedule`."""
        about = (self.params, self.label, self.scale, self.kind)
        if isinstance(self.schedule, Linear):
            return subjects.guided_velocity(*about, x, t)
        # The network receives its own state and time.
        own_time = self.schedule.source_time(jnp.asarray(t, x.dtype))
        own_state = expand(self.schedule.scale(own_time), x) * x
        prediction = subjects.guided_velocity(*about, own_state, own_time, as_predicted=True)
        return self.schedule.velocity_of(self.kind[2], prediction, own_state, own_time)

    @property
    def schedule(self) -> Schedule:
        """The straight path of the network's own path; a linear one is its own."""
        return straight(self.kind[1])


class Subject(NamedTuple):
    """A model to tune for.

    Attributes:
      name: as the configuration has it.
      guidance: the scale; 1 for exact fields.
      field: the exact field, or a `GuidedNetwork` without labels.
      shape: *D of a sample.
      dtype: of starts and states.
      classes: how many labels or texts there are; 0 for exact fields.
      texts: of a network that draws for texts, the `Condition` of all of them; else None.
    """

    name: str
    guidance: float
    field: Any
    shape: tuple[int, ...]
    dtype: type
    classes: int
    texts: models.Condition | None = None

    @property
    def is_network(self) -> bool:
        """Whether it has labels or texts, and an error of its own."""
        return self.classes > 0

    @property
    def schedule(self) -> Schedule:
        """The path on which it is asked, see `GuidedNetwork`."""
        return self.field.schedule

    @property
    def own_schedule(self) -> Schedule:
        """The path that a network was trained on, and on which it is sampled."""
        return self.field.kind[1] if self.is_network else self.schedule

    def own_starts(self, seed: int, count: int) -> np.ndarray:
        """Noise (count, *D) on `own_schedule`; start i depends on the seed, i and 64-bit mode."""
        drawn = flowjax.draw_noise(jax.random.key(seed), np.arange(count), self.shape)
        return np.asarray(drawn, self.dtype)

    def starts(self, seed: int, count: int) -> np.ndarray:
        """The states (count, *D) on `schedule` at which the same noise begins."""
        noise = self.own_starts(seed, count)
        if not isinstance(self.schedule, Straight):
            return noise
        return noise / self.dtype(self.schedule.scale(1.0))

    def grid(self, steps: int, shift: float = 1.0) -> np.ndarray:
        """The uniform grid (steps+1,) in the network's own time, as times of `schedule`."""
        times = grids.uniform(steps, shift=shift)
        if not isinstance(self.schedule, Straight):
            return times
        return self.schedule.time_of_source(times)

    def own_plan(self, plan: Plan) -> Plan:
        """A plan of `schedule` as the plan with which the network is sampled on its own path."""
        return self._converted(plan, self.schedule, self.own_schedule)

    def plan_of_own(self, plan: Plan) -> Plan:
        """A plan of the network's own path as one of `schedule`."""
        return self._converted(plan, self.own_schedule, self.schedule)

    def _converted(self, plan: Plan, source: Schedule, target: Schedule) -> Plan:
        # One path for both keeps the plan to the last bit.
        return plan if source == target else plans.on_path(plan, source, target)

    def labels(self, count: int) -> Any:
        """Labels (count,), or a `Condition`, that go round the classes; None for exact fields."""
        if not self.classes:
            return None
        numbers = np.arange(count, dtype=np.int32) % self.classes
        if self.texts is None:
            return numbers
        return jax.tree.map(lambda leaf: leaf[numbers], self.texts)

    def bound(self, count: int, first: int = 0) -> Any:
        """The field with velocity(x, t) for `count` samples, which have the labels from `first`."""
        return self._with(jax.tree.map(lambda leaf: leaf[first:], self.labels(first + count)))

    def velocity(self, x: jax.Array, t: jax.Array, label: Any = None) -> jax.Array:
        """Velocity (B, *D), with the labels as the condition: what `flowjax.tune` calls."""
        return self._with(label).velocity(x, t)

    def starts_of(self, config: Config) -> tuple[int, int, int]:
        """(starts for tuning, unseen starts, Runge-Kutta steps) of this kind of model."""
        kind = "network" if self.is_network else "field"
        sizes = ("starts", "unseen", "reference")
        return tuple(getattr(config, f"{kind}_{size}") for size in sizes)

    def in_bfloat16(self) -> "Subject":
        """The network with its matrices multiplied in bfloat16."""
        kind = self.field.kind
        # States and weights of the table stay in float32, as when a model is sampled.
        half = dataclasses.replace(kind[0], dtype="bfloat16")
        return self._replace(field=dataclasses.replace(self.field, kind=(half, *kind[1:])))

    def _with(self, label: Any) -> Any:
        return dataclasses.replace(self.field, label=label) if self.is_network else self.field


def subject(config: Config, name: str, guidance: float = 1.0) -> Subject:
    """The `Subject` of a name; it is made once.

    Args:
      config: says whether networks run in float64.
      name: a network's name or folder, or a field's name, see configs/tune.py.
      guidance: of a network.

    Raises:
      ValueError: the name is not known.
    """
    return of(name, float(guidance), bool(config.float64), config.embeddings)


@functools.cache
def of(name: str, guidance: float, float64: bool, embeddings: str) -> Subject:
    """The `Subject` of a name, from what it depends on.

    Args:
      name, guidance: as in `subject`.
      float64: whether a network runs in float64.
      embeddings: the file of the texts, for a network that draws for texts.
    """
    # Exact fields show errors below those of float32, so they are always in float64.
    if not is_network(name):
        field = _field(name)
        shape = tuple(subjects.sample_shape(field))
        return Subject(name, 1.0, field, shape, np.float64, 0)
    card = _network(name)
    texts = _texts(card, guidance, embeddings)
    classes = card.config.classes if texts is None else len(texts.prompts)
    # Networks in the type that they run in; tuning to their rounding errors is no use.
    dtype = np.float64 if float64 else np.float32
    field = GuidedNetwork(subjects.load(name).params, None, guidance, card.kind)
    shape = subjects.image_shape(name)
    of_texts = None if texts is None else texts.condition
    return Subject(name, guidance, field, shape, dtype, classes, of_texts)


def _network(name: str) -> models.Card:
    """The card of a network; ValueError for an autoencoder."""
    found = subjects.load(name)
    if not isinstance(found, models.Model):
        raise ValueError(f"{name} is an autoencoder by itself; give the folder of a network.")
    return found.card


def _texts(card: models.Card, guidance: float, embeddings: str) -> Texts | None:
    """The texts that a network draws for, without negative ones where there is no guidance."""
    texts = texts_of(card, guidance, embeddings)
    if texts is None or guidance != 1:
        return texts
    return texts._replace(condition=texts.condition._replace(negative=None, negative_mask=None))


def is_network(name: str) -> bool:
    """Whether a name means a network: one that is shipped, or a path."""
    return name in SHIPPED or os.path.exists(name)


def _field(name: str) -> Any:
    """The exact field of a name of the configuration, see configs/tune.py."""
    if own.is_own(name):
        return subjects.make_field(name)
    width = re.fullmatch(r"ring-(\d*\.?\d+)", name)
    if width:
        return subjects.make_field("ring", std=float(width[1]))
    # A network may have the name of a data set: its exact field then has a prefix.
    # Hyphens, since a command line without quotes has no spaces.
    plain = name.removeprefix(EXACT)
    spaced = plain.replace("-", " ")
    return subjects.make_field(spaced if spaced in subjects.FIELDS else plain)


def slug(name: str) -> str:
    """A name as a part of a file's name; of a folder its last part."""
    return re.sub(r"[^\w.-]+", "-", pathlib.Path(name).name)


def models_of(config: Config) -> tuple[str, ...]:
    """The models that are asked for: `model` in the place of `models`."""
    return (config.model,) if config.model else config.models


def scales_of(config: Config, name: str) -> tuple[float, ...]:
    """The guidance scales of a model: those of the configuration for a network, 1 for a field."""
    if is_network(name):
        return tuple(float(scale) for scale in config.guidance)
    return (1.0,) if 1.0 in config.guidance else ()


def check(config: Config, option: str, names: tuple[str, ...], guided: bool = True) -> None:
    """Refuse models, guidance and numbers of steps that cannot be measured.

    Args:
      config: the configuration.
      option: the field that has the names.
      names: models.
      guided: whether the question takes its scales from `config.guidance`.

    Raises:
      ValueError: in one sentence, before anything is measured.
    """
    if guided:
        _check_scales(config)
    # Making a subject is cheap for fields, and reads a checkpoint for networks.
    for name in names:
        try:
            subject(config, name)
        except (ValueError, FileNotFoundError) as error:
            shipped = ", ".join(SHIPPED)
            raise ValueError(
                f"--config.{option}: {name!r} is neither a network ({shipped}, or a path) nor "
                f"an exact field: {error}"
            ) from error
        if guided and not scales_of(config, name):
            raise ValueError(
                f"--config.guidance: {name!r} is an exact field and has no labels; wanted 1 among "
                f"the scales {tuple(config.guidance)}."
            )


def _check_scales(config: Config) -> None:
    for scale in config.guidance:
        if not math.isfinite(scale) or scale < 0:
            raise ValueError(
                f"--config.guidance: {scale!r}; wanted a finite number of at least 0, and 1 is no "
                "guidance."
            )


def check_steps(option: str, steps: tuple[int, ...], least: int = 2) -> None:
    """Refuse numbers of evaluations that are too few for a table."""
    if not steps or min(steps) < least:
        raise ValueError(
            f"--config.{option}: {tuple(steps)}; wanted numbers of evaluations of at least {least}."
        )
