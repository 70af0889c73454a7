"""Plans from a scheduler_config.json of diffusers.

A discrete VP network of N training steps receives an index n = 0, ..., N-1; here that is the time
t = (n + 1)/N. A flow network receives 1000 t. Wrap either with

    flowjax.schedules.as_velocity(
        network,
        diffusers_schedule(config),
        diffusers_prediction(config),
        diffusers_label(config),
    )
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flowjax import plans
from flowjax.compat.scheduler_config import (
    is_told_noise_level,
    network_of,
    read,
    schedule_of,
)
from flowjax.compat.scheduler_flow_times import flow_evaluations
from flowjax.compat.scheduler_hooks import correction_of
from flowjax.compat.scheduler_lists import Asked, own_times, steps_of_strength
from flowjax.compat.scheduler_rules import RULES
from flowjax.compat.scheduler_solvers import Request
from flowjax.compat.scheduler_values import check_number
from flowjax.compat.scheduler_vp_times import vp_evaluations
from flowjax.errors import check_choice
from flowjax.plans import Plan
from flowjax.schedules import Linear, Schedule, VPDiscrete, array_module
from flowjax.types import Array, Times


def diffusers_schedule(config: Mapping[str, Any], **overrides: Any) -> Schedule:
    """The schedule of a scheduler_config.json.

    It is `Linear()` for a flow and the VP schedule of the betas otherwise: the same object for the
    same betas, so that it can be a static argument of compiled functions. A network that is told
    its noise level (timestep_type="continuous" with v_prediction) has `Cosine()`, the path on which
    sigma/alpha takes every value.

    Args:
      config: the dictionary of a scheduler_config.json.
      overrides: options that replace those of `config`.

    Raises:
      ValueError: a class, option or value is not known here.
    """
    return schedule_of(read("compat.diffusers_schedule", config, overrides))


def diffusers_prediction(config: Mapping[str, Any], **overrides: Any) -> str:
    """What the network of a scheduler predicts: one of `flowjax.schedules.PREDICTIONS`.

    Args:
      config: the dictionary of a scheduler_config.json.
      overrides: options that replace those of `config`.

    Raises:
      ValueError: a class, option or value is not known here.
    """
    return network_of(read("compat.diffusers_prediction", config, overrides))


def diffusers_label(config: Mapping[str, Any], **overrides: Any) -> Callable[[Times], Array]:
    """The function from t to the number that the network of a scheduler receives.

        flow                                           N t
        VP, discrete                                   N t - 1, the index of the training step
        VP, timestep_type="continuous", v_prediction   log(sigma/alpha)/4

    with N training steps. An index is never below 0: diffusers has no label there either.

    Args:
      config: the dictionary of a scheduler_config.json.
      overrides: options that replace those of `config`.

    Returns:
      Function of times of any shape, numpy or jax.numpy. Of a plan take `plan.label_time`, which
      with labels="peers" gives the truncated or rounded numbers of diffusers.

    Raises:
      ValueError: a class, option or value is not known here.
    """
    options = read("compat.diffusers_label", config, overrides)
    schedule = schedule_of(options)

    # One of these three is the function.
    def flow_label(t: Times) -> Array:
        return options["num_train_timesteps"] * t

    def noise_level(t: Times) -> Array:
        return schedule.log_snr(t) / -4

    def index(t: Times) -> Array:
        return array_module(t).maximum(schedule.steps * t - 1, 0.0)

    if isinstance(schedule, Linear):
        return flow_label
    return noise_level if is_told_noise_level(options) else index


def diffusers_plan(
    config: Mapping[str, Any],
    steps: int | None = None,
    *,
    mu: float | None = None,
    eta: float = 0.0,
    strength: float = 1.0,
    sigmas: Sequence[float] | None = None,
    timesteps: Sequence[float] | None = None,
    labels: str = "continuous",
    grid: str = "corrected",
    third_order: str = "published",
    with_hook: bool = False,
    **overrides: Any,
) -> Plan:
    """The plan that a scheduler of diffusers runs in `steps` steps.

    Args:
      config: the dictionary of a scheduler_config.json, with "_class_name" (the known classes are
        the keys of `scheduler_options.OPTIONS`). An option that is left out has the default of that
        class.
      steps: the num_inference_steps of diffusers; None with `sigmas` or `timesteps`.
      mu: exponent of the dynamic shift, needed where use_dynamic_shifting is on. The shift is
        exp(mu), or mu itself where time_shift_type is "linear".
        `numpy.log(grids.dynamic_shift(tokens))` is that of FLUX.
      eta: of DDIM, from 0 (deterministic) to 1 (ancestral).
      strength: of image-to-image. The plan is the last steps * strength steps, and begins at
        plan.t[0] without a history; the state there is the schedule's add_noise(data, noise, t).
        The number is rounded as in the pipelines of diffusers: up for FlowMatchEuler and
        FlowMatchHeun, down for the other classes, on flows too.
      sigmas: noise levels in place of a number of steps. FlowMatchEuler and UniPC on flows take one
        a step, before the shift; Euler takes sigma/alpha with the end of the last step besides.
      timesteps: times in place of a number of steps, in the numbers of the network. The DPM-Solver
        classes, Euler and Heun take them on VP networks. FlowMatchEuler takes them as the states
        before the shift and as labels="peers"; with `sigmas` besides they are the labels alone.
      labels: "continuous" gives the network the time of the state; "peers" gives it the truncated
        or rounded label of diffusers.
      grid: "corrected", or "peers" where diffusers does something else. In diffusers,
        FlowMatchEuler and FlowMatchHeun shift the smallest time twice and then still step from it
        to 0; UniPC begins at 1 - 1e-6; DEIS on a flow ends above 0; the steps of DDIM miss the
        time of the next evaluation unless `steps` divides the number of training steps; and a last
        step of no length costs an evaluation.
      third_order: "published" is what diffusers does, "exact" has order 3. The third order of
        "sde-dpmsolver++" also has "diffusers", with the wrong sign of diffusers (see
        `plans.dpm_solver_sde`).
      with_hook: a config that clips or thresholds the data prediction needs
        data_hook=diffusers_data_hook(config, plan) in `flowjax.sample`. True says that the caller
        passes it; False refuses such a config.
      overrides: options that replace those of `config`; "_class_name" reads it as another class.

    Raises:
      ValueError: a class, option or value is not known here; the dynamic shift lacks `mu`; the
        config corrects the data prediction and `with_hook` is False; or a step has no length.
    """
    name = "compat.diffusers_plan"
    check_choice(name, "labels", labels, ("continuous", "peers"))
    check_choice(name, "grid", grid, ("corrected", "peers"))
    check_number(name, "eta", eta, least=0, most=1, example=0.0)

    # What the file says. A plan alone cannot correct the data prediction.
    options = read(name, config, overrides)
    correction = correction_of(options)
    if correction and not with_hook:
        raise ValueError(
            f"{name}: {correction.reason}, which a plan alone does not; give flowjax.sample "
            "data_hook=compat.diffusers_data_hook(config, plan) and pass with_hook=True here, or "
            f"set {correction.option}=False."
        )
    schedule = schedule_of(options)
    rules = RULES[options["class"]]
    peers = grid == "peers"

    # Where the network is evaluated.
    steps, sigmas, timesteps = own_times(name, options, rules.accepted, steps, sigmas, timesteps)
    asked = Asked(steps, mu, peers, sigmas, timesteps)
    if isinstance(schedule, Linear):
        evaluations = flow_evaluations(options, rules.flow, asked)
    else:
        evaluations = vp_evaluations(options, rules.vp, schedule, asked)
    # Image-to-image takes the last of them.
    count = len(evaluations.times)
    # The classes that have flows alone have pipelines of their own.
    taken = steps_of_strength(name, count, strength, rounds_up=rules.vp is None)
    evaluations = evaluations.last(taken)

    # The plan on those times.
    request = Request(options, schedule, evaluations, count, eta, third_order, peers)
    _check_grid(name, request)
    plan = rules.make_plan(request)
    if peers and evaluations.last_step_is_empty:
        # diffusers evaluates the network there all the same, so the row counts.
        rows = plan.rows + 1
        plan = plans.pad(plan, rows)._replace(counted=np.ones(rows, bool))

    # The times that the network receives, one for each row.
    row_labels = plan.label_time
    if labels == "peers" or evaluations.labels_given:
        first, later = np.split(evaluations.label_times, [1])
        row_labels = np.append(first, np.repeat(later, rules.evaluations_per_step))[: plan.rows]
    elif isinstance(schedule, VPDiscrete):
        # No network has a label below its first training step.
        row_labels = np.maximum(row_labels, 1 / schedule.steps)
    if np.array_equal(row_labels, plan.label_time):
        return plan
    return plans.with_labels(plan, row_labels, network=network_of(options), schedule=schedule)


def _check_grid(name, request):
    """Refuse a grid that does not decrease, with the reason for which it may not."""
    evaluations, grid = request.evaluations, request.grid
    times, end = evaluations.times, evaluations.end
    # The last step must not lead back to more noise ...
    if end > times[-1] * (1 + 1e-9):
        raise ValueError(
            f"{name}: final_sigmas_type='sigma_min' ends at t = {end:.6g}, the noise level of the "
            f"first training step, and the last evaluation lies below it, at t = {times[-1]:.6g}; "
            "take fewer steps, a larger sigma_min, or final_sigmas_type='zero'."
        )
    # ... and there must be a step at all ...
    if len(grid) < 2:
        raise ValueError(
            f"{name}: steps={request.steps} leaves no step of positive length; take more steps."
        )
    # ... of positive length, like all others.
    equal = np.flatnonzero(np.diff(grid) >= 0)
    if len(equal):
        i = equal[0]
        raise ValueError(
            f"{name}: evaluations {i + 1} and {i + 2} of steps={request.steps} lie at t = "
            f"{grid[i]:.6g} and {grid[i + 1]:.6g}, so that the step between them has no length; "
            "take fewer steps, or a smaller shift (mu)."
        )
