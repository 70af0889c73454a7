"""Families of the originals' numbers about guidance and corrections of the data prediction.

Each function takes (folder, case), as `tests.golden` describes, and returns our array; FAMILIES
names them.
"""

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import compat, guidance

CLASSIFIER = "log p(component in conditional_components | x_t) of the mixture"
NOT_OF_THE_SOLVER = {
    "guidance_type",
    "guidance_scale",
    "interval_guidance",
    "conditional_components",
    "classifier",
}
APG_OPTIONS = {
    "guidance_scale",
    "momentum",
    "rescale_threshold",
    "eta",
    "guidance_rescale",
    "calls",
}


@jax.jit
def free(conditional, field, x, plan, scale, interval):
    """The end of classifier-free guidance."""
    model = guidance.combine(conditional.velocity, field.velocity, scale, interval=interval)
    return flowjax.sample(model, x, plan).x


@jax.jit
def classified(conditional, field, x, plan, scale):
    """The end of classifier guidance."""

    # log p(c | x) is log p(x | c) - log p(x) + log p(c), and the last is a constant.
    def log_prob(x, t):
        return conditional.log_density(x, t) - field.log_density(x, t)

    model = guidance.classifier(field.velocity, log_prob, scale, field.schedule)
    return flowjax.sample(model, x, plan).x


@jax.jit
def projected(data, scale, momentum, threshold, eta, rescale):
    """Guided data predictions of successive calls; data (calls, 2, B, *D).

    On the linear path from x = 0 at t = 1 a velocity is minus the data prediction.
    """
    x = jnp.zeros_like(data[0, 0])
    projection = guidance.Projection(flowjax.Linear(), momentum, threshold, eta)

    def constant(velocity):
        return lambda x, t: velocity

    def call(carry, pair):
        conditional, unconditional = (constant(-prediction) for prediction in pair)
        model = guidance.combine(
            conditional, unconditional, scale, projection=projection, rescale=rescale
        )
        velocity, carry = model(x, 1.0, carry)
        return carry, -velocity

    return jax.lax.scan(call, projection.start(x), data)[1]


def plan_of(folder, case):
    """(schedule, plan) of the case's solver options."""
    options = {key: value for key, value in case["options"].items() if key not in NOT_OF_THE_SOLVER}
    options.setdefault("schedule", "discrete_flow")
    # The option is a boolean, or the words of the upstream rule; without it the code decides.
    lower = options.get("lower_order_final", True)
    if "lower_order_final" in options:
        sana = lower is True
    else:
        sana = "Sana" in folder.source(case)
    options["lower_order_final"] = bool(lower)
    schedule = compat.dpm_solver_schedule(options["schedule"], options.get("total_N"))
    options["schedule"] = schedule
    plan = compat.dpm_solver_plan(options, code="sana" if sana else "upstream")
    if case["nfe"] is not None and plan.nfe != case["nfe"]:
        raise ValueError(f"{plan.nfe} evaluations, the original {case['nfe']}")
    return schedule, plan


def fields(folder, case, schedule, kind):
    """(field of the condition, field of all) of a case whose guidance_type is `kind`."""
    if case["options"]["guidance_type"] != kind:
        raise ValueError(f"the guidance {case['options']['guidance_type']!r} is not {kind!r}")
    field = folder.field(case["field"], schedule)
    return field.subset(case["options"]["conditional_components"]), field


def guidance_cfg(folder, case):
    options = case["options"]
    schedule, plan = plan_of(folder, case)
    pair = fields(folder, case, schedule, "classifier-free")
    interval = tuple(float(end) for end in options.get("interval_guidance", (0.0, 1.0)))
    start = folder.given(case, "xT")
    return np.asarray(free(*pair, start, plan, float(options["guidance_scale"]), interval))


def guidance_classifier(folder, case):
    options = case["options"]
    if options["classifier"] != CLASSIFIER:
        raise ValueError(f"the classifier {options['classifier']!r} is not known")
    schedule, plan = plan_of(folder, case)
    pair = fields(folder, case, schedule, "classifier")
    start = folder.given(case, "xT")
    return np.asarray(classified(*pair, start, plan, float(options["guidance_scale"])))


def apg(folder, case):
    options = case["options"]
    if unknown := set(options) - APG_OPTIONS:
        raise ValueError(f"the options {sorted(unknown)} are not known")
    data = np.moveaxis(folder.array(case["file"], f"{case['id']}_in"), 3, -1)  # channels last
    if len(data) != options["calls"]:
        raise ValueError(f"{len(data)} inputs for {options['calls']} calls")
    numbers = [
        options["guidance_scale"],
        options["momentum"] or 0.0,  # theirs may be None
        options["rescale_threshold"] or np.inf,  # theirs is off at 0
        options["eta"],
        options["guidance_rescale"],
    ]
    guided = np.asarray(projected(data, *map(float, numbers)))
    return np.moveaxis(guided, -1, 2)  # channels first again


FAMILIES = {"apg": apg, "guidance_cfg": guidance_cfg, "guidance_classifier": guidance_classifier}
