"""Guidance: functions that make a model from models, so that every sampler takes the result.

With w the scale, and two velocities of one state, `conditional` and `unconditional` (or strong and weak),

    guided = conditional + (w - 1) (conditional - unconditional):    w = 1 conditional, w = 0 unconditional

(classifier-free guidance, arXiv:2207.12598, whose own w is this less 1). Every prediction is p x + q velocity, with one p
and q for both, so guiding velocity, noise or data is the same. `Projection` and `rescale` are not linear: the first acts on
the data prediction, the second alone on the velocity.

A model is (x, t) -> velocity (B, *D), or (x, t, carry) -> (velocity, carry); `t` is a scalar or (B,). What is made here
is both: it keeps a carry when it is given one. Norms, standard deviations and quantiles are of one sample, over all its
axes. NFE stays the number of rows, though a guided row costs two evaluations.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.schedules import Schedule


class Running(NamedTuple):
    """Carry of a model guided with a `Projection`: the running difference (B, *D), and the carry of the networks."""

    difference: jax.Array
    networks: Any = None


@dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance, APG (arXiv:2410.02416, algorithm 1): tame the part of guidance that saturates.

    On data predictions, with d = conditional - unconditional:

        d <- d + momentum d_before;    e = d min(1, threshold/|d|);    along = <e, conditional>/|conditional|^2 conditional
        guided = conditional + (w - 1) (e - along + eta along)

    momentum 0, no threshold and eta = 1 is classifier-free guidance; the paper takes eta = 0 and a momentum of -0.5 or
    -0.75. With momentum the sampler needs `carry=projection.start(noise)`: d_before is kept there, unshortened, and rests
    where a sample is not guided. The norm is over the whole sample (some codes offer the two image axes alone).

    Args:
      schedule: gives the data prediction. Where that does not depend on the velocity (t = 0) there is no guidance.
      threshold: greatest norm of d, in units of the data, or None.
    """

    schedule: Schedule
    momentum: float = 0.0
    threshold: float | None = None
    eta: float = 1.0

    def __post_init__(self):
        if self.threshold is not None and _is(np.less_equal, self.threshold, 0):
            raise ValueError(
                f"guidance.Projection: threshold={self.threshold!r}; wanted above 0, or None: no limit."
            )

    def start(self, noise, networks=None):
        """The carry to begin with, for states like `noise`; `networks` is the networks' own carry, if any."""
        return Running(
            jnp.zeros(noise.shape, jnp.promote_types(noise.dtype, jnp.float32)), networks
        )


def combine(
    conditional,
    unconditional,
    scale,
    *,
    interval=(0, 1),
    rescale=0.0,
    projection=None,
    channels=None,
):
    """Guidance between two models, such as exact fields of a class and of all data.

    A weaker second model makes it autoguidance (arXiv:2406.02507); the same network with damaged attention or skipped
    layers, and 1 + the published scale, PAG (arXiv:2403.17377) or STG (arXiv:2411.18664).

    Args:
      conditional, unconditional: models. Their carry is a pair, (carry of the first, of the second).
      scale: w, a number (also traced) or (B,). Where no sample has w != 1 the second model is not evaluated, except under
        `jax.vmap` over times or scales, which evaluates both branches of any choice.
      interval: (low, high); elsewhere w is 1 (arXiv:2404.07724). The ends are left out, but 0 and 1 are no limits: by
        default t = 1 is guided. t is what the network is told.
      rescale: 0 to 1, the part of `guided std(conditional)/std(guided)` to mix in (arXiv:2305.08891, eq. 15 and 16).
      projection: a `Projection`. The carry is then a `Running`, and `rescale` acts on the data prediction.
      channels: how many of the leading channels, on the last axis, are guided, and enter norms and deviations; the others
        are those of w = 1. None guides all, as diffusers does; `forward_with_cfg` of the public DiT and SiT guides 3 of 4.
    """

    def alone(x, t, carry):
        velocity, first = _call(conditional, x, t, carry=carry and carry[0])
        return velocity, carry and (first, carry[1])

    def both(x, t, carry):
        velocity, carry = alone(x, t, carry)
        other, second = _call(unconditional, x, t, carry=carry and carry[1])
        return velocity, other, carry and (carry[0], second)

    return _guided("combine", both, alone, scale, interval, rescale, projection, channels)


