"""Families of DPM-Solver and SANA.

Each function takes (folder, case), as `tests.golden` describes, and returns our array; FAMILIES
names them.
"""

import functools
import re

import numpy as np

from flowjax import compat, plans
from flowjax.schedules import Linear
from tests.golden.folder import run

# Options of a case that are not the solver's
_NOT_OPTIONS = {
    "dtype",
    "start",
    "correcting_xt",
    "dynamic_thresholding_ratio",
    "thresholding_max_val",
}
THIRD_ORDERS = {None: "published", 1: "published", 2: "exact"}  # by the second difference's factor


def dpm_solver_options(folder, case, **extra):
    """(schedule, plan) of a case in the vocabulary of DPM-Solver and SANA."""
    options = {k: v for k, v in case["options"].items() if k not in _NOT_OPTIONS} | extra
    # The option is a boolean, or the words of the upstream rule; without it the code decides.
    lower = options.get("lower_order_final", True)
    if "lower_order_final" in options:
        sana = lower is True
    else:
        sana = "Sana" in folder.source(case)
    options["lower_order_final"] = bool(lower)
    if options.get("denoise_to_zero"):
        options["denoise_to_zero"] = "peers"
    schedule = compat.dpm_solver_schedule(
        options.get("schedule", "discrete_flow"), options.get("total_N")
    )
    third = THIRD_ORDERS[options.pop("second_difference_factor", None)]
    plan = compat.dpm_solver_plan(
        options | {"schedule": schedule}, code="sana" if sana else "upstream", third_order=third
    )
    return schedule, plan


def multistep(folder, case, method="multistep", **how):
    schedule, plan = dpm_solver_options(folder, case, method=method)
    return run(folder, case, schedule, plan, **how)


def multistep_thresholding(folder, case):
    options = case["options"]
    numbers = [options["dynamic_thresholding_ratio"], options["thresholding_max_val"]]
    return multistep(folder, case, hook="data", numbers=numbers)


def multistep_correcting_xt(folder, case):
    rule = case["options"]["correcting_xt"]
    factor = re.match(r"x -> x\*\(1-([0-9.]+)\*step\)", rule)
    if factor is None:
        raise ValueError(f"the rule {rule!r} is not known")
    return multistep(folder, case, hook="state", numbers=float(factor[1]))


def inverse(folder, case):
    text = case["options"]["start"]
    place = re.fullmatch(r"fields\.npz\[<field>__(\w+)\] at t=1/(\d+)", text)
    if place is None:
        raise ValueError(f"the start {text!r} is not known")
    name, nodes = place.groups()
    schedule, plan = dpm_solver_options(folder, case, t_start=1 / int(nodes), t_end=1.0)
    return run(folder, case, schedule, plan, start=folder.given(case, name))


def third_diffusers_rule(folder, case):
    options = case["options"]
    if not options["final_rule"].startswith("only the very last step is lowered to 1"):
        raise ValueError(f"the rule {options['final_rule']!r} is not known")
    third = THIRD_ORDERS[options["second_difference_factor"]]
    grid = _sana_grid(options)
    plan = plans.dpm_solver_pp(
        Linear(), grid, options["order"], third_order=third, final="diffusers"
    )
    return run(folder, case, Linear(), plan)


def euler_float64(folder, case):
    return run(folder, case, Linear(), plans.euler(_sana_grid(case["options"])))


def _sana_grid(options):
    return compat.dpm_solver_grid(
        Linear(),
        options["skip_type"],
        options["steps"],
        start=1.0,
        end=1e-3,
        shift=options["flow_shift"],
    )


def add_noise(folder, case):
    options = case["options"]
    schedule = compat.dpm_solver_schedule(options["schedule"], options.get("total_N"))

    def named(key):
        name = re.fullmatch(r"fields\.npz\[<field>__(\w+)\]", options[key])[1]
        return folder.given(case, name)

    return schedule.add_noise(named("x0"), named("noise"), options["t"])


def time_grid(folder, case):
    options = case["options"]
    schedule = compat.dpm_solver_schedule(options.get("schedule", "discrete_flow"))
    return compat.dpm_solver_grid(
        schedule,
        options["skip_type"],
        options["N"],
        start=options["t_T"],
        end=options["t_0"],
        shift=options.get("shift", 1.0),
    )


def vp_schedule(folder, case):
    schedule = compat.dpm_solver_schedule(case["options"]["schedule"], case["options"]["total_N"])
    # The first row of the original's output is the times, which nothing else in the case gives.
    t = folder.array(case["file"], case["id"])[0]
    log_snr = schedule.log_snr(t)
    back = schedule.time_of_log_snr(log_snr)
    return np.stack([t, schedule.log_alpha(t), schedule.sigma(t), log_snr, back])


def singlestep_plan(folder, case):
    options = case["options"]
    orders = compat.singlestep_orders(options["steps"], options["order"])
    if orders != options["orders"]:
        raise ValueError(f"orders {orders}")
    settings = {key: options[key] for key in ("schedule", "skip_type", "steps", "order")}
    return compat.dpm_solver_plan(settings | {"method": "singlestep"}).grid


FAMILIES = {
    "multistep": multistep,
    "multistep_float32": functools.partial(multistep, dtype=np.float32),
    "multistep_trajectory": functools.partial(multistep, save_path=True),
    "multistep_thresholding": multistep_thresholding,
    "multistep_correcting_xt": multistep_correcting_xt,
    "multistep_third_consistent": multistep,
    "multistep_third_diffusers_rule": third_diffusers_rule,
    "singlestep": functools.partial(multistep, method="singlestep"),
    "singlestep_fixed": functools.partial(multistep, method="singlestep_fixed"),
    "singlestep_plan": singlestep_plan,
    "inverse": inverse,
    "add_noise": add_noise,
    "euler_float64": euler_float64,
    "time_grid": time_grid,
    "vp_schedule": vp_schedule,
}
