"""Plans from the scheduler_config.json of diffusers: its class and options become a grid and the arguments of a plan.

A discrete VP network of N training steps is told an index n = 0..N-1; that is t = (n + 1)/N here. Flow networks are told
1000 t. Wrap either with `flowjax.schedules.as_velocity(network, diffusers_schedule(config), kind, label)`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from flowjax import grids, plans
from flowjax.compat.scheduler_config import NETWORKS, read, schedule_of
from flowjax.errors import check_choice
from flowjax.schedules import Linear


class Steps(NamedTuple):
    """Where a scheduler evaluates: times (n,), the labels told there (n,), and the time of the result."""

    times: np.ndarray
    told: np.ndarray
    end: float


def diffusers_schedule(config, **overrides):
    """The schedule of a scheduler_config.json dictionary: `Linear()`, or the VP schedule of its betas with all its nodes.

    The same object for the same betas, so that it can be a static argument of compiled functions.
    """
    return schedule_of(read("compat.diffusers_schedule", config, overrides))


def diffusers_plan(
    config,
    steps,
    *,
    mu=None,
    eta=0.0,
    labels="continuous",
    grid="corrected",
    third_order="published",
    **overrides,
):
    """The plan that a scheduler of diffusers runs in `steps` steps.

    Args:
      config: the dictionary of a scheduler_config.json, "_class_name" among it (those known are the keys of
        `scheduler_config.DEFAULTS`). Options left out have the defaults of that class.
      steps: num_inference_steps.
      mu: exponent of the dynamic shift, needed where use_dynamic_shifting is on: the shift is exp(mu), or mu itself where
        time_shift_type is "linear". `numpy.log(grids.dynamic_shift(tokens))` is FLUX's.
      eta: of DDIM, 0 deterministic to 1 ancestral.
      labels: "continuous" tells the network the time where the state lies; "peers" the truncated or rounded label of
        diffusers.
      grid: "corrected", or "peers" where diffusers does something else: FlowMatchEuler and Heun shift the smallest time
        twice and then still step from it to 0; UniPC begins at 1 - 1e-6; DEIS on a flow ends above 0; DDIM's steps miss
        the next evaluation unless `steps` divides the training steps; a last step of no length costs an evaluation.
      third_order: "published" is what diffusers does, "exact" has order 3; the third order of "sde-dpmsolver++" also
        has "diffusers", its wrong sign (see `plans.dpm_solver_sde`).
      overrides: options that replace those of `config`.

    Returns:
      A Plan.
    """
    name = "compat.diffusers_plan"
    check_choice(name, "labels", labels, ("continuous", "peers"))
    check_choice(name, "grid", grid, ("corrected", "peers"))
    c = read(name, config, overrides)
    schedule, peers = schedule_of(c), grid == "peers"
    at = (
        _flow_steps(c, steps, mu, peers)
        if isinstance(schedule, Linear)
        else _vp_steps(c, schedule, steps)
    )
    still = at.end >= at.times[-1] * (1 - 1e-9)  # the last step has no length
    if c["class"] == "DDIM":
        plan = _ddim(c, schedule, at, steps, eta, peers)
    else:
        times = at.times if still else np.append(at.times, at.end)
        if len(times) < 2:
            raise ValueError(
                f"{name}: steps={steps} leaves no step of positive length; take more steps."
            )
        plan = _SOLVERS[c["class"]](c, schedule, times, len(at.times), still, third_order)
    told = (
        np.append(at.told[:1], np.repeat(at.told[1:], 2))
        if c["class"].endswith("Heun")
        else at.told
    )
    if still and peers:
        if c["class"] == "UniPCMultistep":
            raise ValueError(
                f"{name}: grid='peers' does not have UniPC with a last step of no length; keep 'corrected'."
            )
        plan = plans.pad(plan, plan.rows + 1)._replace(counted=np.ones(plan.rows + 1, bool))
    if labels == "peers":
        network = "velocity" if isinstance(schedule, Linear) else NETWORKS[c["prediction_type"]]
        plan = plans.with_labels(plan, told[: plan.rows], network=network, schedule=schedule)
    return plan


def _flow_steps(c, steps, mu, peers):
    """Times of the flow schedulers. The arithmetic keeps diffusers' order, so that truncated labels fall alike."""
    train, matched, dynamic = (
        c["num_train_timesteps"],
        c["class"].startswith("FlowMatch"),
        c.get("use_dynamic_shifting"),
    )
    shift = c["shift"] if matched else c["flow_shift"]
    if dynamic and mu is None:
        raise ValueError(
            "compat.diffusers_plan: use_dynamic_shifting is on and mu is None; pass mu, for example "
            "mu=numpy.log(grids.dynamic_shift(tokens)), or use_dynamic_shifting=False."
        )
    if dynamic:
        shift = math.exp(mu) if c["time_shift_type"] == "exponential" else mu
    if matched and peers:
        least = 1 / train if dynamic else float(grids.shifted(1 / train, shift))
        base = np.linspace(1, least, steps)
    elif matched:
        base = np.linspace(1, 0, steps + 1)[:-1]
    elif c["class"] == "UniPCMultistep":
        base = np.linspace(1, 1 / train, steps + 1)[:-1]
    else:
        base = (1 - np.linspace(1, 1 / train, steps + 1))[::-1][:-1]
    times = grids.shifted(base, shift)
    if c.get("shift_terminal"):
        times = grids.stretched(np.append(times, 0.0), c["shift_terminal"])[:-1]
    kind = _respacing(c)
    if kind and matched:
        times = np.append(times[0], _respaced(kind, times[0], times[-1], steps)[1:])
    elif kind:  # the noise-to-signal ratios of the VP betas, as in UniPC
        ratios = np.exp(-_nodes(schedule_of({**c, "use_flow_sigmas": False})))
        times = Linear().time_of_log_snr(-np.log(_respaced(kind, ratios[-1], ratios[0], steps)))
    if peers and c["class"] == "UniPCMultistep" and abs(times[0] - 1) < 1e-6:
        times[0] -= 1e-6
    told = times if matched else np.floor(times * train) / train
    stays = c.get("final_sigmas_type") == "sigma_min" or (peers and c["class"] == "DEISMultistep")
    return Steps(times, told, times[-1] if stays else 0.0)


