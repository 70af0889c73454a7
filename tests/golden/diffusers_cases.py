"""Families of diffusers. Their states are float32, and their tolerances accordingly.

Each function takes (folder, case), as `tests.golden` describes, and returns our array; FAMILIES
names them.
"""

import functools
import re

import numpy as np

from flowjax import compat
from tests.golden.folder import run

# What the options of the VP cases leave out
DIFFUSERS_VP = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": False,  # DDIM clips unless it is told not to
}
# Options of a case that are not the scheduler's
_HARNESS = {"steps", "model_time", "orders", "timesteps", "noise", "mu", "eta", "scheduler"}
LABELS = {"exact sigma": "continuous", "int64-truncated timestep/1000": "peers"}  # by model_time
CLASSES = {  # by the scheduler's short name
    "FlowMatchEuler": "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeun": "FlowMatchHeunDiscreteScheduler",
    "DPMSolverMultistep_flow": "DPMSolverMultistepScheduler",
    "UniPC_flow": "UniPCMultistepScheduler",
}


def diffusers_case(folder, case, class_name, *, config=(), options=None, **how):
    """(schedule, plan) of a case of diffusers."""
    options = case["options"] if options is None else options
    config = {"_class_name": class_name, **dict(config)}
    config |= {k: v for k, v in options.items() if k not in _HARNESS}
    plan = compat.diffusers_plan(config, options["steps"], grid="peers", **how)
    return compat.diffusers_schedule(config), plan


def run_diffusers(folder, case, class_name, *, key=None, **how):
    schedule, plan = diffusers_case(folder, case, class_name, **how)
    return run(folder, case, schedule, plan, key=key)


def diffusers_flow(folder, case, class_name):
    options = dict(case["options"])
    labels = LABELS[options["model_time"]]
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if "corrector" in options:
        every_step = list(range(options["steps"]))
        config["disable_corrector"] = [] if options.pop("corrector") else every_step
    if "orders" in options:
        # The blocks of the singlestep method must be the original's.
        _, plan = diffusers_case(folder, case, class_name, config=config, options=options)
        ours = np.diff(np.flatnonzero(np.append(True, plan.ends_step))).tolist()
        if ours != _block_sizes(options["orders"]):
            raise ValueError(f"blocks other than {options['orders']}")
    return run_diffusers(folder, case, class_name, config=config, options=options, labels=labels)


def _block_sizes(orders):
    """Sizes of the blocks in a list such as [1, 2, 3, 1, 2, 1]: each begins at a 1."""
    begins = np.flatnonzero(np.array(orders) == 1)
    return np.diff(np.append(begins, len(orders))).tolist()


def diffusers_vp(folder, case, class_name):
    options = case["options"]
    key = None
    if "noise" in options:
        place = re.fullmatch(r"fields\.npz\[<field>__(\w+)\]\[step\]", options["noise"])
        key = folder.given(case, place[1])
    stochastic = options.get("algorithm_type") == "sde-dpmsolver++"
    return run_diffusers(
        folder,
        case,
        class_name,
        config=DIFFUSERS_VP,
        labels="peers",
        key=key,
        third_order="diffusers" if stochastic else "published",
        eta=options.get("eta", 0.0),
    )


def diffusers_sigmas(folder, case):
    """Times of the evaluations and of the end.

    The labels are checked too, to a tenth of what would truncate otherwise.
    """
    options = dict(case["options"])
    scheduler = options["scheduler"]
    config = {}
    if scheduler.endswith("_flow"):
        config = {
            "use_flow_sigmas": True,
            "flow_shift": options.pop("shift"),
            "prediction_type": "flow_prediction",
        }
    _, plan = diffusers_case(
        folder,
        case,
        CLASSES[scheduler],
        config=config,
        options=options,
        labels="peers",
        mu=options.get("mu"),
    )
    off = np.max(np.abs(1000 * plan.label_time - np.array(options["timesteps"])))
    if off > 1e-3:
        raise ValueError(f"labels differ by {off:.3g}")
    return np.append(plan.t, plan.t_next[-1])


def _of(function, class_name):
    return functools.partial(function, class_name=class_name)


FAMILIES = {
    "euler": _of(run_diffusers, "FlowMatchEulerDiscreteScheduler"),
    "heun": _of(run_diffusers, "FlowMatchHeunDiscreteScheduler"),
    "dpm_multistep_flow": _of(diffusers_flow, "DPMSolverMultistepScheduler"),
    "dpm_singlestep_flow": _of(diffusers_flow, "DPMSolverSinglestepScheduler"),
    "unipc_flow": _of(diffusers_flow, "UniPCMultistepScheduler"),
    "ddim": _of(diffusers_vp, "DDIMScheduler"),
    "dpm_multistep_vp": _of(diffusers_vp, "DPMSolverMultistepScheduler"),
    "sde_multistep_vp": _of(diffusers_vp, "DPMSolverMultistepScheduler"),
    "diffusers_sigmas": diffusers_sigmas,
}
