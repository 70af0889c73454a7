"""Subjects by name: exact fields, and trained networks bound to labels and a guidance scale."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from experiments.lab import own
from flowjax import Linear, fields, guidance, models
from flowjax.errors import suggestion
from flowjax.schedules import Schedule

# ---- fields

# Each with the options that the questions use.
FIELDS = {
    "ring": fields.ring,
    "two points": functools.partial(fields.two_points, distance=4.0, std=0.1),
    "power law": functools.partial(fields.power_law, dim=64, exponent=2.0),
    "digits": functools.partial(fields.digits, bandwidth=0.1),
    "emoji": functools.partial(fields.emoji, bandwidth=0.1, chunk=512),
}
MIXTURE = "mixture-"  # the beginning of "mixture-16", a random mixture in 16 dimensions
NEEDED = ("velocity", "schedule", "nearest")  # what a field of one's own must have


def _mixture_dimension(name: str) -> int | None:
    """16 of "mixture-16", None of every other name."""
    dimension = name.removeprefix(MIXTURE)
    return int(dimension) if name.startswith(MIXTURE) and dimension.isdecimal() else None


def make_field(name: str, schedule: Schedule | None = None, **options: Any) -> Any:
    """The field of a name.

    Args:
      name: one of `FIELDS`, "mixture-D" for a random mixture in D dimensions, or `module:name` for
        a function of your own, schedule -> field.
      schedule: of the path; linear by default.
      **options: of the field, for example `std` of the ring.

    Raises:
      ValueError: the name is not known, or a field of one's own lacks an attribute.
    """
    schedule = schedule or Linear()
    if own.is_own(name):
        return _own_field(name, schedule, options)
    dimension = _mixture_dimension(name)
    if dimension:
        return fields.random_mixture(0, schedule, dim=dimension, **options)
    if name not in FIELDS:
        raise ValueError(
            f"{name!r} is not known; {suggestion(name, [*FIELDS, f'{MIXTURE}D'])} "
            "A field of your own is module:name."
        )
    return FIELDS[name](schedule, **options)


def _own_field(name: str, schedule: Schedule, options: dict) -> Any:
    """The field that a function of the user returns, or a ValueError that says what it lacks."""
    function = own.load(name, "a function (schedule) -> field")
    if not callable(function):
        raise ValueError(
            f"{name!r} is a {type(function).__name__}; wanted a function (schedule) -> field."
        )
    field = function(schedule, **options)
    # The questions read these attributes.
    missing = [attribute for attribute in NEEDED if not hasattr(field, attribute)]
    if not (hasattr(field, "means") or hasattr(field, "samples")):
        missing.append("means or samples")
    if missing:
        raise ValueError(
            f"{name!r} returned a {type(field).__name__} without {', '.join(missing)}; a field "
            "has velocity(x, t), "
            "schedule, nearest(x), and means (K, *D) or samples (K, *D)."
        )
    return field


def sample_shape(field: Any) -> tuple[int, ...]:
    """D, the shape of one sample of a mixture or of a data set."""
    return field.means.shape[1:] if hasattr(field, "means") else field.samples.shape[1:]


def check_fields(option: str, names: Iterable[str]) -> None:
    """Refuse a name that is no field; `option` is where the configuration has the names."""
    for name in names:
        # The digits and the emoji take time to make, and their names are right.
        if name in FIELDS:
            continue
        try:
            make_field(name)
        except ValueError as error:
            raise ValueError(f"--config.{option}: {error}") from error


# ---- networks

load = functools.cache(models.load)


def guided_velocity(
    params: Any,
    label: Any,
    scale: Any,
    kind: tuple,
    x: jax.Array,
    t: jax.Array,
    *,
    as_predicted: bool = False,
) -> jax.Array:
    """Guided velocity (B, H, W, C) of a network.

    Args:
      params, label, scale, kind: as in `NetworkField`; a scale that is a Python number 1 leaves out
        the evaluation for the null label.
      x: (B, H, W, C).
      t: scalar or (B,).
      as_predicted: guide and return what the network predicts, in the place of the velocity.
    """
    # The card is rebuilt here, since only hashable parts of it can be static.
    card = models.Card("subject", *kind)
    evaluate = card.predict if as_predicted else card.velocity

    def network(x: jax.Array, t: jax.Array, label: Any) -> jax.Array:
        return evaluate(params, x, t, label)

    # A network that draws for texts may have no negative ones, where there is no guidance.
    if isinstance(scale, float) and scale == 1:
        return network(x, t, label)
    return guidance.classifier_free(network, *card.branches(label), scale)(x, t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NetworkField:
    """A network bound to labels and a guidance scale.

    Networks of one size share their compiled programs, and so do scales.

    Attributes:
      params: the tree of parameters.
      label: (B,) integers.
      scale: of classifier-free guidance.
      kind: what a `Card` states about the computation, its `kind`.
    """

    params: Any
    label: Any
    scale: Any
    kind: tuple = dataclasses.field(metadata={"static": True})

    def velocity(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Guided velocity (B, H, W, C)."""
        return guided_velocity(self.params, self.label, self.scale, self.kind, x, t)

    @property
    def schedule(self) -> Schedule:
        """The path that the network was trained on."""
        return self.kind[1]


def make_network(name: str, scale: float, count: int) -> NetworkField:
    """The guided field of network `name` for `count` samples, whose labels go round the classes."""
    # Labels go round, so that each class is as frequent as another, to one.
    model = load(name)
    card = model.card
    label = np.arange(count, dtype=np.int32) % card.config.classes
    return NetworkField(model.params, label, np.float64(scale), card.kind)


def image_shape(name: str) -> tuple[int, ...]:
    """(H, W, C) of the images of network `name`."""
    size = load(name).card.config
    return (*size.size, size.channels)


def check_networks(option: str, names: Iterable[str]) -> None:
    """Refuse a network that is not there; `option` is where the configuration has the names."""
    for name in names:
        try:
            load(name)
        except FileNotFoundError as error:
            raise ValueError(f"--config.{option}: {name!r}: {error}") from None
