"""Guidance: functions that make a model from models, so that every sampler takes the result.

With w the scale, and two velocities of one state, `conditional` and `unconditional` (or those of a
strong and a weak model),

    guided = conditional + (w - 1) (conditional - unconditional)

so that w = 1 is conditional and w = 0 unconditional. This is classifier-free guidance
(arXiv:2207.12598), whose own w is ours less 1. Every prediction is p x + q velocity, with one p and
one q for both models, so guiding the velocity, the noise or the data is the same. `Projection` and
`rescale` are not linear: `Projection` acts on the data prediction, and `rescale` without it on the
velocity.

A model is (x, t) -> velocity (B, *D), or (x, t, carry) -> (velocity, carry); `t` is a scalar or
(B,). A model that is made here takes both forms: it returns a carry when it is given one. Norms,
standard deviations and quantiles are those of one sample, over all its axes. The NFE stays the
number of rows, although a guided row costs two evaluations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.schedules import Schedule
from flowjax.types import Array, PyTree, Scalar

# (x, t) -> velocity, or (x, t, carry) -> (velocity, carry).
Model = Callable[..., Any]


class GuidanceCarry(NamedTuple):
    """The carry of a model that is guided with a `Projection`.

    Attributes:
      difference: (B, *D) the running difference of the two data predictions.
      networks: the carry of the networks, or None.
    """

    difference: jax.Array
    networks: PyTree = None


@dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance, APG (arXiv:2410.02416, algorithm 1).

    It weakens the part of guidance that saturates. On data predictions, with d = conditional -
    unconditional:

        d <- d + momentum d_before
        e = d min(1, threshold/|d|)
        along = <e, conditional>/|conditional|^2 conditional
        guided = conditional + (w - 1) (e - along + eta along)

    A momentum of 0, no threshold and eta = 1 give classifier-free guidance. The paper takes eta = 0
    and a momentum of -0.5 or -0.75. With momentum the sampler needs
    `carry=projection.start(noise)`: d_before is stored there, before it is shortened to the
    threshold, and does not change where a sample is not guided. The norm is over all axes of a
    sample (some codes offer the two image axes alone).

    Args:
      schedule: gives the data prediction. Where that does not depend on the velocity (t = 0) there
        is no guidance.
      momentum: the factor of d_before.
      threshold: the largest norm of d, in units of the data, or None for no limit.
      eta: the factor of the part along the conditional prediction.
    """

    schedule: Schedule
    momentum: Scalar = 0.0
    threshold: Scalar | None = None
    eta: Scalar = 1.0

    def __post_init__(self):
        if self.threshold is not None and _holds(np.less_equal, self.threshold, 0):
            raise ValueError(
                f"guidance.Projection: threshold={self.threshold!r}; wanted a number above 0, or "
                "None for no limit."
            )

    def start(self, noise: jax.Array, networks: PyTree = None) -> GuidanceCarry:
        """The carry to begin with.

        Args:
          noise: (B, *D) states like those that are sampled.
          networks: the carry of the networks, if they have one.
        """
        dtype = jnp.promote_types(noise.dtype, jnp.float32)
        return GuidanceCarry(jnp.zeros(noise.shape, dtype), networks)


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
        velocity, first = _call(conditional, x, t, carry=first)
        return velocity, None if carry is None else (first, second)

    def both(x, t, carry):
        first, second = (None, None) if carry is None else carry
        velocity, first = _call(conditional, x, t, carry=first)
        other, second = _call(unconditional, x, t, carry=second)
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
        velocity, carry = _call(network, jnp.concatenate([x, x]), times, labels, carry=carry)
        return velocity[:batch], velocity[batch:], carry

    def alone(x, t, carry):
        if carry is None:
            return _call(network, x, t, label, carry=None)
        # The carry belongs to both halves of the batch, so both must be evaluated.
        velocity, _, carry = both(x, t, carry)
        return velocity, carry

    settings = _Settings("classifier_free", scale, interval, rescale, projection, channels)
    return _guided(settings, both, alone)


