"""The options of error-controlled sampling: each is checked here once, and they make a Rule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive.control import Rule, Tolerance
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.errors import check_choice
from flowjax.schedules import Schedule
from flowjax.types import Array, PyTree

CONTROLLERS = ("default", "peers")


def make_rule(
    name: str,
    schedule: Schedule,
    tolerance: Tolerance,
    *,
    order: int,
    span: tuple[float, float],
    max_evaluations: int,
    method: str,
    variant: str,
    controller: str,
    combine_errors: Callable[[jax.Array], jax.Array],
    mean_over_devices: Callable[[jax.Array], jax.Array],
) -> Rule:
    """The `Rule` of a run, after checks of all its options.

    Args:
      name: the public function that an error message names.
      combine_errors, mean_over_devices: as in `Rule`.
      schedule, tolerance, order, span, max_evaluations, method, variant, controller: as in
        `flowjax.sample_adaptive`.

    Raises:
      ValueError: an option that is not possible.
    """
    check_choice(name, "controller", controller, CONTROLLERS)
    peers = controller == "peers"
    pair = find_pair(name, method, order, variant)
    check_schedule(name, schedule)
    start, end = check_span(name, span, tolerance)
    tolerance = check_tolerance(name, tolerance)

    # Ends that a method in log-SNR reaches by a jump.
    infinite_at_start, infinite_at_end = (
        not np.isfinite(schedule.log_snr(t)) for t in (start, end)
    )
    if peers and (not pair.in_log_snr or infinite_at_start or infinite_at_end):
        raise ValueError(
            f"{name}: controller='peers' with method={method!r} and span={span!r}; the public "
            "codes have the DPM-Solver methods only and cannot reach an infinite log-SNR. Give a "
            "span with finite log-SNR, such as (0.999, 0.001), or use the default controller."
        )

    # The fewest evaluations of a run: one step, and one more for each jump.
    jumps_at_start = pair.in_log_snr and infinite_at_start
    jumps_at_end = pair.in_log_snr and infinite_at_end
    least = pair.stages + jumps_at_start + jumps_at_end
    return Rule(
        pair=pair,
        schedule=schedule,
        tolerance=tolerance,
        start=start,
        end=end,
        jumps_at_start=jumps_at_start,
        jumps_at_end=jumps_at_end,
        peers=peers,
        combine_errors=combine_errors,
        mean_over_devices=mean_over_devices,
        max_evaluations=_check_evaluations(name, max_evaluations, order, least),
    )


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise a ValueError if `schedule` is not the schedule of a path."""
    if isinstance(schedule, type) or not callable(getattr(schedule, "log_snr", None)):
        raise ValueError(
            f"{name}: schedule={schedule!r}; wanted the schedule of the path, such as "
            "flowjax.Linear(). The arguments are (model, noise, schedule, tolerance) in this order."
        )


def check_tolerance(name: str, tolerance: Tolerance) -> Tolerance:
    """`tolerance` as a `Tolerance`. Values that are traced are not checked.

    Raises:
      ValueError: not a pair of scalars; numbers that are negative, infinite or both 0.
    """
    wanted = (
        "wanted Tolerance(atol, rtol), such as flowjax.Tolerance(1e-3, 1e-2): the error allowed in "
        "one step is max(atol, rtol |x|) for each number of x"
    )
    # A bare number cannot be unpacked.
    try:
        tolerance = Tolerance(*tolerance)
    except TypeError:
        raise ValueError(f"{name}: tolerance={tolerance!r}; {wanted}.") from None

    # An array of tolerances would act along the wrong axes of the state.
    shapes = [np.shape(value) for value in tolerance]
    if any(shapes):
        raise ValueError(
            f"{name}: atol and rtol of the tolerance have shapes {shapes[0]} and {shapes[1]}; "
            f"{wanted}. Both are scalars."
        )

    # Traced values are unknown here.
    if any(isinstance(value, jax.core.Tracer) for value in tolerance):
        return tolerance
    try:
        atol, rtol = (float(value) for value in tolerance)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: tolerance={tolerance!r}; {wanted}.") from None
    if not (0 <= atol < np.inf and 0 <= rtol < np.inf and atol + rtol > 0):
        raise ValueError(
            f"{name}: tolerance has atol={atol:g} and rtol={rtol:g}; wanted finite numbers of at "
            "least 0, one of them positive, such as Tolerance(1e-3, 1e-2)."
        )
    return tolerance


