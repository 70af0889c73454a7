"""The numbers that the original solvers give, against ours.

    python -m tests.golden [DIR] [--every N] [--family NAME]

DIR (tests/golden/solvers) holds manifest.json, which lists the cases, fields.npz with the mixtures they run on, and
the originals' outputs, one array a case. Every case is a call of the public API: settings become a plan (compat, plans), the
plan runs (flowjax.sample) on the exact field, and the largest difference must stay within the case's tolerance. An
output is read after ours is computed. To add a family, write a function of (Folder, case) that returns
our array and put it in FAMILIES.
"""

import argparse
import collections
import functools
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import compat, guidance, plans
from flowjax.fields import GaussianMixture
from flowjax.schedules import Linear
from tests.golden import adaptive_cases as golden_adaptive
from tests.golden import guidance_cases as golden_guidance

HERE = pathlib.Path(__file__).parent / "solvers"
ROWS = (10, 24, 52)  # plans are padded to these, so that few programs are compiled
# What the options of the VP cases leave out.
DIFFUSERS_VP = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}


class Folder:
    """The cases of a folder and what they start from."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        manifest = self.path / "manifest.json"
        if not manifest.is_file():
            raise ValueError(
                f"tests.golden: no {manifest}; wanted a folder with manifest.json, fields.npz and outputs."
            )
        content = json.loads(manifest.read_text(encoding="utf-8"))
        self.cases, self.sources = content["cases"], content["sources"]
        self.file, self.field = functools.cache(self.file), functools.cache(self.field)

    def file(self, name):
        with np.load(self.path / f"{name}.npz") as arrays:
            return dict(arrays)

    def array(self, file, name):
        return self.file(file)[name]

    def given(self, case, name):
        """An array of the case's field in fields.npz, such as xT."""
        return self.array("fields", f"{case['field']}__{name}")

    def field(self, name, schedule):
        parts = (self.array("fields", f"{name}__{part}") for part in ("w", "mu", "U", "L"))
        return GaussianMixture.from_eigen(*parts, schedule)

    def source(self, case):
        return self.sources[case["source"]]


# Hooks read their numbers from an argument, so that one program serves them all.


def shrink(x, t, step, factor):
    return x * (1 - factor * step)


@functools.partial(jax.jit, static_argnames=("hook", "save_path"))
def _run(field, x, plan, key, numbers, hook, save_path):
    hooks = {
        None: {},
        "data": {
            "data_hook": lambda data, t: guidance.dynamic_threshold(numbers[0], least=numbers[1])(
                data, t
            )
        },
        "state": {"state_hook": lambda x, t, step: shrink(x, t, step, numbers)},
    }[hook]
    solution = flowjax.sample(field.velocity, x, plan, key=key, save_path=save_path, **hooks)
    return solution.path if save_path else solution.x


def run(
    folder,
    case,
    schedule,
    plan,
    *,
    start=None,
    key=None,
    hook=None,
    numbers=0.0,
    save_path=False,
    dtype=np.float64,
):
    """Our answer to a case: the plan, padded, from the case's start (xT unless given) on its field."""
    if case.get("nfe") is not None and plan.nfe != case["nfe"]:
        raise ValueError(f"{plan.nfe} evaluations, the original {case['nfe']}")
    start = folder.given(case, "xT") if start is None else start
    rows = next((rows for rows in ROWS if rows >= plan.rows), plan.rows)
    padded = plans.pad(plan, rows)
    if key is not None:
        key = jnp.asarray(np.concatenate([key, np.zeros((rows - len(key), *key.shape[1:]))]))
    numbers = jnp.asarray(numbers)
    field = folder.field(case["field"], schedule)
    result = np.asarray(
        _run(field, jnp.asarray(start, dtype), padded, key, numbers, hook, save_path)
    )
    return result[: plan.steps + 1] if save_path else result


# Families of DPM-Solver and SANA.

_NOT_OPTIONS = {
    "dtype",
    "start",
    "correcting_xt",
    "dynamic_thresholding_ratio",
    "thresholding_max_val",
}


def dpm_solver_options(folder, case, **extra):
    """(schedule, plan) of a case in the vocabulary of DPM-Solver and SANA."""
    options = {k: v for k, v in case["options"].items() if k not in _NOT_OPTIONS} | extra
    lower = options.get("lower_order_final", True)
    sana = lower is True if "lower_order_final" in options else "Sana" in folder.source(case)
    options["lower_order_final"] = bool(lower)
    if options.get("denoise_to_zero"):
        options["denoise_to_zero"] = "peers"
    schedule = compat.dpm_solver_schedule(
        options.get("schedule", "discrete_flow"), options.get("total_N")
    )
    third = {None: "published", 1: "published", 2: "exact"}[
        options.pop("second_difference_factor", None)
    ]
    plan = compat.dpm_solver_plan(
        options | {"schedule": schedule}, code="sana" if sana else "upstream", third_order=third
    )
    return schedule, plan


