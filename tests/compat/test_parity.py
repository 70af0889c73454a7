"""The end of a run of diffusers itself, where it is installed: option by option, on a toy."""

import inspect

import numpy as np
import pytest

from flowjax import compat
from flowjax.schedules import as_velocity
from tests.compat import configs

# Warnings are errors elsewhere; these are those of diffusers about itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# States of diffusers are float32, and its coefficients too.
TOLERANCE = 2e-3
X = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
KARRAS = {"use_karras_sigmas": True}
BOTH = {"sigma_min": 0.147, "sigma_max": 8.0}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
FLOW = configs.FLOW | {"flow_shift": 3.0}
DDIM = configs.DDIM | {"clip_sample": True}

# (config, options, arguments of the call)
CASES = [
    # Ranges and ends
    *((c, KARRAS | BOTH, {}) for c in (configs.DPM, configs.SINGLE, configs.UNIPC, configs.DEIS)),
    *((c, KARRAS | BOTH, {}) for c in (configs.EULER, configs.HEUN)),
    *((c, KARRAS | BOTH | SIGMA_MIN, {}) for c in (configs.DPM, configs.SINGLE, configs.EULER)),
    *((c, SIGMA_MIN, {}) for c in (configs.DPM, configs.SINGLE, configs.UNIPC, configs.EULER)),
    *((c, FLOW | SIGMA_MIN, {}) for c in (configs.DPM, configs.SINGLE)),
    (configs.UNIPC, FLOW | KARRAS | {"sigma_min": 0.147, "sigma_max": 200.0}, {}),
    (configs.FLOW_EULER, KARRAS | {"sigma_min": 0.05, "sigma_max": 0.9}, {}),
    (configs.VIDEO, {}, {}),
    *((c, KARRAS | {"sigma_min": 0.002}, {}) for c in (configs.DPM, configs.EULER, configs.HEUN)),
    # Spacings
    *(
        (c, {"timestep_spacing": spacing, "steps_offset": 1} | respaced, {})
        for c in (configs.DPM, configs.SINGLE, configs.EULER, configs.HEUN)
        for spacing in ("leading", "trailing")
        for respaced in ({}, KARRAS)
    ),
    # Strength
    *((c, {}, {"strength": strength}) for c in configs.ALL for strength in (0.6, 0.29)),
    *(
        (c, FLOW | {"solver_order": order}, {"strength": strength})
        for c in (configs.DPM, configs.SINGLE, configs.UNIPC)
        for order in (2, 3)
        for strength in (0.3, 0.6)
    ),
    # Own lists
    *(
        (c, {}, {"steps": None, "timesteps": [900, 700, 400, 100, 10]})
        for c in (configs.DPM, configs.SINGLE, configs.EULER, configs.HEUN, configs.FLOW_EULER)
    ),
    (configs.EULER, {}, {"steps": None, "sigmas": [14.0, 8.0, 3.0, 0.5, 0.0]}),
    (configs.FLOW_EULER, {"shift": 3.0}, {"steps": None, "sigmas": [1.0, 0.7, 0.4]}),
    (configs.UNIPC, FLOW, {"steps": None, "sigmas": [1.0, 0.7, 0.4, 0.2]}),
    # Corrections of the data
    (DDIM, {}, {}),
    (DDIM, {"clip_sample_range": 0.3, "timestep_spacing": "trailing"}, {"strength": 0.6}),
    (DDIM, {"thresholding": True, "dynamic_thresholding_ratio": 0.8}, {}),
    (configs.DPM, {"thresholding": True, "sample_max_value": 3.0}, {}),
    (configs.DEIS, {"thresholding": True}, {}),
    (configs.HEUN, {"clip_sample": True, "clip_sample_range": 0.5}, {}),
    # Betas
    *(
        (c, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {})
        for c in (configs.DPM, configs.UNIPC, configs.EULER)
    ),
    # Files of other classes
    (configs.DPM, {"solver_type": "bh2", "shift": 3.0}, {}),
    (configs.SINGLE, {"timestep_spacing": "trailing", "euler_at_final": True}, {}),
    (configs.EULER, {"clip_sample": True, "set_alpha_to_one": False}, {}),
]


def network(x, label, sin, cos):
    return sin(0.7 * x + 0.003 * label) + 0.3 * cos(x)


def theirs(config, call):
    """(end, labels) of diffusers, on the VP scale."""
    call = dict(call)
    strength = call.pop("strength", 1.0)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    if "sigmas" in call:
        call["sigmas"] = np.array(call["sigmas"])
    wanted = {"num_inference_steps": call.pop("steps"), **call}
    known = inspect.signature(scheduler.set_timesteps).parameters
    scheduler.set_timesteps(**{k: v for k, v in wanted.items() if v is not None and k in known})

    # The last steps, as the image-to-image pipelines of these classes take them.
    count, order = scheduler.num_inference_steps, scheduler.order
    taken = count * strength if "FlowMatch" in config["_class_name"] else int(count * strength)
    first = int(count - min(taken, count)) * order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    # Euler and Heun count noise levels on the scale where alpha is 1.
    is_exploding = config["_class_name"] in ("EulerDiscreteScheduler", "HeunDiscreteScheduler")
    x = torch.tensor(X)
    if is_exploding:
        x = x * float(scheduler.sigmas[first] ** 2 + 1) ** 0.5
    labels = []
    for t in scheduler.timesteps[first:]:
        scaled = x if not hasattr(scheduler, "scale_model_input") else None
        scaled = scheduler.scale_model_input(x, t) if scaled is None else scaled
        output = network(scaled, float(t), torch.sin, torch.cos).to(x.dtype)
        labels.append(float(t))
        x = scheduler.step(output, t, x).prev_sample
    if is_exploding:
        x = x / float(scheduler.sigmas[-1] ** 2 + 1) ** 0.5
    return x.numpy(), np.array(labels)


def ours(config, call):
    """(end, labels) of the plan."""
    plan = compat.diffusers_plan(config, labels="peers", grid="peers", with_hook=True, **call)
    hook = compat.diffusers_data_hook(config, plan)
    label = compat.diffusers_label(config)

    def predict(x, clock):
        return network(x, clock, np.sin, np.cos)

    kind = compat.diffusers_prediction(config)
    velocity = as_velocity(predict, compat.diffusers_schedule(config), kind, label)
    end = configs.run(plan, velocity, X, hook)
    return end, np.array([label(t) for t in plan.label_time])


@pytest.mark.parametrize("config, options, call", CASES)
def test_plan_gives_the_end_and_the_labels_of_diffusers(config, options, call):
    config, call = {**config, **options}, {"steps": 20, **call}
    (end, labels), (their_end, their_labels) = ours(config, call), theirs(config, call)
    np.testing.assert_allclose(labels, their_labels, atol=2e-2)
    scale = max(1.0, np.max(np.abs(their_end)))
    np.testing.assert_allclose(end / scale, their_end / scale, atol=TOLERANCE)
