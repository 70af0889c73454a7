"""What an image is drawn for, where that is a text: embeddings of its tokens, and their mask."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.types import Array


class Condition(NamedTuple):
    """A text as a text encoder gives it: the condition of a text-to-image network.

    It is a pytree whose arrays have the batch as their first axis. So it lies over the data axis of
    a mesh as labels do, and `flowjax.tune` and `flowjax.guidance` take it as they take labels. T is
    the number of tokens of the text, padding included, and C is the width of the encoder.

    Attributes:
      embeddings: (B, T, C).
      mask: (B, T), 1 or True where the token belongs to the text, 0 or False where it is padding.
      negative: (B, T', C) the embeddings from which guidance leads away; usually those of the empty
        text. None where there is no guidance.
      negative_mask: (B, T') their mask.
      guidance: (B,) for networks with an embedding of the scale of guidance: the number that the
        network receives, which is the scale times the guidance_embeds_scale of its config.json.
        None for all other networks.
    """

    embeddings: Array
    mask: Array
    negative: Array | None = None
    negative_mask: Array | None = None
    guidance: Array | None = None


def checked(name: str, condition: object, width: int) -> Condition:
    """The condition, or a refusal of what is none for a network.

    Args:
      name: in whose name the refusal speaks.
      condition: a `Condition`, or a tuple of its first fields.
      width: C, the width of embeddings that the network takes.

    Raises:
      ValueError: no embeddings or no mask, or shapes that do not fit.
    """
    if condition is None or not isinstance(condition, tuple) or len(condition) < 2:
        raise ValueError(
            f"{name}: the condition is {_kind(condition)}; this network draws for a text: give "
            "models.Condition(embeddings (B, T, C), mask (B, T))."
        )
    condition = Condition(*condition)
    _check_text(name, "embeddings", condition.embeddings, condition.mask, width)
    if condition.negative is not None or condition.negative_mask is not None:
        _check_text(name, "negative", condition.negative, condition.negative_mask, width)
        given, negative = len(condition.embeddings), len(condition.negative)
        if negative != given:
            raise ValueError(
                f"{name}: {negative} negative embeddings for {given} of the texts; wanted one each."
            )
    return condition


def branches(name: str, condition: Condition) -> tuple[Condition, Condition]:
    """The two conditions of classifier-free guidance: (given, null), of one shape.

    The null condition is the negative embeddings. The shorter of the two texts is padded with
    tokens that its mask excludes.

    Args:
      name: in whose name a refusal speaks.
      condition: with negative embeddings.

    Raises:
      ValueError: there are no negative embeddings.
    """
    if condition.negative is None:
        raise ValueError(
            f"{name}: guidance needs a condition with negative embeddings, usually those of the "
            "empty text: Condition(embeddings, mask, negative, negative_mask)."
        )
    length = max(np.shape(condition.embeddings)[1], np.shape(condition.negative)[1])
    scale = condition.guidance
    given = Condition(*_padded(condition.embeddings, condition.mask, length), guidance=scale)
    null = Condition(*_padded(condition.negative, condition.negative_mask, length), guidance=scale)
    return given, null


def broadcast(condition: Condition, batch: int) -> Condition:
    """The condition without its negative part, of one sample or of `batch`, for `batch` samples."""

    def one(leaf: Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jnp.broadcast_to(leaf, (batch, *leaf.shape[1:]))

    return jax.tree.map(one, condition._replace(negative=None, negative_mask=None))


def _padded(embeddings, mask, length):
    """(embeddings, mask) of `length` tokens; the added ones are masked."""
    missing = length - np.shape(embeddings)[1]
    embeddings = jnp.pad(embeddings, ((0, 0), (0, missing), (0, 0)))
    return embeddings, jnp.pad(jnp.asarray(mask), ((0, 0), (0, missing)))


def _check_text(name, what, embeddings, mask, width):
    """Refuse embeddings of another width, or without a mask of their shape."""
    shape = np.shape(embeddings)
    if embeddings is None or len(shape) != 3 or shape[-1] != width:
        given = "missing" if embeddings is None else f"of shape {shape}"
        raise ValueError(
            f"{name}: the {what} are {given}; wanted (B, T, {width}), from the text encoder with "
            "which the network was trained."
        )
    if mask is None or np.shape(mask) != shape[:2]:
        given = "no mask" if mask is None else f"a mask of shape {np.shape(mask)}"
        raise ValueError(
            f"{name}: {given} for the {what} of shape {shape}; wanted (B, T) = {shape[:2]}, 1 "
            "where a token belongs to the text."
        )


def _kind(condition):
    """What was given in the place of a condition."""
    if condition is None:
        return "None"
    shape = np.shape(condition) if hasattr(condition, "shape") else ""
    return f"a {type(condition).__name__}{shape}"