def multistep(folder, case, method="multistep", **how):
    schedule, plan = dpm_solver_options(folder, case, method=method)
    return run(folder, case, schedule, plan, **how)


def multistep_thresholding(folder, case):
    numbers = [case["options"][k] for k in ("dynamic_thresholding_ratio", "thresholding_max_val")]
    return multistep(folder, case, hook="data", numbers=numbers)


def multistep_correcting_xt(folder, case):
    rule = case["options"]["correcting_xt"]
    factor = re.match(r"x -> x\*\(1-([0-9.]+)\*step\)", rule)
    if factor is None:
        raise ValueError(f"the rule {rule!r} is not known")
    return multistep(folder, case, hook="state", numbers=float(factor[1]))


def inverse(folder, case):
    place = re.fullmatch(r"fields\.npz\[<field>__(\w+)\] at t=1/(\d+)", case["options"]["start"])
    if place is None:
        raise ValueError(f"the start {case['options']['start']!r} is not known")
    schedule, plan = dpm_solver_options(folder, case, t_start=1 / int(place[2]), t_end=1.0)
    return run(folder, case, schedule, plan, start=folder.given(case, place[1]))


def third_diffusers_rule(folder, case):
    options = case["options"]
    if not options["final_rule"].startswith("only the very last step is lowered to 1"):
        raise ValueError(f"the rule {options['final_rule']!r} is not known")
    third = {1: "published", 2: "exact"}[options["second_difference_factor"]]
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
    names = (
        re.fullmatch(r"fields\.npz\[<field>__(\w+)\]", options[key])[1] for key in ("x0", "noise")
    )
    return schedule.add_noise(*(folder.given(case, name) for name in names), options["t"])


def time_grid(folder, case):
    options = case["options"]
    schedule = compat.dpm_solver_schedule(options.get("schedule", "discrete_flow"))
    return compat.dpm_solver_grid(
        schedule, options["skip_type"], options["N"], start=options["t_T"], end=options["t_0"], shift=options.get("shift", 1.0)
    )  # fmt: skip


def vp_schedule(folder, case):
    schedule = compat.dpm_solver_schedule(case["options"]["schedule"], case["options"]["total_N"])
    t = folder.array(case["file"], case["id"])[
        0
    ]  # the first row is the times, which nothing else states
    log_snr = schedule.log_snr(t)
    return np.stack(
        [t, schedule.log_alpha(t), schedule.sigma(t), log_snr, schedule.time_of_log_snr(log_snr)]
    )


def singlestep_plan(folder, case):
    options = case["options"]
    if compat.singlestep_orders(options["steps"], options["order"]) != options["orders"]:
        raise ValueError(f"orders {compat.singlestep_orders(options['steps'], options['order'])}")
    keys = ("schedule", "skip_type", "steps", "order")
    return compat.dpm_solver_plan({k: options[k] for k in keys} | {"method": "singlestep"}).grid


# Families of diffusers. Their states are float32, their tolerances accordingly.

_HARNESS = {"steps", "model_time", "orders", "timesteps", "noise", "mu", "eta", "scheduler"}


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
    told = {"exact sigma": "continuous", "int64-truncated timestep/1000": "peers"}[
        case["options"]["model_time"]
    ]
    options = dict(case["options"])
    config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if "corrector" in options:
        config["disable_corrector"] = (
            [] if options.pop("corrector") else list(range(options["steps"]))
        )
    if "orders" in options:
        whole = _diffusers_blocks(options["orders"])
        schedule, plan = diffusers_case(folder, case, class_name, config=config, options=options)
        if np.diff(np.flatnonzero(np.append(True, plan.ends_step))).tolist() != whole:
            raise ValueError(f"blocks other than {options['orders']}")
    return run_diffusers(folder, case, class_name, config=config, options=options, labels=told)


def _diffusers_blocks(orders):
    """Sizes of the blocks in a list such as [1, 2, 3, 1, 2, 1]: each begins at a 1."""
    return np.diff(np.append(np.flatnonzero(np.array(orders) == 1), len(orders))).tolist()


def diffusers_vp(folder, case, class_name):
    key = None
    if "noise" in case["options"]:
        place = re.fullmatch(r"fields\.npz\[<field>__(\w+)\]\[step\]", case["options"]["noise"])
        key = folder.given(case, place[1])
    third = (
        "diffusers" if case["options"].get("algorithm_type") == "sde-dpmsolver++" else "published"
    )
    return run_diffusers(
        folder, case, class_name, config=DIFFUSERS_VP, labels="peers", key=key, third_order=third,
        eta=case["options"].get("eta", 0.0),
    )  # fmt: skip