def classifier(
    model: Model,
    log_prob: Callable[[jax.Array, jax.Array], jax.Array],
    scale: Scalar,
    schedule: Schedule,
) -> Model:
    """Classifier guidance (arXiv:2105.05233), on every schedule.

        guided noise = noise - w sigma grad log p(c | x, t)
        guided velocity = velocity - w (sigma sigma' - alpha'/alpha sigma^2) grad log p(c | x, t)

    The second form is finite at t = 0. Where alpha = 0 the state does not depend on c, so the
    gradient is 0 and the term is its limit, w sigma^2 d/dt grad; `log_prob` must be smooth in t
    there. Near alpha = 0 an error of the gradient is divided by alpha: with a learned classifier
    that is unsure there, begin the grid below that time.

    Args:
      model: the unconditional model.
      log_prob: (x, t) -> (B,), log p(c | x, t) up to a constant. Sample i's depends on x[i] alone.
        It is differentiated.
      scale: w, a number (also traced) or (B,). At 1, exact functions give the exact conditional
        velocity (Bayes).
      schedule: the path of the model.

    Raises:
      ValueError: from the model, for shapes that do not fit.
    """
    # Does the path reach pure noise, where alpha = 0?
    reaches_noise = float(schedule.alpha(1.0)) == 0

    def guided(x, t, carry=None):
        x, t = _checked("classifier", x, t, scale)
        velocity, carry_after = _call(model, x, t, carry=carry)

        def gradient(t):
            return _gradient(log_prob, x, t)

        # (sigma sigma' - alpha'/alpha sigma^2) grad
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        rate = schedule.sigma_sigma_dot(t) - _ratio(schedule.alpha_dot(t), alpha) * sigma**2
        term = _like(rate, x) * gradient(t)
        if reaches_noise:
            # Its limit where alpha = 0, which needs a second derivative.
            def slope_in_time():
                return jax.jvp(gradient, (t,), (jnp.ones_like(t),))[1]

            slope = jax.lax.cond(jnp.any(alpha == 0), slope_in_time, lambda: jnp.zeros_like(x))
            limit = -_like(sigma**2, x) * slope
            term = jnp.where(_like(alpha, x) == 0, limit, term)
        velocity = velocity - _like(scale, x) * term
        return velocity if carry is None else (velocity, carry_after)

    return guided


