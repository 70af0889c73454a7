"""The options of sampling on many devices: each one once, with its default, meaning and refusals.

`parallel.sample`, `parallel.program` and `parallel.emulate` take them as keywords and build
`Options` from these. To add an option, add a field and a check here, a field to
`configs.sample.Config`, and the code that reads it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowjax.errors import check_choice, is_whole
from flowjax.parallel.stale import forecast as forecasts
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast
from flowjax.parallel.stale.precision import bits_of
from flowjax.plans.table import Plan


class Options(NamedTuple):
    """How an image is sampled on many devices.

    Attributes:
      attention: how queries reach the keys and values of other devices.
        "gather", "ulysses", "ring" and "ulysses_ring" are exact (see `parallel.attention`).
        "stale" attends to this device's own keys and values of this row, and to those of other
        devices from the step before; in a plan with several rows a step, from the same substep
        (see `parallel.stale.model`).
        "pipefusion" splits the layers over the mesh axis pipe, and patches of the image follow
        each other through them (see `parallel.pipeline.stage`).
      guidance: the scale of classifier-free guidance; 1 is none. The two branches are two halves
        of the mesh where it has cfg=2, and two halves of the batch elsewhere.
      warmup: the number of synchronous steps at the start, exactly; at least 1. For "stale" and
        "pipefusion".
      policy: (steps,) from `parallel.stale.policies`, in place of warmup: which steps are
        synchronous, or the tolerance that decides it. For "stale", and for "pipefusion" where no
        step depends on a tolerance.
      refresh: the number of steps between two exchanges after the last synchronous step; None: no
        more exchanges. For "stale".
      gather: "late" (keep this device's keys and values, gather those of others one layer ahead)
        or "early" (keep the copies of all devices). None: "late" where it is possible, that is
        with refresh=1 and residual=False. For "stale".
      forecast: what other devices receive: 0, the newest keys and values; 1, 2 or "tuned": their
        extrapolation to the row in which they are used (see `parallel.stale.forecast`); or a
        `Forecast` with weights of your own for each row. For "stale" and "pipefusion".
      correction: the fraction, from 0 to 1, of its own miss that a device adds to the stale part of
        attention's output (see `parallel.attention.corrected`); or (steps,) fractions, one for each
        step. None: `forecast.CORRECTION` with forecast="tuned", else 0. For "stale" and
        "pipefusion".
      comm_dtype: the number format of messages: None (that of the keys), "bfloat16", "int8" or
        "int4" (see `parallel.stale.precision`). For "stale".
      residual: send the error of the forecast instead of the forecast. Every device then keeps the
        keys and values of all devices, of as many rows as the forecast uses. For "stale".
      gains_per: which tokens have a gain in common with forecast="tuned": those of one "device"
        (with "pipefusion", of one patch), or none: each "token" has its own gain. For "stale" and
        "pipefusion".
      patches: the number M of patches of "pipefusion", which divides the number of tokens. The
        samples depend on M, not on the number of stages.
    """

    attention: str = "gather"
    guidance: float = 1.0
    warmup: int = 1
    policy: Any = None
    refresh: int | None = 1
    gather: str | None = None
    forecast: int | str | Forecast = 0
    correction: float | Sequence[float] | None = None
    comm_dtype: str | None = None
    residual: bool = False
    gains_per: str = "device"
    patches: int | None = None

    @property
    def exchange_method(self) -> str:
        """The name of the method in `parallel.stale.exchange`: "late", "early" or "residual"."""
        if self.residual:
            return "residual"
        return self.gather or ("late" if self.refresh == 1 else "early")


# Which options each kind of attention has


class Use(NamedTuple):
    """What a kind of attention does with the options.

    Attributes:
      is_exact: whether all rows are synchronous.
      refused: the options that must have their defaults.
      reason: why, and the way out; the end of the refusal.
    """

    is_exact: bool
    refused: tuple[str, ...]
    reason: str


# All other options are about copies, of which exact attention has none.
_EXACT = Use(
    is_exact=True,
    refused=tuple(name for name in Options._fields if name not in ("attention", "guidance")),
    reason="which is exact in every row; leave it, or take attention='stale'",
)
USES = {
    "gather": _EXACT,
    "ulysses": _EXACT,
    "ring": _EXACT,
    "ulysses_ring": _EXACT,
    "stale": Use(
        is_exact=False,
        refused=("patches",),
        reason="which splits an image over devices and not over time; leave it, or take "
        "attention='pipefusion'",
    ),
    "pipefusion": Use(
        is_exact=False,
        refused=("refresh", "gather", "comm_dtype", "residual"),
        reason="where no stage sends keys and values to another; leave it",
    ),
}
ATTENTIONS = tuple(USES)


# Refusals


def from_keywords(name: str, keywords: Mapping[str, Any]) -> Options:
    """`Options` from the keywords of the public function `name`; an unknown one is refused."""
    for keyword in keywords:
        check_choice(name, "the option", keyword, Options._fields)
    return Options(**keywords)


def check(
    name: str,
    options: Options,
    plan: Plan,
    attentions: Sequence[str] = ATTENTIONS,
) -> None:
    """Refuse options that do not fit each other or the plan. Nothing here depends on a mesh.

    Args:
      name: the public function in whose name the refusal speaks.
      options: `Options`.
      plan: a `Plan` with known numbers.
      attentions: the kinds of attention that this function has.

    Raises:
      ValueError: the first option that does not fit.
    """
    check_choice(name, "attention", options.attention, attentions)
    check_guidance(name, options.guidance)
    use = USES[options.attention]
    for option in use.refused:
        value = getattr(options, option)
        if not is_default(option, value):
            raise ValueError(
                f"{name}: {option}={value!r} with attention={options.attention!r}, {use.reason}."
            )
    # Exact attention has refused all of these options.
    if not use.is_exact:
        _check_values(name, options, plan)
        _check_synchronous_steps(name, options, plan.steps)
        _check_exchange(name, options)


def check_guidance(name: str, guidance: float) -> None:
    """Refuse a scale of guidance that is not a finite number."""
    if not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
        raise ValueError(f"{name}: guidance={guidance!r}; wanted a number, 1 for none.")


def check_correction(name: str, correction: float | Sequence[float] | None, steps: int) -> None:
    """Refuse a correction that is not a fraction from 0 to 1, one for each step, or None."""
    if correction is None:
        return
    found = np.asarray(correction)
    is_number = found.dtype.kind in "fiu" and found.shape in ((), (steps,))
    if not is_number or not np.all((found >= 0) & (found <= 1)):
        raise ValueError(
            f"{name}: correction={correction!r}; wanted a fraction from 0 to 1 of what the copies "
            f"of a device's own values missed, {steps} of them for {steps} steps, or None."
        )


def _check_values(name, options, plan):
    """Refuse a value that its option does not have."""
    if options.gather is not None:
        check_choice(name, "gather", options.gather, ("late", "early"))
    forecasts.check(name, options.forecast, plan.rows)
    check_correction(name, options.correction, plan.steps)
    bits_of(name, options.comm_dtype)
    check_choice(name, "gains_per", options.gains_per, ("device", "token"))


def _check_synchronous_steps(name, options, steps):
    """Refuse a warm-up or a policy that does not fit the steps, and both together."""
    warmup = options.warmup
    if not is_whole(warmup, 1, steps):
        raise ValueError(
            f"{name}: warmup={warmup!r} of {steps} steps; wanted an integer from 1, since the "
            f"first step has no copies to attend to, to {steps}, where every step is synchronous."
        )
    if options.policy is None:
        return
    policies.check(name, options.policy, steps)
    if warmup != 1:
        raise ValueError(
            f"{name}: warmup={warmup} and a policy, which decides by itself what is synchronous; "
            f"leave warmup, or take np.minimum(policy, policies.warm_up({steps}, {warmup}))."
        )


def _check_exchange(name, options):
    """Refuse a refresh that does not fit the other options."""
    refresh = options.refresh
    if refresh is not None and not is_whole(refresh, 1):
        raise ValueError(
            f"{name}: refresh={refresh!r}; wanted an integer from 1, or None: no exchange after "
            "the last synchronous step."
        )
    # A policy, a forecast and a residual need the keys and values of the step before.
    forecasts_by_itself = isinstance(options.forecast, Forecast) or options.forecast != 0
    if refresh != 1 and (options.policy is not None or forecasts_by_itself or options.residual):
        raise ValueError(
            f"{name}: refresh={refresh} with a policy, forecast or residual; these want an "
            "exchange in every step: take refresh=1."
        )
    # Where a copy serves several steps, or is reconstructed, it must be kept.
    if options.gather == "late" and (refresh != 1 or options.residual):
        needs = "residual=True" if options.residual else f"refresh={refresh}"
        raise ValueError(
            f"{name}: gather='late' keeps no keys and values of other devices, and {needs} needs "
            "them; take gather='early'."
        )


def is_default(option: str, value: Any) -> bool:
    """Whether the option has its default, or a value that asks for the same."""
    default = Options._field_defaults[option]
    # Fractions that are all 0 ask for no correction, as None does without a forecast.
    if option == "correction" and value is not None:
        return not np.any(value)
    # A policy is an array, and comparing it with None would be elementwise.
    if value is None or default is None or isinstance(value, Forecast):
        return value is default
    return value == default