def check_span(name: str, span: tuple[float, float], tolerance: Tolerance) -> tuple[float, float]:
    """(start, end) of a run as floats.

    Args:
      name: the public function that an error message names.
      span: what the caller gave.
      tolerance: what the caller gave for it; the two are told apart.

    Raises:
      ValueError: no pair of two different times in [0, 1].
    """
    # Both are pairs of numbers, so a swap would pass as a strange run.
    if isinstance(span, Tolerance) or _looks_swapped(span, tolerance):
        raise ValueError(
            f"{name}: span={span!r} and tolerance={tolerance!r} look swapped; wanted the two times "
            "of the run in span and the error of a step in tolerance, such as span=(1.0, 0.0) and "
            "tolerance=flowjax.Tolerance(1e-3, 1e-2)."
        )
    try:
        start, end = (float(t) for t in span)
    except (TypeError, ValueError):
        start = end = np.nan
    if not (0 <= start <= 1 and 0 <= end <= 1 and start != end):
        raise ValueError(
            f"{name}: span={span!r}; wanted two different times in [0, 1], such as (1.0, 0.0) from "
            "noise to data."
        )
    return start, end


def _looks_swapped(span, tolerance):
    """Whether plain pairs were given where span holds small numbers and tolerance holds times."""
    if isinstance(tolerance, Tolerance):
        return False
    try:
        largest_of_span = max(float(t) for t in span)
        largest_of_tolerance = max(float(value) for value in tolerance)
    except (TypeError, ValueError):
        # They are no pairs of numbers, or they are traced; other checks report that.
        return False
    return largest_of_span < 0.5 <= largest_of_tolerance


def _check_evaluations(name, max_evaluations, order, least):
    """`max_evaluations` as an int of at least `least`."""
    try:
        count = int(max_evaluations)
        whole = count == max_evaluations and not isinstance(max_evaluations, bool)
    except (TypeError, ValueError, OverflowError):
        count, whole = 0, False
    if not whole or count < least:
        raise ValueError(
            f"{name}: max_evaluations={max_evaluations!r}; a single step and the ends of order "
            f"{order} take {least}, and a usual run takes some hundred: give a whole number of at "
            f"least {least}, for example 1000."
        )
    return count


# ---- states, carries and models


def check_noise(name: str, noise: Array) -> jax.Array:
    """`noise` (B, *D) as a state: in float32 where it is of half precision."""
    noise = jnp.asarray(noise)
    if noise.ndim < 2 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"{name}: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating "
            "(B, *D), batch first."
        )
    return noise.astype(jnp.promote_types(noise.dtype, jnp.float32))


def check_carry(name: str, carry: PyTree, batch: int) -> None:
    """Raise a ValueError if a leaf of the carry does not have the batch as its leading axis."""
    for leaf in jax.tree.leaves(carry):
        if np.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"{name}: carry has a leaf of shape {np.shape(leaf)} for a batch of {batch}; "
                "wanted leading axis B, so that a rejected step can be taken back for one sample "
                "alone."
            )


def check_model(
    name: str, model: Callable, x: jax.Array, start: float, carry: PyTree
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the velocity that `model`, with a carry, returns for the state `x`."""
    velocity, _ = jax.eval_shape(model, x, jnp.full(x.shape[:1], start, x.dtype), carry)
    if velocity.shape != x.shape:
        raise ValueError(
            f"{name}: the model returned shape {velocity.shape} for a state of shape {x.shape}; "
            "wanted the same."
        )
    return velocity