def dynamic_threshold(
    quantile: Scalar = 0.995, *, least: Scalar = 1.0, most: Scalar | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Dynamic thresholding (Imagen, arXiv:2205.11487): a correction of the data prediction.

        s = quantile of |data| in a sample, raised to `least`, lowered to `most`
        data <- clip(data, -s, s)/s

    It keeps the data prediction in [-1, 1]. It is meant for pixels, not for latents. The quantile
    interpolates linearly.

    Args:
      quantile: 0 to 1. This and the other numbers may be traced.
      least, most: the limits of s; None is no upper limit.

    Returns:
      Function (data, t) -> data, for `flowjax.sample(data_hook=...)` or `correct_data`.

    Raises:
      ValueError: numbers outside their ranges.
    """
    most = np.inf if most is None else most
    if _holds(np.less, quantile, 0) or _holds(np.greater, quantile, 1):
        raise ValueError(
            f"guidance.dynamic_threshold: quantile={quantile!r}; wanted a number from 0 to 1, like "
            "0.995."
        )
    if _holds(np.less_equal, least, 0) or _holds(np.greater, least, most):
        raise ValueError(
            f"guidance.dynamic_threshold: least={least!r}, most={most!r}; wanted 0 < least <= most."
        )

    def hook(data, t):
        sizes = jnp.abs(data).reshape(len(data), -1)  # (B, F)
        s = jnp.quantile(sizes, quantile, axis=1)  # (B,)
        s = _like(jnp.clip(s, least, most), data)
        return jnp.clip(data, -s, s) / s

    return hook


def correct_data(
    model: Model, schedule: Schedule, hook: Callable[[jax.Array, jax.Array], jax.Array]
) -> Model:
    """The model whose data prediction is `hook(data, t)`, as with `data_hook` in `flowjax.sample`.

        data = p x + q velocity
        velocity <- (hook(data, t) - p x)/q

    Any sampler takes it. Where the data prediction does not depend on the velocity (t = 0), the
    velocity does not change.

    Args:
      model: the model to correct.
      schedule: its path.
      hook: (data, t) -> data, where t is the time that the network receives.
    """

    def corrected(x, t, carry=None):
        x, t = _checked("correct_data", x, t)
        velocity, carry_after = _call(model, x, t, carry=carry)
        # To the data prediction, and back to the velocity.
        p, q = (_like(weight, x) for weight in schedule.prediction_weights("data", t))
        data = hook(p * x + q * velocity, t)
        velocity = jnp.where(q == 0, velocity, _ratio(data - p * x, q))
        return velocity if carry is None else (velocity, carry_after)

    return corrected


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
    _check_interval(settings)
    never, always = _known_in_advance(settings)

    def guided(x, t, carry=None):
        x, t = _checked(settings.name, x, t, settings.scale)
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
    never = _holds(np.equal, settings.scale, 1)
    all_times = _holds(np.less_equal, low, 0) and _holds(np.greater_equal, high, 1)
    always = all_times and _holds(np.not_equal, settings.scale, 1)
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
        found = _linear(strong_part, weak_part, weight, settings.rescale)
        return strong.at[guided_channels].set(found), difference

    # A `Projection` needs the state too, for the data predictions.
    before = None if difference is None else difference[guided_channels]
    found, after = _projected(
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


def _linear(strong, weak, weight, rescale):
    """strong + (w - 1) (strong - weak), rescaled."""
    change = _like(weight - 1, strong) * (strong - weak)
    return strong + _rescaled(change, strong, rescale)


def _projected(projection, velocity, other, x, t, weight, running, rescale):
    """(velocity, running difference) by the formulas of `Projection`."""
    p, q = (_like(part, x) for part in projection.schedule.prediction_weights("data", t))
    data = p * x + q * velocity
    difference = q * (velocity - other)

    # d <- d + momentum d_before; stored where a sample is guided.
    if running is not None:
        difference = difference + _like(projection.momentum, x) * running
        running = jnp.where(_like(weight, x) == 1, running, difference).astype(running.dtype)

    # e = d min(1, threshold/|d|)
    if projection.threshold is not None:
        excess = _total((difference / _like(projection.threshold, x)) ** 2)
        difference = difference / jnp.sqrt(jnp.maximum(excess, 1))

    # (w - 1) (e - along + eta along), back in the velocity
    along = _ratio(_total(difference * data), _total(data**2)) * data
    change = _like(weight - 1, x) * (difference - along + _like(projection.eta, x) * along)
    return velocity + _ratio(_rescaled(change, data, rescale), q), running


def _rescaled(change, prediction, rescale):
    """The change, guided - prediction, after rescaling (arXiv:2305.08891, eq. 15 and 16).

    With phi the fraction `rescale`:

        guided <- phi guided std(prediction)/std(guided) + (1 - phi) guided
    """
    if _holds(np.equal, rescale, 0):
        return change
    guided = prediction + change
    axes = tuple(range(1, guided.ndim))
    factor = _ratio(jnp.std(prediction, axes, keepdims=True), jnp.std(guided, axes, keepdims=True))
    return change + _like(rescale, change) * (factor - 1) * guided


def _gradient(log_prob, x, t):
    """The gradient of log_prob in x: (B, *D)."""
    values, backward = jax.vjp(lambda x: log_prob(x, t), x)
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"guidance.classifier: log_prob gave shape {values.shape}; wanted {x.shape[:1]}."
        )
    # Sample i's value depends on x[i] alone, so the gradient of the sum is that of each.
    return backward(jnp.ones_like(values))[0]


# ---- calls and checks


def _call(model, x, *rest, carry):
    """(velocity in the dtype of `x`, carry) of a model with or without a carry."""
    velocity, carry = (model(x, *rest), None) if carry is None else model(x, *rest, carry)
    return velocity.astype(x.dtype), carry


def _stacked(given, null, batch):
    """[given, null] along the batch: (2B, ...)."""
    given = jnp.asarray(given)
    if given.shape[:1] != (batch,):
        raise ValueError(
            f"guidance.classifier_free: a label has shape {given.shape}; wanted ({batch}, ...)."
        )
    null = jnp.broadcast_to(jnp.asarray(null, given.dtype), given.shape)
    return jnp.concatenate([given, null])


def _checked(name, x, t, scale=1):
    """`x` and `t` in float32 or wider, after checks of the shapes of `t` and `scale`."""
    x = jnp.asarray(x)
    for what, value in (("t", t), ("scale", scale)):
        if np.shape(value) not in ((), x.shape[:1]):
            raise ValueError(
                f"guidance.{name}: {what} has shape {np.shape(value)}; wanted () or {x.shape[:1]}."
            )
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # A Python number takes the dtype of the state, so that it does not raise float32 to float64.
    is_array = isinstance(t, jax.Array)
    dtype = jnp.promote_types(t.dtype, jnp.float32) if is_array else x.dtype
    return x, jnp.asarray(t, dtype)


def _check_interval(settings):
    low, high = settings.interval
    if _holds(np.greater, low, high):
        raise ValueError(
            f"guidance.{settings.name}: interval={settings.interval!r} is inverted; wanted (low, "
            "high) with low < high."
        )


def _check_channels(settings, x):
    channels = settings.channels
    if channels is not None and not 1 <= channels <= x.shape[-1]:
        raise ValueError(
            f"guidance.{settings.name}: channels={channels!r}; wanted 1 to {x.shape[-1]}, or None "
            "for all."
        )


def _check_momentum(settings, carry):
    projection = settings.projection
    if carry is None and projection is not None and not _holds(np.equal, projection.momentum, 0):
        raise ValueError(
            f"guidance.{settings.name}: momentum needs a carry; pass carry=projection.start(noise)."
        )


def _holds(compare, value, wanted):
    """Whether `compare(value, wanted)` holds for every entry; False where a value is traced."""
    if any(isinstance(v, jax.core.Tracer) for v in (value, wanted)):
        return False
    return bool(np.all(compare(value, wanted)))


# ---- arrays


def _total(values):
    """Sum over the axes of each sample: (B, *D) -> (B, 1, ...)."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)), keepdims=True)


def _like(value: Array, x: jax.Array) -> jax.Array:
    """A number or (B,) in the dtype of `x`, shaped to multiply it."""
    value = jnp.asarray(value, x.dtype)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def _ratio(top, bottom):
    """The quotient top/bottom, and 0 where bottom is 0."""
    # The inner `where` keeps the quotient finite, and so its derivative.
    return jnp.where(bottom == 0, 0.0, top / jnp.where(bottom == 0, 1.0, bottom))
