"""A network with its card: the path it was trained on, what it predicts, and its clock.

Public networks differ in these conventions. They are resolved here, so that everything else sees

    apply(params, x, t, label) -> velocity,      t = 1 noise, t = 0 data,      x (B, H, W, C)

A network that draws for a text takes a `models.Condition` in the place of the label.

This module is the only one that converts them, for training (`Card.predict`) and for sampling
(`Card.velocity`) alike:

  clock   The number that the network receives for the time t (`Card.clock_at`).
  sign    SiT counts time as s = 1 - t, so its velocity is dx/ds = -dx/dt: it changes its sign.
          The other predictions (data, noise, v, score) are functions of the noisy state and not
          derivatives by time. They are the same for every clock.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import condition as conditions
from flowjax.models import dit, networks, sana
from flowjax.models.condition import Condition
from flowjax.models.dc_ae import AutoencoderDC
from flowjax.models.networks import Config
from flowjax.models.vae import Autoencoder
from flowjax.schedules import PREDICTIONS, Linear, Schedule, to_velocity
from flowjax.types import Array, PyTree, Scalar


def _thousand_t(schedule: Schedule, t: Array) -> Array:
    return 1000 * t


def _one_minus_t(schedule: Schedule, t: Array) -> Array:
    return 1 - t


def _discrete_index(schedule: Schedule, t: Array) -> Array:
    return schedule.steps * t - 1


# (schedule, t) -> the number that a network receives, by the clock's name.
CLOCKS: dict[str, Callable[[Schedule, Array], Array]] = {
    "1000 t": _thousand_t,  # SD3, SANA, Flux, and the networks that are trained here
    "1 - t": _one_minus_t,  # SiT
    "index": _discrete_index,  # DiT: the discrete step 0 .. N-1, node n of VPDiscrete less 1
}
# Clocks by which a network's velocity points from noise to data.
CLOCKS_TOWARDS_DATA = ("1 - t",)


@dataclasses.dataclass(frozen=True)
class Card:
    """The metadata of a network, and the conversions that follow from them.

    Attributes:
      name: of the network.
      config: its sizes, a `DiTConfig` or a `SanaConfig`.
      schedule: the path on which it was trained.
      prediction: what it outputs, one of `flowjax.schedules.PREDICTIONS`.
      clock: the name of the number that it receives as the time: "1000 t", "1 - t" or "index".
      clock_scale: the factor of that number; the timestep_scale of diffusers' SANA.
      details: whatever else is known, such as the configuration and the metrics of the training; a
        dictionary for JSON.
      scheduler: the scheduler_config.json of a pipeline, or None.
      vae: the `Autoencoder` or `AutoencoderDC` of a latent model's pipeline, or None.
    """

    name: str
    config: Config
    schedule: Schedule = Linear()
    prediction: str = "velocity"
    clock: str = "1000 t"
    clock_scale: float = 1.0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    scheduler: dict[str, Any] | None = None
    vae: Autoencoder | AutoencoderDC | None = None

    def __post_init__(self):
        """Refuse a prediction or a clock that is not known."""
        # A card may come from a file, so both names are checked here and nowhere else.
        if self.prediction not in PREDICTIONS or self.clock not in CLOCKS:
            raise ValueError(
                f"models.Card: prediction={self.prediction!r}, clock={self.clock!r}; wanted one of "
                f"{PREDICTIONS} and one of {tuple(CLOCKS)}."
            )

    @property
    def clock_name(self) -> str:
        """The clock with its factor: "1000 t", or "0.1 (1000 t)"."""
        return self.clock if self.clock_scale == 1 else f"{self.clock_scale:g} ({self.clock})"

    @property
    def kind(self) -> tuple[Config, Schedule, str, str, float]:
        """What it states about the computation, hashable: `Card(name, *kind)` computes the same."""
        return self.config, self.schedule, self.prediction, self.clock, self.clock_scale

    @property
    def null_label(self) -> int | None:
        """The label that training puts in the place of a dropped one; None of a text's network.

        Raises:
          ValueError: the network was trained without one.
        """
        if networks.takes_text(self.config):
            return None
        if not self.config.has_null:
            raise ValueError(
                f"{self.name} was trained without a null label, so it cannot be guided, sampled "
                "without labels, or trained with dropped labels; give labels, guidance of scale "
                "1, and label_dropout=0."
            )
        return self.config.classes

    def branches(self, label: Array | Condition) -> tuple[Any, Any]:
        """The two conditions of classifier-free guidance: the given one, and the null one.

        Args:
          label: (B,) integers; or a `Condition`, whose negative embeddings are the null condition.
        """
        if networks.takes_text(self.config):
            label = conditions.checked(self.name, label, self.config.caption)
            return conditions.branches(self.name, label)
        return label, self.null_label

    @property
    def label_words(self) -> str:
        """The labels that there are, in words for a refusal."""
        classes = self.config.classes
        null = f", or {classes}, the null label" if self.config.has_null else ""
        return f"integers from 0 to {classes - 1}{null}"

    # Images and tokens.

    def patchify(self, x: Array) -> Array:
        """(B, H, W, C) -> patches (B, L, P)."""
        if x.ndim != 4 or x.shape[-1] != self.config.channels:
            raise ValueError(
                f"{self.name}: a state of shape {x.shape}; wanted (B, H, W, "
                f"{self.config.channels})."
            )
        return dit.patchify(x, self.config.patch)

    def unpatchify(self, patches: Array, size: tuple[int, int] | None = None) -> Array:
        """Patches (B, L, P) -> (B, H, W, C), with (H, W) = `size`, config.size by default."""
        return dit.unpatchify(patches, self.config.patch, size or self.config.size)

    # The two conversions: clock and sign.

    def clock_at(self, t: Array) -> Array:
        """The number that the network receives for the time `t`, shaped like `t`."""
        return self.clock_scale * CLOCKS[self.clock](self.schedule, t)

    def _prediction_of(self, output: jax.Array) -> jax.Array:
        """The prediction of an output: a velocity dx/ds by the time s = 1 - t becomes -dx/ds."""
        if self.prediction == "velocity" and self.clock in CLOCKS_TOWARDS_DATA:
            return -output
        return output

    # The network on images.

    def raw(
        self,
        params: PyTree,
        x: Array,
        clock: Array,
        label: Array | Condition | None,
        *,
        attention: Any = None,
        carry: PyTree = None,
    ) -> jax.Array | tuple[jax.Array, PyTree]:
        """The network's own output at its own time.

        Args:
          params: the tree of parameters.
          x: (B, H, W, C).
          clock: scalar or (B,), as `clock_at` gives it.
          label: (B,) integers, or None for the null label; of a SANA, a `Condition`.
          attention: as models.dit describes, or the `Mixing` of models.sana; None for that of a
            device that has all tokens.
          carry: given to the attention.

        Returns:
          (B, H, W, outputs), learned variances included; with a carry, (output, carry).
        """
        x = jnp.asarray(x)
        size = x.shape[1:3]
        positions = networks.positions(self.config, size)
        attention = attention or networks.on_one_device(self.config, size)
        patches = self.patchify(x)
        output, after = self._call(params, patches, clock, label, positions, attention, carry)
        output = self.unpatchify(output, size)
        return output if carry is None else (output, after)

    def predict(
        self, params: PyTree, x: Array, t: Array, label: Array | Condition | None
    ) -> jax.Array:
        """The prediction that `prediction` names, by the time t: what training compares.

        Args:
          params: the tree of parameters.
          x: (B, H, W, C).
          t: scalar or (B,).
          label: as for `raw`.

        Returns:
          (B, H, W, C), without learned variances.
        """
        output = self.raw(params, x, self.clock_at(t), label)  # (B, H, W, outputs)
        return self._prediction_of(output[..., : self.config.channels])

    def velocity(
        self,
        params: PyTree,
        x: Array,
        t: Scalar,
        label: Array | Condition | None,
        *,
        attention: Any = None,
        carry: PyTree = None,
    ) -> jax.Array | tuple[jax.Array, PyTree]:
        """The velocity (B, H, W, C) at the state `x` and time `t`; with a carry, (velocity, carry).

        Arguments as for `predict` and `raw`.
        """
        x = jnp.asarray(x)
        size = x.shape[1:3]
        positions = networks.positions(self.config, size)
        attention = attention or networks.on_one_device(self.config, size)
        patches = self.patchify(x)
        found, after = self.velocity_of_patches(
            params, patches, t, label, positions, attention, carry
        )
        found = self.unpatchify(found, size)
        return found if carry is None else (found, after)

    # The network on some of the tokens.

    def velocity_of_patches(
        self,
        params: PyTree,
        patches: jax.Array,
        t: Scalar,
        label: Array | Condition | None,
        positions: Array,
        attention: Any = None,
        carry: PyTree = None,
    ) -> tuple[jax.Array, PyTree]:
        """The velocity of some of the tokens: what a device computes for the tokens that it holds.

        Args:
          params: the tree of parameters.
          patches: (B, L, P) the state, as `patchify` cuts it; all tokens or some of them.
          t: scalar or (B,).
          label: as for `raw`.
          positions: (L, E), the rows of `models.networks.positions` for these tokens.
          attention: as models.dit describes, None for plain softmax attention; or the `Mixing` of
            models.sana for these tokens.
          carry: given to the attention.

        Returns:
          (velocity (B, L, P), carry).
        """
        # t takes the dtype of the patches, so these are raised first: 1000 t needs float32.
        patches = _at_least_float32(patches)
        clock = self.clock_at(jnp.asarray(t, patches.dtype))
        output, carry = self._call(params, patches, clock, label, positions, attention, carry)
        return self.velocity_of_output(output, patches, t), carry

    def velocity_of_output(self, out: jax.Array, patches: jax.Array, t: Scalar) -> jax.Array:
        """The velocity (B, L, P) that the network's own output for some tokens stands for.

        Args:
          out: (B, L, p p outputs).
          patches: (B, L, P) the state, in float32 at least.
          t: scalar or (B,).
        """
        pixels = self.config.patch**2
        out = out.reshape(*out.shape[:2], pixels, self.config.outputs)  # (B, L, p p, outputs)
        out = out[..., : self.config.channels]  # (B, L, p p, C), without learned variances
        out = out.reshape(patches.shape)  # (B, L, P)
        prediction = self._prediction_of(out)
        # A prediction is p x + q velocity; to_velocity solves this for the velocity.
        t = jnp.asarray(t, patches.dtype)
        return to_velocity(self.schedule, self.prediction, prediction, patches, t)

    def _call(
        self,
        params: PyTree,
        patches: jax.Array,
        clock: Array,
        label: Array | Condition | None,
        positions: Array,
        attention: Any,
        carry: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        """The network itself; a scalar clock or label is broadcast to the batch.

        Returns:
          (out (B, L, p p outputs), carry).
        """
        patches = _at_least_float32(patches)
        batch = patches.shape[:1]
        clock = jnp.broadcast_to(jnp.asarray(clock, patches.dtype), batch)
        positions = jnp.asarray(positions, patches.dtype)
        if networks.takes_text(self.config):
            label = self._checked_text(label, len(patches))
        else:
            label = jnp.broadcast_to(self._checked(label), batch)
        if not networks.is_linear(self.config):
            attention = attention or dit.softmax_attention
        else:
            if attention is None:  # some of the tokens do not tell the rows of the image
                raise ValueError(f"{self.name}: pass attention=, the `Mixing` of these tokens.")
            if not networks.takes_text(self.config):
                label = sana.condition_of(self.config, label)
        apply = networks.network(self.config).apply
        return apply(params, patches, clock, label, positions, attention, carry)

    def _checked_text(self, condition: Condition, batch: int) -> Condition:
        """The condition of `batch` samples."""
        condition = conditions.checked(self.name, condition, self.config.caption)
        if (condition.guidance is not None) != self.config.guidance_embeds:
            raise ValueError(
                f"{self.name}: a condition {'without' if self.config.guidance_embeds else 'with'} "
                f"guidance for a network whose guidance_embeds is {self.config.guidance_embeds}; "
                "give Condition(..., guidance=(B,)) to the networks that receive the scale of "
                "guidance, and to no other."
            )
        if len(condition.embeddings) not in (1, batch):
            raise ValueError(
                f"{self.name}: {len(condition.embeddings)} texts for {batch} samples; wanted one "
                "each, or one for all."
            )
        return conditions.broadcast(condition, batch)

    def _checked(self, label: Array | None) -> jax.Array:
        """Labels as an array. Their values can be checked only outside of jit."""
        label = self.null_label if label is None else label
        # Inside jit a label out of range gives NaN instead (DiT.embed).
        if not isinstance(label, jax.core.Tracer):
            values = np.asarray(label)
            integers = np.issubdtype(values.dtype, np.integer)
            if not integers or np.any((values < 0) | (values >= self.config.labels)):
                raise ValueError(
                    f"{self.name}: labels {values.ravel()[:8].tolist()}; wanted {self.label_words}."
                )
        return jnp.asarray(label)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Model(NamedTuple):
    """A network ready to sample from.

    Attributes:
      apply: (params, x, t, label, *, attention=None, carry=None) -> velocity (B, H, W, C), with t a
        scalar or (B,), and label (B,) integers or None; with a carry, (velocity, carry). A label
        out of range is refused where its value is known; inside jit it gives NaN. A network that
        draws for a text takes a `Condition` in the place of the label.
      params: the tree of parameters.
      card: its `Card`.
    """

    apply: Callable[..., Any]
    params: PyTree
    card: Card


def model(card: Card, params: PyTree) -> Model:
    """The `Model` of a card and its parameters."""
    return Model(card.velocity, params, card)


def init(config: Config, key: jax.Array, **card: Any) -> Model:
    """An untrained `Model`.

    Args:
      config: its sizes.
      key: a JAX key.
      **card: fields of `Card` to set.
    """
    fields = {"name": "untrained", "config": config, **card}
    return model(Card(**fields), networks.network(config).init(key))
