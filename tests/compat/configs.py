"""Configs that several test files share, and a run of a plan in plain numpy."""

import numpy as np

# The betas of Stable Diffusion: sigma/alpha from 0.0292 to 14.6.
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

DPM = {"_class_name": "DPMSolverMultistepScheduler", **SD}
SINGLE = {"_class_name": "DPMSolverSinglestepScheduler", **SD}
UNIPC = {"_class_name": "UniPCMultistepScheduler", **SD}
DEIS = {"_class_name": "DEISMultistepScheduler", **SD}
DDIM = {"_class_name": "DDIMScheduler", **SD, "clip_sample": False}
EULER = {"_class_name": "EulerDiscreteScheduler", **SD}
HEUN = {"_class_name": "HeunDiscreteScheduler", **SD}
FLOW_EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
FLOW_HEUN = {"_class_name": "FlowMatchHeunDiscreteScheduler"}
ALL = [DPM, SINGLE, UNIPC, DEIS, DDIM, EULER, HEUN, FLOW_EULER, FLOW_HEUN]

# A flow on the classes that were made for VP networks.
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

# A file of an image-to-video model: sigma from 700, and the network receives log(sigma)/4.
VIDEO = {
    **EULER,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def name_of(config):
    """The id of a test that is parametrized by configs."""
    return config["_class_name"].removesuffix("Scheduler")


def run(plan, model, x, hook=None):
    """The end of a plan from the state `x`, as the equations of plans.table say, in float64."""
    base, history = x, [np.zeros_like(x)] * 4
    for i in range(plan.rows):
        velocity = model(x, plan.label_time[i])
        if hook is not None and plan.data_v[i] != 0:
            data = np.asarray(hook(plan.data_x[i] * x + plan.data_v[i] * velocity, plan.t[i]))
            velocity = (data - plan.data_x[i] * x) / plan.data_v[i]
        history = [plan.p[i] * x + plan.q[i] * velocity, *history[:3]]
        base = plan.a[i] * base + sum(w * m for w, m in zip(plan.b[i], history, strict=True))
        x = plan.c[i] * base + sum(w * m for w, m in zip(plan.d[i], history, strict=True))
    return x
