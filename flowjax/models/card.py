"""A network with what is known of it: which path it was trained on, what it predicts, what it calls time.

These differ from one public network to the next. They are settled here, once, so that everything else sees

    apply(params, x, t, label) -> velocity,      t = 1 noise, t = 0 data,      x (B, H, W, C)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import dit
from flowjax.schedules import PREDICTIONS, Linear, Schedule, to_velocity

# What networks are told as the time, by its name: t -> clock.
CLOCKS = {
    "1000 t": lambda schedule, t: 1000 * t,  # SD3, SANA, Flux, and those trained here
    "1 - t": lambda schedule, t: (
        1 - t
    ),  # SiT: runs towards the data, and so does the velocity that it predicts
    "index": lambda schedule, t: (
        schedule.steps * t - 1
    ),  # DiT: the discrete step 0 .. N-1, node n of VPDiscrete less 1
}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a network.

    Attributes:
      name: of the network.
      config: its sizes, a `DiTConfig`.
      schedule: the path that it was trained on.
      prediction: one of `flowjax.schedules.PREDICTIONS`.
      clock: what it is told as the time, one of "1000 t", "1 - t", "index".
      details: whatever else is known, such as the training's configuration and metrics; a dictionary for JSON.
      scheduler: a pipeline's scheduler_config.json, or None.
      vae: the `Autoencoder` of a latent model's pipeline, or None.
    """

    name: str
    config: dit.DiTConfig
    schedule: Schedule = Linear()
    prediction: str = "velocity"
    clock: str = "1000 t"
    details: dict = dataclasses.field(default_factory=dict)
    scheduler: dict | None = None
    vae: Any = None

    def __post_init__(self):
        """Refuse a prediction or a clock that is not known."""
        if self.prediction not in PREDICTIONS or self.clock not in CLOCKS:
            raise ValueError(
                f"models.Card: prediction={self.prediction!r}, clock={self.clock!r}; wanted one of {PREDICTIONS} and one of "
                f"{tuple(CLOCKS)}."
            )

    @property
    def null_label(self):
        """The label that training put in the place of a dropped one."""
        return self.config.classes

    def patchify(self, x):
        """(B, H, W, C) -> patches (B, L, P)."""
        if x.ndim != 4 or x.shape[-1] != self.config.channels:
            raise ValueError(
                f"{self.name}: a state of shape {x.shape}; wanted (B, H, W, {self.config.channels})."
            )
        return dit.patchify(x, self.config.patch)

    def unpatchify(self, patches, size=None):
        """patches (B, L, P) -> (B, H, W, C)."""
        return dit.unpatchify(patches, self.config.patch, size or self.config.size)

    def raw(self, params, x, clock, label, *, attention=None, carry=None):
        """The network's own output at its own time: (B, H, W, outputs), learned variances included.

        With a carry, (output, carry).
        """
        x = jnp.asarray(x)
        out, after = self._call(
            params, self.patchify(x), clock, label, self._positions(x), attention, carry
        )
        out = self.unpatchify(out, x.shape[1:3])
        return out if carry is None else (out, after)

    def velocity_of_patches(self, params, patches, t, label, positions, attention=None, carry=None):
        """The velocity of some of the tokens: what a device computes of its share.

        Args:
          params: the tree of parameters.
          patches: (B, L, P) the state, as `patchify` cuts it; all tokens or some of them.
          t: scalar or (B,).
          label: (B,) integers, or None for the null label.
          positions: (L, E) the rows of `models.dit.positions` that belong to them.
          attention: as models.dit describes; None for plain softmax attention.
          carry: given to the attention.

        Returns:
          (velocity (B, L, P), carry).
        """
        patches = patches.astype(
            jnp.promote_types(patches.dtype, jnp.float32)
        )  # before t takes its dtype
        clock = CLOCKS[self.clock](self.schedule, jnp.asarray(t, patches.dtype))
        out, carry = self._call(params, patches, clock, label, positions, attention, carry)
        return self.velocity_of_output(out, patches, t), carry

    def velocity_of_output(self, out, patches, t):
        """The velocity (B, L, P) that the network's own output for some tokens (B, L, p p outputs) means.

        Args:
          patches: (B, L, P) the state, in float32 at least.
          t: scalar or (B,).
        """
        each = self.config.patch**2
        out = out.reshape(*out.shape[:2], each, self.config.outputs)[..., : self.config.channels]
        out = out.reshape(patches.shape)
        if self.clock == "1 - t" and self.prediction == "velocity":
            out = -out
        return to_velocity(
            self.schedule, self.prediction, out, patches, jnp.asarray(t, patches.dtype)
        )

    def velocity(self, params, x, t, label, *, attention=None, carry=None):
        """The velocity (B, H, W, C) at the state `x` and time `t`; with a carry, (velocity, carry)."""
        x = jnp.asarray(x)
        found, after = self.velocity_of_patches(
            params, self.patchify(x), t, label, self._positions(x), attention, carry
        )
        found = self.unpatchify(found, x.shape[1:3])
        return found if carry is None else (found, after)

    def _positions(self, x):
        return dit.positions(self.config, x.shape[1:3])

    def _call(self, params, patches, clock, label, positions, attention, carry):
        patches = patches.astype(jnp.promote_types(patches.dtype, jnp.float32))
        clock = jnp.broadcast_to(jnp.asarray(clock, patches.dtype), patches.shape[:1])
        label = jnp.broadcast_to(self._checked(label), patches.shape[:1])
        call = dit.network(self.config).apply
        return call(
            params,
            patches,
            clock,
            label,
            jnp.asarray(positions, patches.dtype),
            attention or dit.softmax_attention,
            carry,
        )

    def _checked(self, label):
        label = self.null_label if label is None else label
        if not isinstance(label, jax.core.Tracer):
            values = np.asarray(label)
            if not np.issubdtype(values.dtype, np.integer) or np.any(
                (values < 0) | (values > self.null_label)
            ):
                raise ValueError(
                    f"{self.name}: labels {values.ravel()[:8].tolist()}; wanted integers from 0 to {self.null_label - 1}, or "
                    f"{self.null_label}, the null label."
                )
        return jnp.asarray(label)


class Model(NamedTuple):
    """A network ready to sample from.

    Attributes:
      apply: (params, x, t, label, *, attention=None, carry=None) -> velocity (B, H, W, C), t a scalar or (B,), label (B,)
        integers or None; with a carry, (velocity, carry). A label out of range is refused where its value is known; inside
        jit it gives NaN.
      params: the tree of parameters.
      card: its `Card`.
    """

    apply: callable
    params: Any
    card: Card


def model(card, params):
    """The `Model` of a card and its parameters."""
    return Model(card.velocity, params, card)


def init(config, key, **card):
    """An untrained `Model`: fields of `Card` may be given."""
    return model(
        Card(**{"name": "untrained", "config": config, **card}), dit.network(config).init(key)
    )
