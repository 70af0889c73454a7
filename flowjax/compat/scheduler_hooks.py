"""The corrections of the data prediction that a scheduler of diffusers makes: clip and threshold.

A plan holds the solver alone. These corrections are hooks of `flowjax.sample`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import guidance
from flowjax.compat.scheduler_config import Options, read, schedule_of
from flowjax.compat.scheduler_options import full_name
from flowjax.plans import Plan

DataHook = Callable[[jax.Array, jax.Array], jax.Array]


class Correction(NamedTuple):
    """A correction of the data prediction.

    Attributes:
      option: the option that switches it on.
      reason: what the class does, in words.
      hook: (data, t) -> data.
      keeps_noise: the class takes the corrected data, but the noise of the prediction as it was.
    """

    option: str
    reason: str
    hook: DataHook
    keeps_noise: bool


def diffusers_data_hook(config: Mapping[str, Any], plan: Plan, **overrides: Any) -> DataHook | None:
    """The data_hook with which `flowjax.sample` corrects what the scheduler corrects.

    DDIM of diffusers clips the data prediction to [-1, 1] unless its file says clip_sample=False:

        plan = compat.diffusers_plan(config, 50, with_hook=True)
        hook = compat.diffusers_data_hook(config, plan)
        flowjax.sample(model, noise, plan, data_hook=hook)

    DDIM steps with the corrected data and the noise of the prediction as it was. A hook returns
    data alone, from which the sampler has the noise, so the hook of DDIM goes beyond the clip by
    just as much as gives diffusers' step: with the row x' = a x + b data, it returns

        clip(data) + k (clip(data) - data),      k = alpha(t) a/b.

    Args:
      config: the dictionary of a scheduler_config.json.
      plan: what `diffusers_plan` returned for it. The hook of DDIM belongs to this plan alone.
      overrides: options that replace those of `config`.

    Returns:
      Function (data, t) -> data, or None where the scheduler corrects nothing.

    Raises:
      ValueError: a class, option or value is not known here.
    """
    options = read("compat.diffusers_data_hook", config, overrides)
    correction = correction_of(options)
    if correction is None:
        return None
    if not correction.keeps_noise:
        return correction.hook
    times = np.asarray(plan.t)
    beyond = _beyond(plan, schedule_of(options))

    def hook(data: jax.Array, t: jax.Array) -> jax.Array:
        # The row that evaluates at this time.
        row = jnp.argmin(jnp.abs(jnp.asarray(times, data.dtype) - t))
        corrected = correction.hook(data, t)
        k = jnp.asarray(beyond, data.dtype)[row]
        return corrected + k * (corrected - data)

    return hook


def correction_of(options: Options) -> Correction | None:
    """The correction of these options, or None.

    Args:
      options: as `scheduler_config.read` returns them.
    """
    class_name = full_name(options["class"])
    keeps_noise = options["class"] == "DDIM"
    # UniPC in its noise form corrects nothing.
    if options.get("thresholding") and options.get("predict_x0", True):
        hook = guidance.dynamic_threshold(
            options["dynamic_thresholding_ratio"], least=1.0, most=options["sample_max_value"]
        )
        reason = f"{class_name} with thresholding=True limits the data prediction by its quantile"
        return Correction("thresholding", reason, hook, keeps_noise)
    # Thresholding takes the place of the clip.
    if options.get("clip_sample"):
        limit = options["clip_sample_range"]

        def clip(data: jax.Array, t: jax.Array) -> jax.Array:
            return jnp.clip(data, -limit, limit)

        reason = (
            f"{class_name} with clip_sample=True clips the data prediction to [{-limit:g}, "
            f"{limit:g}] (it is on by default in DDIM)"
        )
        return Correction("clip_sample", reason, clip, keeps_noise)
    return None


def _beyond(plan, schedule):
    """How far the hook of DDIM goes beyond the correction, k of each row, (rows,).

    With the corrected data e and the noise as it was, (x - alpha data)/sigma, the row's state is
    x' = a (x - alpha data) + alpha' e, where alpha' = alpha a + b. A hook that returns h gives
    x' = a x + b h instead, so h = e + alpha a/b (e - data).
    """
    weight = plan.b[:, 0]
    # A row that uses no evaluation, such as a last step of no length, needs no hook.
    is_used = weight != 0
    k = schedule.alpha(plan.t) * plan.a / np.where(is_used, weight, 1.0)
    return np.where(is_used, k, 0.0)
