"""Plans from a scheduler_config.json of diffusers.

A discrete VP network of N training steps receives an index n = 0, ..., N-1; here that is the time
t = (n + 1)/N. A flow network receives 1000 t. Wrap either with
`flowjax.schedules.as_velocity(network, diffusers_schedule(config), kind, label)`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flowjax import plans
from flowjax.compat.scheduler_config import NETWORKS, read, schedule_of
from flowjax.compat.scheduler_rules import RULES
from flowjax.compat.scheduler_solvers import Request
from flowjax.compat.scheduler_times import flow_evaluations, vp_evaluations
from flowjax.errors import check_choice
from flowjax.plans import Plan
from flowjax.schedules import Linear, Schedule


def diffusers_schedule(config: Mapping[str, Any], **overrides: Any) -> Schedule:
    """The schedule of a scheduler_config.json: `Linear()`, or the VP schedule of its betas.

    It is the same object for the same betas, so that it can be a static argument of compiled
    functions.

    Args:
      config: the dictionary of a scheduler_config.json.
      overrides: options that replace those of `config`.

    Raises:
      ValueError: a class, option or value is not known here.
    """
    return schedule_of(read("compat.diffusers_schedule", config, overrides))


def diffusers_plan(
    config: Mapping[str, Any],
    steps: int,
    *,
    mu: float | None = None,
    eta: float = 0.0,
    labels: str = "continuous",
    grid: str = "corrected",
    third_order: str = "published",
    **overrides: Any,
) -> Plan:
    """The plan that a scheduler of diffusers runs in `steps` steps.

    Args:
      config: the dictionary of a scheduler_config.json, with "_class_name" (the known classes are
        the keys of `scheduler_config.DEFAULTS`). An option that is left out has the default of
        that class.
      steps: the num_inference_steps of diffusers.
      mu: exponent of the dynamic shift, needed where use_dynamic_shifting is on. The shift is
        exp(mu), or mu itself where time_shift_type is "linear".
        `numpy.log(grids.dynamic_shift(tokens))` is that of FLUX.
      eta: of DDIM, from 0 (deterministic) to 1 (ancestral).
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
      overrides: options that replace those of `config`.

    Raises:
      ValueError: a class, option or value is not known here; the dynamic shift lacks `mu`; or the
        steps have no length.
    """
    name = "compat.diffusers_plan"
    check_choice(name, "labels", labels, ("continuous", "peers"))
    check_choice(name, "grid", grid, ("corrected", "peers"))
    options = read(name, config, overrides)
    schedule = schedule_of(options)
    rules = RULES[options["class"]]
    peers = grid == "peers"
    is_flow = isinstance(schedule, Linear)

    # Where the network is evaluated.
    if is_flow:
        evaluations = flow_evaluations(options, rules.flow, steps, mu, peers)
    else:
        evaluations = vp_evaluations(options, rules.vp, schedule, steps)

    # The plan on those times.
    request = Request(options, schedule, evaluations, steps, eta, third_order, peers)
    if len(request.grid) < 2:
        raise ValueError(
            f"{name}: steps={steps} leaves no step of positive length; take more steps."
        )
    plan = rules.make_plan(request)
    if peers and evaluations.last_step_is_empty:
        # diffusers evaluates the network there all the same, so the row counts.
        rows = plan.rows + 1
        plan = plans.pad(plan, rows)._replace(counted=np.ones(rows, bool))

    # The labels of diffusers, one for each row.
    if labels == "peers":
        first, later = np.split(evaluations.label_times, [1])
        row_labels = np.append(first, np.repeat(later, rules.evaluations_per_step))
        network = "velocity" if is_flow else NETWORKS[options["prediction_type"]]
        plan = plans.with_labels(plan, row_labels[: plan.rows], network=network, schedule=schedule)
    return plan
