"""Guidance between two models, or between two labels of one network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_number
from flowjax.guidance.projection import GuidanceCarry, Projection, linear, projected
from flowjax.guidance.shared import Model, call, checked, holds, is_nan
from flowjax.types import PyTree, Scalar


def combine(
    conditional: Model,
    unconditional: Model,
    scale: Scalar,
    *,
    interval: tuple[Scalar, Scalar] = (0, 1),
    rescale: Scalar = 0.0,
    projection: Projection | None = None,
    channels: int | None = None,
) -> Model:
    """Guidance between two models, such as exact fields of a class and of all data.

        guided = conditional + (w - 1) (conditional - unconditional)

    A weaker second model makes it autoguidance (arXiv:2406.02507). With the same network as second
    model, but with damaged attention or skipped layers, and with w equal to 1 + the published
    scale, it is PAG (arXiv:2403.17377) or STG (arXiv:2411.18664).

    Args:
      conditional, unconditional: models. Their carry is a pair, (carry of the first, carry of the
        second).
      scale: w, a number (also traced) or (B,). Where no sample has w != 1 the second model is not
        evaluated, except under `jax.vmap` over times or scales, which evaluates both branches of
        every choice.
      interval: (low, high); outside of it w is 1 (arXiv:2404.07724). Its ends do not belong to it,
        but 0 and 1 are no limits: by default t = 1 is guided. The time that counts is the one that
        the network receives.
      rescale: 0 to 1, the fraction of `guided std(conditional)/std(guided)` in the result
        (arXiv:2305.08891, eq. 15 and 16).
      projection: a `Projection`. The carry is then a `GuidanceCarry`, and `rescale` acts on the
        data prediction.
      channels: how many of the leading channels, on the last axis, are guided and enter norms and
        standard deviations; the others are those of w = 1. None guides all channels, as diffusers
        does; `forward_with_cfg` of the public DiT and SiT guides 3 of 4.

    Raises:
      ValueError: an interval whose ends are in the wrong order. The model itself raises it for
        shapes of t or w, or for a number of channels, that do not fit, and where momentum needs a
        carry.
    """

    # Without a carry, and with one for each of the two models.
    def alone(x, t, carry):
        first, second = (None, None) if carry is None else carry
        velocity, first = call(conditional, x, t, carry=first)
        return velocity, None if carry is None else (first, second)

    def both(x, t, carry):
        first, second = (None, None) if carry is None else carry
        velocity, first = call(conditional, x, t, carry=first)
        other, second = call(unconditional, x, t, carry=second)
        return velocity, other, None if carry is None else (first, second)

    settings = _Settings("combine", scale, interval, rescale, projection, channels)
    return _guided(settings, both, alone)


def classifier_free(
    network: Callable,
    label: PyTree,
    null_label: PyTree,
    scale: Scalar,
    *,
    interval: tuple[Scalar, Scalar] = (0, 1),
    rescale: Scalar = 0.0,
    projection: Projection | None = None,
    channels: int | None = None,
) -> Model:
    """Classifier-free guidance of one network (arXiv:2207.12598).

        guided = velocity(label) + (w - 1) (velocity(label) - velocity(null_label))

    Both velocities come from one call, on [conditional, null] stacked along the batch.

    Args:
      network: (x, t, label) -> velocity, or with a carry (x, t, label, carry) -> (velocity, carry).
      label: array (B, ...), or a pytree of such arrays (text embeddings and their mask).
      null_label: the label that training put in the place of a dropped label. Its arrays are shaped
        like those of `label`, or lack the batch axis.
      scale, interval, rescale, projection, channels: as in `combine`.

    Returns:
      A model. Where no sample is guided, the network sees B samples and not 2B. A carry is always
      that of 2B samples: with a carry both halves are evaluated in every row.

    Raises:
      ValueError: no null label, and what `combine` refuses. The model itself raises it for a label
        without the batch axis.
    """
    if null_label is None:
        raise ValueError(
            "guidance.classifier_free: null_label is None; give the label that training put in the "
            "place of a dropped one (for DiT and SiT the number of classes), or guide by a weaker "
            "model with guidance.combine."
        )

    # The first half of the batch has the label, the second half the null label.
    def both(x, t, carry):
        batch = len(x)
        labels = jax.tree.map(lambda given, null: _stacked(given, null, batch), label, null_label)
        times = jnp.concatenate([t, t]) if t.ndim else t
        velocity, carry = call(network, jnp.concatenate([x, x]), times, labels, carry=carry)
        return velocity[:batch], velocity[batch:], carry

    def alone(x, t, carry):
        if carry is None:
            return call(network, x, t, label, carry=None)
        # The carry belongs to both halves of the batch, so both must be evaluated.
        velocity, _, carry = both(x, t, carry)
        return velocity, carry

    settings = _Settings("classifier_free", scale, interval, rescale, projection, channels)
    return _guided(settings, both, alone)


# ---- the guided model


class _Settings(NamedTuple):
    """The options of `combine` and `classifier_free`; `name` is the one that was called."""

    name: str
    scale: Scalar
    interval: tuple
    rescale: Scalar
    projection: Projection | None
    channels: int | None


def _guided(settings, both, alone):
    """The guided model.

    Args:
      settings: `_Settings`.
      both: (x, t, carry) -> (conditional velocity, unconditional velocity, carry).
      alone: (x, t, carry) -> (conditional velocity, carry).
    """
    _check_settings(settings)
    never, always = _known_in_advance(settings)

    def guided(x, t, carry=None):
        x, t = checked(settings.name, x, t, settings.scale)
        _check_channels(settings, x)
        _check_momentum(settings, carry)
        weight = _weight(settings, x, t)
        difference, networks = None, carry
        if settings.projection is not None and carry is not None:
            difference, networks = carry

        def with_guidance():
            strong, weak, networks_after = both(x, t, networks)
            velocity, difference_after = _guide(settings, strong, weak, x, t, weight, difference)
            return velocity, difference_after, networks_after

        def without():
            velocity, networks_after = alone(x, t, networks)
            return velocity, difference, networks_after

        # The second velocity is evaluated only where it counts.
        if never:
            found = without()
        elif always:
            found = with_guidance()
        else:
            found = jax.lax.cond(jnp.any(weight != 1), with_guidance, without)

        velocity, difference, networks = found
        if carry is None:
            return velocity
        if settings.projection is None:
            return velocity, networks
        return velocity, GuidanceCarry(difference, networks)

    return guided


def _known_in_advance(settings):
    """(no sample is ever guided, every sample is always guided), where that is known."""
    low, high = settings.interval
    never = holds(np.equal, settings.scale, 1)
    all_times = holds(np.less_equal, low, 0) and holds(np.greater_equal, high, 1)
    always = all_times and holds(np.not_equal, settings.scale, 1)
    return never, always


def _weight(settings, x, t):
    """w inside the interval, 1 outside; a scalar or (B,). The ends 0 and 1 are no limits."""
    # An open interval; by default it includes t = 0 and t = 1.
    low, high = settings.interval
    inside = ((low < t) | (low <= 0)) & ((t < high) | (high >= 1))
    return jnp.where(inside, jnp.asarray(settings.scale, x.dtype), 1)


def _guide(settings, strong, weak, x, t, weight, difference):
    """(guided velocity, running difference) from the conditional and unconditional velocities.

    Channels that are not guided stay those of the conditional velocity, and the running difference
    does not change there.
    """
    guided_channels = (..., slice(settings.channels))
    strong_part, weak_part = strong[guided_channels], weak[guided_channels]
    if settings.projection is None:
        found = linear(strong_part, weak_part, weight, settings.rescale)
        return strong.at[guided_channels].set(found), difference

    # A `Projection` needs the state too, for the data predictions.
    before = None if difference is None else difference[guided_channels]
    found, after = projected(
        settings.projection,
        strong_part,
        weak_part,
        x[guided_channels],
        t,
        weight,
        before,
        settings.rescale,
    )
    if difference is not None:
        difference = difference.at[guided_channels].set(after)
    return strong.at[guided_channels].set(found), difference


# ---- checks


def _stacked(given, null, batch):
    """[given, null] along the batch: (2B, ...)."""
    given = jnp.asarray(given)
    if given.shape[:1] != (batch,):
        raise ValueError(
            f"guidance.classifier_free: a label has shape {given.shape}; wanted ({batch}, ...)."
        )
    null = jnp.broadcast_to(jnp.asarray(null, given.dtype), given.shape)
    return jnp.concatenate([given, null])


def _check_settings(settings):
    """Refuse numbers that would make every state NaN, or a picture of nothing, without a word."""
    name = f"guidance.{settings.name}"
    check_number(name, "scale", settings.scale)
    check_number(name, "rescale", settings.rescale, 0, 1)
    try:
        low, high = settings.interval
    except (TypeError, ValueError):
        raise ValueError(f"{name}: interval={settings.interval!r}; wanted (low, high).") from None
    if is_nan(low) or is_nan(high):
        raise ValueError(f"{name}: interval={settings.interval!r}; wanted numbers, low < high.")
    if holds(np.greater, low, high):
        raise ValueError(
            f"guidance.{settings.name}: interval={settings.interval!r} is inverted; wanted (low, "
            "high) with low < high."
        )


def _check_channels(settings, x):
    channels = settings.channels
    if channels is None:
        return
    is_whole = isinstance(channels, (int, np.integer)) and not isinstance(channels, bool)
    if not is_whole or not 1 <= channels <= x.shape[-1]:
        raise ValueError(
            f"guidance.{settings.name}: channels={channels!r}; wanted 1 to {x.shape[-1]}, or None "
            "for all."
        )


def _check_momentum(settings, carry):
    projection = settings.projection
    if carry is None and projection is not None and not holds(np.equal, projection.momentum, 0):
        raise ValueError(
            f"guidance.{settings.name}: momentum needs a carry; pass carry=projection.start(noise)."
        )