def classifier_free(
    network,
    label,
    null_label,
    scale,
    *,
    interval=(0, 1),
    rescale=0.0,
    projection=None,
    channels=None,
):
    """Classifier-free guidance of one network, in one call on [conditional, null] stacked along the batch.

    Args:
      network: (x, t, label) -> velocity, or with a carry (x, t, label, carry) -> (velocity, carry).
      label: (B, ...) array, or a pytree of them (text embeddings and their mask).
      null_label: what training put in the place of a dropped label: shaped like `label`, or without its batch axis.
      scale, interval, rescale, projection, channels: as in `combine`.

    Returns:
      A model. Where no sample is guided the network sees B samples, not 2B; but a carry is of 2B and kept up to date.
    """
    if null_label is None:
        raise ValueError(
            "guidance.classifier_free: null_label is None; give the label that training put in the place of a dropped one "
            "(for DiT and SiT the number of classes), or guide by a weaker model with guidance.combine."
        )

    def both(x, t, carry):
        labels = jax.tree.map(lambda given, null: _stacked(given, null, len(x)), label, null_label)
        times = jnp.concatenate([t, t]) if t.ndim else t
        velocity, carry = _call(network, jnp.concatenate([x, x]), times, labels, carry=carry)
        return velocity[: len(x)], velocity[len(x) :], carry

    def alone(x, t, carry):
        return _call(network, x, t, label, carry=None) if carry is None else both(x, t, carry)[::2]

    return _guided("classifier_free", both, alone, scale, interval, rescale, projection, channels)


def classifier(model, log_prob, scale, schedule):
    """Classifier guidance (arXiv:2105.05233): noise - w sigma grad log p(c | x, t), on every schedule.

    In the velocity that is -w (sigma sigma' - alpha'/alpha sigma^2) grad, finite at t = 0. Where alpha = 0 the state holds
    nothing of c, so grad = 0 and the term is its limit, w sigma^2 d/dt grad: `log_prob` must be smooth in t there. Near
    alpha = 0 an error of grad is divided by alpha: a learned classifier that is unsure there wants a grid that begins below.

    Args:
      model, schedule: the unconditional model, and its path.
      log_prob: (x, t) -> (B,), log p(c | x, t) up to a constant; sample i's depends on x[i] alone. It is differentiated.
      scale: w, a number (also traced) or (B,). At 1, exact functions give the exact conditional velocity (Bayes).
    """
    reaches_noise = float(schedule.alpha(1.0)) == 0

    def guided(x, t, carry=None):
        x, t = _checked("classifier", x, t, scale)
        velocity, carry_after = _call(model, x, t, carry=carry)

        def gradient(t):
            values, backward = jax.vjp(lambda x: log_prob(x, t), x)
            if values.shape != x.shape[:1]:
                raise ValueError(
                    f"guidance.classifier: log_prob gave shape {values.shape}; wanted {x.shape[:1]}."
                )
            return backward(jnp.ones_like(values))[0]

        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        term = _like(
            schedule.sigma_sigma_dot(t) - _ratio(schedule.alpha_dot(t), alpha) * sigma**2, x
        ) * gradient(t)
        if reaches_noise:
            in_time = lambda: jax.jvp(gradient, (t,), (jnp.ones_like(t),))[1]
            slope = jax.lax.cond(jnp.any(alpha == 0), in_time, lambda: jnp.zeros_like(x))
            term = jnp.where(_like(alpha, x) == 0, -_like(sigma**2, x) * slope, term)
        velocity = velocity - _like(scale, x) * term
        return velocity if carry is None else (velocity, carry_after)

    return guided