def diffusers_sigmas(folder, case):
    """Times of the evaluations and of the end; the labels are checked too, to a tenth of what would truncate otherwise."""
    options = dict(case["options"])
    scheduler = options["scheduler"]
    class_name = {
        "FlowMatchEuler": "FlowMatchEulerDiscreteScheduler", "FlowMatchHeun": "FlowMatchHeunDiscreteScheduler",
        "DPMSolverMultistep_flow": "DPMSolverMultistepScheduler", "UniPC_flow": "UniPCMultistepScheduler",
    }[scheduler]  # fmt: skip
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
        class_name,
        config=config,
        options=options,
        labels="peers",
        mu=options.get("mu"),
    )
    off = np.max(np.abs(1000 * plan.label_time - np.array(options["timesteps"])))
    if off > 1e-3:
        raise ValueError(f"labels differ by {off:.3g}")
    return np.append(plan.t, plan.t_next[-1])


def of(function, *args, **kwargs):
    return lambda folder, case: function(folder, case, *args, **kwargs)


FAMILIES = (
    {
        "multistep": multistep,
        "multistep_float32": of(multistep, dtype=np.float32),
        "multistep_trajectory": of(multistep, save_path=True),
        "multistep_thresholding": multistep_thresholding,
        "multistep_correcting_xt": multistep_correcting_xt,
        "multistep_third_consistent": multistep,
        "multistep_third_diffusers_rule": third_diffusers_rule,
        "singlestep": of(multistep, "singlestep"),
        "singlestep_fixed": of(multistep, "singlestep_fixed"),
        "singlestep_plan": singlestep_plan,
        "inverse": inverse,
        "add_noise": add_noise,
        "euler_float64": euler_float64,
        "time_grid": time_grid,
        "vp_schedule": vp_schedule,
        "euler": of(run_diffusers, "FlowMatchEulerDiscreteScheduler"),
        "heun": of(run_diffusers, "FlowMatchHeunDiscreteScheduler"),
        "dpm_multistep_flow": of(diffusers_flow, "DPMSolverMultistepScheduler"),
        "dpm_singlestep_flow": of(diffusers_flow, "DPMSolverSinglestepScheduler"),
        "unipc_flow": of(diffusers_flow, "UniPCMultistepScheduler"),
        "ddim": of(diffusers_vp, "DDIMScheduler"),
        "dpm_multistep_vp": of(diffusers_vp, "DPMSolverMultistepScheduler"),
        "sde_multistep_vp": of(diffusers_vp, "DPMSolverMultistepScheduler"),
        "diffusers_sigmas": diffusers_sigmas,
    }
    | golden_adaptive.FAMILIES
    | golden_guidance.FAMILIES
)


def check(folder, case):
    """(ratio of the largest difference to the tolerance, a sentence if it is no pass)."""
    family = FAMILIES.get(case["family"])
    if family is None:
        return np.inf, f"the family {case['family']!r} is not known"
    try:
        ours = np.asarray(family(folder, case))
    except (
        Exception
    ) as error:  # a case that cannot be run is a miss like any other, and the rest still runs
        return np.inf, f"{type(error).__name__}: {error}"
    theirs = folder.array(case["file"], case["id"])
    if ours.shape != theirs.shape:
        return np.inf, f"shape {ours.shape}, the original {theirs.shape}"
    if not np.all(np.isfinite(theirs)):
        return np.inf, "the original is not finite"
    difference = np.max(np.abs(ours - theirs))
    ratio = difference / case["tol_abs"] if np.isfinite(difference) else np.inf
    return (
        ratio,
        "" if ratio <= 1 else f"differs by {difference:.3g}, tolerance {case['tol_abs']:.3g}",
    )


def run_folder(path, every=1, family=None, show=print):
    """Check every `every`-th case of each family; (passed, failed)."""
    folder = Folder(path)
    seen, rows = collections.Counter(), {}
    for case in folder.cases:
        name = case["family"]
        seen[name] += 1
        if (family is not None and name != family) or (seen[name] - 1) % every:
            continue
        ratio, miss = check(folder, case)
        if miss:
            show(f"{case['id']} ({name}): {miss}")
        row = rows.setdefault(name, [0, 0, 0.0])
        row[bool(miss)] += 1
        row[2] = max(row[2], ratio)
    for name, (passed, failed, worst) in rows.items():
        show(
            f"{name:32} {passed:5} passed {failed:5} failed   worst difference {worst:.2g} of its tolerance"
        )
    passed, failed = (sum(row[i] for row in rows.values()) for i in (0, 1))
    if not passed + failed:
        raise ValueError(f"tests.golden: no case of {path} was asked for (family={family!r}).")
    show(f"{passed} passed, {failed} failed")
    return passed, failed


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=HERE)
    parser.add_argument("--every", type=int, default=1, help="take each N-th case of a family")
    parser.add_argument("--family", help="only this family")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    try:
        return 1 if run_folder(args.folder, args.every, args.family)[1] else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