def _vp_steps(c, schedule, steps):
    """Times of the VP schedulers, from integer training steps or from respaced ratios sigma/alpha."""
    train, log_snr = schedule.steps, _nodes(schedule)
    own = c["class"] in (
        "DDIM",
        "Euler",
        "Heun",
    )  # these spread `steps` points, the others steps + 1 without the last
    used = train - int(np.searchsorted(log_snr[::-1], c.get("lambda_min_clipped", -math.inf)))
    points = steps if own else steps + 1
    if c["timestep_spacing"] == "linspace":
        index = np.linspace(0, used - 1, points)[::-1][:steps]
        index = index if c["class"] in ("Euler", "Heun") else index.round()
    elif c["timestep_spacing"] == "leading":
        index = (np.arange(points) * (used // points))[::-1][:steps] + float(c["steps_offset"])
    else:
        index = (used - np.arange(steps) * (train / steps)).round() - 1
        index = index[index >= 0]
    if index[0] > train - 1:
        raise ValueError(
            f"compat.diffusers_plan: steps_offset={c['steps_offset']} leads to step {index[0]:g} of {train}."
        )
    ratios, kind, times = np.exp(-log_snr), _respacing(c), (index + 1) / train
    at_index = np.interp(index, np.arange(train), ratios)
    if kind:
        ends = (at_index[0], at_index[-1]) if own else (ratios[-1], ratios[0])
        spaced = _respaced(kind, *ends, steps)
        times = schedule.time_of_log_snr(-np.log(spaced))
        index = np.interp(np.log(spaced), -log_snr, np.arange(train))
        index = plans.snap_labels(index, 1) if own else _whole(index, c, kind)
    elif np.any(index != np.round(index)):
        times = schedule.time_of_log_snr(-np.log(at_index))
    if c["class"] == "DDIM":
        end = 0.0 if c["set_alpha_to_one"] else 1 / train
    elif c["class"] == "DEISMultistep":
        end = times[-1] if kind else 1 / train
    elif c.get("final_sigmas_type") == "sigma_min":
        end = times[-1] if kind else 1 / train
    else:
        end = 0.0
    return Steps(times, (index + 1) / train, end)


def _nodes(schedule):
    return schedule.log_snr(np.arange(1, schedule.steps + 1) / schedule.steps)


def _whole(index, c, kind):
    """Rounded where diffusers rounds, truncated elsewhere (a hair below a whole number is that number)."""
    smooth = c["class"] == "DPMSolverMultistep" and c["beta_schedule"] == "squaredcos_cap_v2"
    return np.round(index) if kind in ("karras", "lu") and not smooth else np.floor(index + 1e-6)


def _respacing(c):
    names = {
        "use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta",
        "use_lu_lambdas": "lu",
    }  # fmt: skip
    return next((kind for key, kind in names.items() if c.get(key)), None)


def _respaced(kind, high, low, count):
    """`count` values from `high` to `low`: the laws of `grids.karras`, `.exponential` and `.beta` for any quantity."""
    u = np.linspace(0, 1, count)
    if kind == "karras":
        return (high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if kind == "beta":
        return low + stats.beta.ppf(1 - u, 0.6, 0.6) * (high - low)
    return np.exp(np.log(high) + u * (np.log(low) - np.log(high)))


def _caps(c, count, still, zero):
    """Caps of the last steps in the form `final` takes; `count` steps, the last of them dropped if it has no length."""
    few = c["lower_order_final"] and count < 15
    last = 1 if zero or few or c.get("euler_at_final") else 3
    caps = (2 if few else 3, last)[-count:]
    return caps[:-1] if still else caps


def _order(c, times):
    return min(c["solver_order"], len(times) - 1)


def _dpm_multistep(c, schedule, times, count, still, third_order):
    algorithm = c["algorithm_type"]
    options = {
        "third_order": third_order, "variant": "midpoint" if c["solver_type"] == "midpoint" else "taylor",
        "prediction": "data" if algorithm.endswith("++") else "noise",
        "final": _caps(c, count, still, times[-1] == 0),
    }  # fmt: skip
    solver = plans.dpm_solver_sde if algorithm.startswith("sde") else plans.dpm_solver_pp
    return solver(schedule, times, _order(c, times), **options)


def _dpm_singlestep(c, schedule, times, count, still, third_order):
    """Blocks of 1, 2, 3, 1, 2, 3, ... as diffusers calls them: a block begins wherever that list has a 1."""
    steps, order = len(times) - 1, c["solver_order"]
    zero = times[-1] == 0
    whole, rest = divmod(steps, order)
    sizes = [order] * whole + [rest] * (rest > 0)
    if rest == 0 and order > 1 and (c["lower_order_final"] or zero):
        sizes[-1:] = [order - 1, 1]
    elif zero and sizes[-1] > 1:
        sizes[-1:] = [sizes[-1] - 1, 1]
    ends = np.append(0, np.cumsum(sizes))
    blocks = [tuple(times[i : j + 1]) for i, j in zip(ends[:-1], ends[1:], strict=True)]
    variant = "midpoint" if c["solver_type"] == "midpoint" else "taylor"
    prediction = "data" if c["algorithm_type"] == "dpmsolver++" else "noise"
    return plans.singlestep(
        schedule, blocks, variant=variant, substep_variant=variant, prediction=prediction
    )


def _unipc(c, schedule, times, count, still, third_order):
    off = sorted(c["disable_corrector"])
    if off and not set(range(count - 1)) <= set(off):
        raise ValueError(
            f"compat.diffusers_plan: disable_corrector={off!r} switches the corrector off at some steps; plans.unipc has it "
            f"on ([]) or off (list(range({count})))."
        )
    lowered = (2,) if still else "sana"
    return plans.unipc(
        schedule, times, _order(c, times), corrector=not off, variant=c["solver_type"],
        prediction="data" if c["predict_x0"] else "noise", final=lowered if c["lower_order_final"] else "auto",
    )  # fmt: skip


def _deis(c, schedule, times, count, still, third_order):
    """A polynomial in log(sigma/alpha), which is DPM-Solver in its "taylor" form with the exact third order."""
    return plans.dpm_solver_pp(
        schedule, times, _order(c, times), third_order="exact", variant="taylor", prediction="noise",
        final=_caps(c, count, still, times[-1] == 0),
    )  # fmt: skip


def _ddim(c, schedule, at, steps, eta, peers):
    train = schedule.steps
    if not peers:
        times = at.times if at.end >= at.times[-1] else np.append(at.times, at.end)
        return plans.ddim(schedule, times, eta)
    # Each step goes back by train//steps from its own index, and the next takes the state to lie at its own time.
    back = at.times - (train // steps) / train
    ends = [at.end if t < 0.5 / train else t for t in back]
    plan = None
    for i, (t0, t1) in enumerate(zip(at.times, ends, strict=True)):
        if t1 >= t0:
            continue
        lies = at.times[i + 1] if i + 1 < len(ends) else t1
        step = plans.ddim(schedule, [t0, t1], eta)._replace(t_next=np.array([lies]))
        plan = step if plan is None else plans.concat(plan, step)
    return plan


_SOLVERS = {
    "FlowMatchEuler": lambda c, schedule, times, *_: plans.euler(times),
    "FlowMatchHeun": lambda c, schedule, times, *_: plans.heun(times),
    "DPMSolverMultistep": _dpm_multistep,
    "DPMSolverSinglestep": _dpm_singlestep,
    "UniPCMultistep": _unipc,
    "DEISMultistep": _deis,
    "Euler": lambda c, schedule, times, *_: plans.ddim(schedule, times),
    "Heun": lambda c, schedule, times, *_: plans.heun(times, schedule=schedule),
}