def dynamic_threshold(quantile=0.995, *, least=1.0, most=None):
    """Correction of the data prediction that keeps it in [-1, 1]: dynamic thresholding (Imagen, arXiv:2205.11487).

        s = quantile of |data| in a sample, raised to `least`, lowered to `most`;    data <- clip(data, -s, s)/s

    The quantile interpolates linearly. Meant for pixels, not for latents. The numbers may be traced.

    Returns:
      Function (data, t) -> data, for `flowjax.sample(data_hook=...)` or `correct_data`.
    """
    most = np.inf if most is None else most
    if _is(np.less, quantile, 0) or _is(np.greater, quantile, 1):
        raise ValueError(
            f"guidance.dynamic_threshold: quantile={quantile!r}; wanted a number from 0 to 1, like 0.995."
        )
    if _is(np.less_equal, least, 0) or _is(np.greater, least, most):
        raise ValueError(
            f"guidance.dynamic_threshold: least={least!r}, most={most!r}; wanted 0 < least <= most."
        )

    def hook(data, t):
        s = jnp.quantile(jnp.abs(data).reshape(len(data), -1), quantile, axis=1)
        s = _like(jnp.clip(s, least, most), data)
        return jnp.clip(data, -s, s) / s

    return hook


def correct_data(model, schedule, hook):
    """The model whose data prediction is `hook(data, t)`: what `data_hook` does in `flowjax.sample`, for any sampler.

    Where the data prediction does not depend on the velocity (t = 0) the velocity stays. `t` is what the network is told.
    """

    def corrected(x, t, carry=None):
        x, t = _checked("correct_data", x, t)
        velocity, carry_after = _call(model, x, t, carry=carry)
        p, q = (_like(weight, x) for weight in schedule.prediction_weights("data", t))
        velocity = jnp.where(q == 0, velocity, _ratio(hook(p * x + q * velocity, t) - p * x, q))
        return velocity if carry is None else (velocity, carry_after)

    return corrected


def _guided(name, both, alone, scale, interval, rescale, projection, channels):
    """The guided model. both(x, t, carry) -> (velocity, other, carry); alone(x, t, carry) -> (velocity, carry)."""
    low, high = interval
    if _is(np.greater, low, high):
        raise ValueError(
            f"guidance.{name}: interval={interval!r} is inverted; wanted (low, high) with low < high."
        )
    never = _is(np.equal, scale, 1)
    always = (
        _is(np.less_equal, low, 0)
        and _is(np.greater_equal, high, 1)
        and _is(np.not_equal, scale, 1)
    )

    def guided(x, t, carry=None):
        x, t = _checked(name, x, t, scale)
        if channels is not None and not 1 <= channels <= x.shape[-1]:
            raise ValueError(
                f"guidance.{name}: channels={channels!r}; wanted 1 to {x.shape[-1]}, or None for all."
            )
        if carry is None and projection is not None and not _is(np.equal, projection.momentum, 0):
            raise ValueError(
                f"guidance.{name}: momentum needs a carry; pass carry=projection.start(noise)."
            )
        running, networks = (None, carry) if projection is None or carry is None else carry
        inside = ((low < t) | (low <= 0)) & ((t < high) | (high >= 1))
        weight = jnp.where(inside, jnp.asarray(scale, x.dtype), 1)

        def with_guidance():
            velocity, other, after = both(x, t, networks)
            part = (..., slice(channels))  # what is guided
            strong, weak = velocity[part], other[part]
            if projection is None:
                change = _like(weight - 1, x) * (strong - weak)
                return (
                    velocity.at[part].set(strong + _rescaled(change, strong, rescale)),
                    running,
                    after,
                )
            before = None if running is None else running[part]
            strong, now = _projected(projection, strong, weak, x[part], t, weight, before, rescale)
            return (
                velocity.at[part].set(strong),
                None if running is None else running.at[part].set(now),
                after,
            )

        def without():
            velocity, after = alone(x, t, networks)
            return velocity, running, after

        known = without if never else with_guidance if always else None
        velocity, running, networks = (
            known() if known else jax.lax.cond(jnp.any(weight != 1), with_guidance, without)
        )
        carry_after = networks if projection is None else Running(running, networks)
        return velocity if carry is None else (velocity, carry_after)

    return guided


