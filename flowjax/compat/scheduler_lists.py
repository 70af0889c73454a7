"""The times that a caller gives in place of a scheduler's own, and the last part of a grid.

`own_times` checks the arguments `steps`, `sigmas` and `timesteps`; `steps_of_strength` says how
many of the last steps an image-to-image run takes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowjax.compat.scheduler_config import (
    Options,
    is_told_noise_level,
    respacing,
)
from flowjax.compat.scheduler_options import full_name
from flowjax.compat.scheduler_values import check_number, is_number
from flowjax.errors import check_whole


class Accepted(NamedTuple):
    """The lists that a class takes in place of a number of steps.

    Attributes:
      sigmas: whether it takes noise levels.
      timesteps: whether it takes times as the network counts them.
      both: whether it takes both at once: the states of the one and the labels of the other.
      sigmas_name_the_end: whether the last of the sigmas is where the result lies.
      whole_timesteps: whether it rounds timesteps, so that only whole numbers are meant.
    """

    sigmas: bool = False
    timesteps: bool = False
    both: bool = False
    sigmas_name_the_end: bool = False
    whole_timesteps: bool = False


class Asked(NamedTuple):
    """What a caller asks of a scheduler, besides its options.

    Attributes:
      steps: number of steps of the complete grid.
      mu: exponent of the dynamic shift, or None.
      peers: reproduce the grid of diffusers where it differs from the corrected one.
      sigmas: (n,) the caller's noise levels, or None.
      timesteps: (n,) the caller's times in the numbers of the network, or None.
    """

    steps: int
    mu: float | None
    peers: bool
    sigmas: np.ndarray | None = None
    timesteps: np.ndarray | None = None


def own_times(
    name: str,
    options: Options,
    accepted: Accepted,
    steps: int | None,
    sigmas: Sequence[float] | None,
    timesteps: Sequence[float] | None,
) -> tuple[int, np.ndarray | None, np.ndarray | None]:
    """The number of steps and the caller's lists, checked.

    Args:
      name: the public function that errors speak for.
      options: as `scheduler_config.read` returns them.
      accepted: the lists that the class takes.
      steps: the number of steps, or None with a list.
      sigmas, timesteps: as the caller gave them.

    Returns:
      (steps, sigmas, timesteps), the lists as float64 or None.

    Raises:
      ValueError: no number of steps and no list, or both with different numbers; a list that the
        class or an option does not allow, or that does not decrease.
    """
    if sigmas is None and timesteps is None:
        if steps is None:
            raise ValueError(f"{name}: steps is None; give the number of inference steps.")
        check_whole(name, "steps", steps, 1)
        return int(steps), None, None

    _check_accepted(name, options, accepted, sigmas, timesteps)

    # Noise levels
    if sigmas is not None:
        # sigma/alpha has no upper limit; on a flow sigma is the time itself.
        most = 1.0 if _is_flow(options) else np.inf
        sigmas = _decreasing(name, "sigmas", sigmas, most)
        count = len(sigmas) - accepted.sigmas_name_the_end
        if count < 1:
            raise ValueError(
                f"{name}: sigmas={sigmas.tolist()!r}; wanted at least two, since the last one is "
                "where the result lies."
            )

    # Times as the network counts them: an index of a VP network, and N t of a flow
    if timesteps is not None:
        train = options["num_train_timesteps"]
        most = train if _is_flow(options) else train - 1
        timesteps = _decreasing(name, "timesteps", timesteps, most)
        if accepted.whole_timesteps and np.any(timesteps != np.round(timesteps)):
            raise ValueError(
                f"{name}: timesteps={timesteps.tolist()!r}; {full_name(options['class'])} takes "
                "whole training steps only."
            )
        if sigmas is not None and len(timesteps) != count:
            raise ValueError(
                f"{name}: {count} sigmas and {len(timesteps)} timesteps; wanted as many of both."
            )
        count = len(timesteps)

    # A number of steps besides must be that of the list.
    if steps not in (None, count):
        raise ValueError(
            f"{name}: steps={steps!r}, and the list has {count} steps; give steps=None, or leave "
            "the list out."
        )
    return count, sigmas, timesteps


def steps_of_strength(name: str, steps: int, strength: float, *, rounds_up: bool = False) -> int:
    """How many of the last steps a run of this strength takes, as diffusers counts them.

    Args:
      name: the public function that errors speak for.
      steps: of the complete grid.
      strength: above 0, which keeps the given image, to 1, which starts from pure noise.
      rounds_up: take one step more where steps times strength is no whole number. The pipelines
        around FlowMatchEuler do (Stable Diffusion 3, Flux, Qwen-Image), those of Stable Diffusion
        do not.

    Raises:
      ValueError: the strength is no such number, or leaves no step.
    """
    check_number(name, "strength", strength, above=0, most=1, example=0.6)
    wanted = min(steps * strength, steps)
    # int rounds down: the steps left out in one kind of pipeline, the steps taken in the other.
    taken = steps - int(steps - wanted) if rounds_up else int(wanted)
    if taken < 1:
        raise ValueError(
            f"{name}: strength={strength!r} of {steps} steps leaves none; take more steps, or a "
            f"strength of at least {1 / steps:.3g}."
        )
    return taken


def _check_accepted(name, options, accepted, sigmas, timesteps):
    """Refuse a list that the class, or one of its options, does not allow."""
    # The class
    class_name = full_name(options["class"])
    for key, given, allowed in (
        ("sigmas", sigmas, accepted.sigmas),
        ("timesteps", timesteps, accepted.timesteps),
    ):
        if given is not None and not allowed:
            raise ValueError(
                f"{name}: {class_name} takes no {key} of the caller; give the number of steps."
            )
    if sigmas is not None and timesteps is not None and not accepted.both:
        raise ValueError(f"{name}: {class_name} takes sigmas or timesteps, and both were given.")
    # FlowMatchEuler respaces between the ends of the caller's list.
    if accepted.both:
        return

    # The options. Euler leaves its respacing out where it gets sigmas.
    rule = respacing(options)
    keeps_sigmas = accepted.sigmas_name_the_end and timesteps is None
    reason = None
    if rule and not keeps_sigmas:
        reason = f"the {rule} respacing is on, which would replace them"
    elif timesteps is not None and options.get("use_flow_sigmas"):
        reason = "use_flow_sigmas is on, whose grid would replace them"
    elif sigmas is not None and "use_flow_sigmas" in options and not options["use_flow_sigmas"]:
        reason = "use_flow_sigmas is off, and this class takes sigmas of flows only"
    elif timesteps is not None and is_told_noise_level(options):
        reason = "timestep_type='continuous' gives the network a noise level; pass sigmas"
    if reason:
        key = "sigmas" if sigmas is not None else "timesteps"
        raise ValueError(f"{name}: {key} are not possible here: {reason}.")


def _is_flow(options):
    return "beta_schedule" not in options or bool(options.get("use_flow_sigmas"))


def _decreasing(name: str, option: str, values: Any, most: float) -> np.ndarray:
    """The values as float64, strictly decreasing from at most `most` to at least 0."""
    # Text and nested lists are no lists of numbers.
    is_list = isinstance(values, list | tuple | np.ndarray) and np.ndim(values) == 1
    if not is_list or len(values) == 0 or not all(is_number(value) for value in values):
        raise ValueError(
            f"{name}: {option}={values!r}; wanted a list of numbers, the noisiest first."
        )
    # The ends, and then the order between them
    array = np.array(values, np.float64)
    if not np.all(np.isfinite(array)) or array[0] > most or array[-1] < 0:
        raise ValueError(
            f"{name}: {option} run from {array[0]:g} to {array[-1]:g}; wanted finite numbers from "
            f"at most {most:g} to at least 0."
        )
    rises = np.flatnonzero(np.diff(array) >= 0)
    if len(rises):
        i = rises[0]
        raise ValueError(
            f"{name}: {option} must decrease strictly, and numbers {i} and {i + 1} are "
            f"{array[i]:g} and {array[i + 1]:g}."
        )
    return array
