"""The order of each step: what the final rule allows, and 1 where log-SNR is infinite."""

from collections.abc import Sequence

import numpy as np

from flowjax.errors import check_choice
from flowjax.schedules import Schedule

FINAL_RULES = ("auto", "sana", "diffusers", "upstream", "none")


def order_caps(
    name: str, final: str | Sequence[int], steps: int, order: int, touches_end: bool
) -> np.ndarray:
    """The highest order of each step that the final rule allows, (steps,).

    Orders of steps that touch an infinite log-SNR are settled by the caller.

    Args:
      name: the public function that errors speak for.
      final: the rule.
        "auto", "none": no order is lowered.
        "sana": the k-th step from the end has order at most k.
        "upstream" (LuChengTHU/dpm-solver): the same, only below 10 steps.
        "diffusers": the last step has order 1 if it ends at t = 0 or below 15 steps, and the one
          before has order at most 2 below 15 steps.
        A tuple caps the last steps: (2, 1) is order 2, then order 1.
      steps: number of steps.
      order: the order of the method.
      touches_end: whether the last step ends where log-SNR is infinite.

    Raises:
      ValueError: an unknown rule; more caps than steps, or caps other than 1, 2, 3.
    """
    caps = np.full(steps, order)
    # Explicit caps of the last steps
    if isinstance(final, (tuple, list)):
        if len(final) > steps or any(cap not in range(1, 4) for cap in final):
            raise ValueError(
                f"{name}: final={final!r} for {steps} steps; wanted at most {steps} caps, each 1, "
                "2 or 3."
            )
        first = steps - len(final)
        caps[first:] = np.minimum(caps[first:], final)
        return caps
    check_choice(name, "final", final, FINAL_RULES)
    # k-th step from the end: order k at most
    if final == "sana" or (final == "upstream" and steps < 10):
        from_the_end = steps - np.arange(steps)  # 1 for the last step
        return np.minimum(caps, from_the_end)
    # Slices, since there may be only one step
    if final == "diffusers":
        if touches_end or steps < 15:
            caps[-1:] = 1
        if steps < 15:
            caps[-2:-1] = np.minimum(caps[-2:-1], 2)
    return caps


def settle_orders(
    name: str,
    schedule: Schedule,
    grid: np.ndarray,
    final: str | Sequence[int],
    order: int,
    *,
    multistep: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-SNR of the grid, and the order of each step.

    Args:
      name: the public function that errors speak for.
      schedule: the path.
      grid: (N+1,) times.
      final: see `order_caps`.
      order: the order of the method.
      multistep: the k-th step has order k at most, for want of earlier evaluations.

    Returns:
      log-SNR (N+1,), highest orders (N,).

    Raises:
      ValueError: a step of order 2 or more ends where log-SNR is infinite, and the rule is not
        "auto", which gives such a step order 1.
    """
    log_snrs = schedule.log_snr(grid)
    begins_infinite = ~np.isfinite(log_snrs[:-1])
    ends_infinite = ~np.isfinite(log_snrs[1:])
    steps = len(grid) - 1
    caps = order_caps(name, final, steps, order, ends_infinite[-1])
    # Step k of a multistep method has k evaluations to use.
    reached = np.minimum(caps, np.arange(steps) + 1) if multistep else caps
    undefined = np.flatnonzero(ends_infinite & (reached > 1))
    if final != "auto" and len(undefined):
        step = undefined[0]
        raise ValueError(
            f"{name}: step {step + 1} of {steps} ends at t = {grid[step + 1]:g}, where log-SNR is "
            f"infinite, so order {reached[step]} is undefined there (final={final!r}); keep "
            "final='auto', or end the grid above 0."
        )
    return log_snrs, np.where(begins_infinite | ends_infinite, 1, caps)