def _projected(projection, velocity, other, x, t, weight, running, rescale):
    """(velocity, running difference) by the formulas of `Projection`."""
    p, q = (_like(part, x) for part in projection.schedule.prediction_weights("data", t))
    data, difference = p * x + q * velocity, q * (velocity - other)
    if running is not None:
        difference = difference + _like(projection.momentum, x) * running
        running = jnp.where(_like(weight, x) == 1, running, difference).astype(running.dtype)
    total = functools.partial(jnp.sum, axis=tuple(range(1, x.ndim)), keepdims=True)
    if projection.threshold is not None:
        excess = total((difference / _like(projection.threshold, x)) ** 2)
        difference = difference / jnp.sqrt(jnp.maximum(excess, 1))
    along = _ratio(total(difference * data), total(data**2)) * data
    change = _like(weight - 1, x) * (difference - along + _like(projection.eta, x) * along)
    return velocity + _ratio(_rescaled(change, data, rescale), q), running


def _rescaled(change, prediction, rescale):
    """The change that also gives a part `rescale` of prediction + change the prediction's standard deviation."""
    if _is(np.equal, rescale, 0):
        return change
    guided = prediction + change
    axes = tuple(range(1, guided.ndim))
    factor = _ratio(jnp.std(prediction, axes, keepdims=True), jnp.std(guided, axes, keepdims=True))
    return change + _like(rescale, change) * (factor - 1) * guided


def _stacked(given, null, batch):
    """[given, null] along the batch: (2B, ...)."""
    given = jnp.asarray(given)
    if given.shape[:1] != (batch,):
        raise ValueError(
            f"guidance.classifier_free: a label has shape {given.shape}; wanted ({batch}, ...)."
        )
    return jnp.concatenate([given, jnp.broadcast_to(jnp.asarray(null, given.dtype), given.shape)])


def _call(model, x, *rest, carry):
    """(velocity in the dtype of `x`, carry) of a model with or without a carry."""
    velocity, carry = (model(x, *rest), None) if carry is None else model(x, *rest, carry)
    return velocity.astype(x.dtype), carry


def _checked(name, x, t, scale=1):
    """`x` and `t` in float32 or wider, after checks of the shapes of `t` and `scale`."""
    x = jnp.asarray(x)
    for what, value in (("t", t), ("scale", scale)):
        if np.shape(value) not in ((), x.shape[:1]):
            raise ValueError(
                f"guidance.{name}: {what} has shape {np.shape(value)}; wanted () or {x.shape[:1]}."
            )
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x, jnp.asarray(
        t, jnp.promote_types(t.dtype, jnp.float32) if isinstance(t, jax.Array) else x.dtype
    )


def _is(compare, value, wanted):
    """Whether `compare(value, wanted)` is known to hold, of every entry; False where one of them is traced."""
    return not any(isinstance(v, jax.core.Tracer) for v in (value, wanted)) and bool(
        np.all(compare(value, wanted))
    )


def _like(value, x):
    """A number or (B,) in the dtype of `x`, shaped to multiply it."""
    value = jnp.asarray(value, x.dtype)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def _ratio(top, bottom):
    """The quotient top/bottom, and 0 where bottom is 0."""
    return jnp.where(bottom == 0, 0.0, top / jnp.where(bottom == 0, 1.0, bottom))
