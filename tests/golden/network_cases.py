"""Networks in the published file formats, with what the originals compute, against ours.

    python -m tests.golden_models [DIR]

DIR (tests/golden/models) holds one folder for each network, of any sizes; its README.md describes
the layouts. A case is a forward pass, a guided sampling run, a decode or an encode. Each uses the
calls that a user makes: flowjax.models.load, compat.diffusers_plan, guidance.classifier_free,
flowjax.sample. An error is the largest difference from the original over the original's largest
number.
"""

import argparse
import functools
import pathlib
import re
import sys

import jax
import numpy as np

import flowjax
from flowjax import compat, grids, guidance, models, plans

HERE = pathlib.Path(__file__).parent / "models"
ONCE, RUN = 2e-5, 1e-4  # bounds of one evaluation in float32, and of a sampling run
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
SCHEDULERS = {
    "ddim": {
        "_class_name": "DDIMScheduler",
        "timestep_spacing": "leading",
        "set_alpha_to_one": True,
        "clip_sample": False,
        **BETAS,
    },
    "dpmpp_2m": {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "timestep_spacing": "linspace",
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        **BETAS,
    },
}
# sample_SCHEDULER_STEPS_GUIDANCE; the guidance is also in the file.
SAMPLE = re.compile(rf"sample_({'|'.join(SCHEDULERS)})_(\d+)(_.*)?")
EULER = re.compile(r"euler(\d+)_cfg([\d.]+)")


def arrays(path):
    """The arrays of an .npz, images as (B, H, W, C)."""
    with np.load(path) as file:
        found = dict(file)
    return {
        name: np.moveaxis(array, 1, -1) if array.ndim == 4 else array
        for name, array in found.items()
    }


def error_of(ours, theirs):
    """The largest difference over the largest number of the original."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {ours.shape}; the original's {theirs.shape}")
    if not np.all(np.isfinite(theirs)):
        raise ValueError("the original is not finite")
    error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    return error if np.isfinite(error) else np.inf


# Sampling runs.


def sampler(model):
    """(noise, labels, scale, plan) -> latents, compiled once for each scale and number of rows."""

    @functools.partial(jax.jit, static_argnames="scale")
    def run(params, noise, labels, scale, plan):
        network = functools.partial(model.apply, params)
        null_label = model.card.null_label
        guided = guidance.classifier_free(network, labels, null_label, scale)
        return flowjax.sample(guided, noise, plan).x

    return functools.partial(run, model.params)


def diffusers_run(run, file, scheduler, steps):
    """A sampling run of diffusers: (ours, theirs).

    The clocks that the network receives must be theirs exactly.
    """
    theirs = arrays(file)
    plan = compat.diffusers_plan(scheduler, steps, labels="peers", grid="peers")
    clocks = compat.diffusers_schedule(scheduler).steps * plan.label_time - 1
    wanted = theirs["timesteps"]
    if clocks.shape != wanted.shape or np.max(np.abs(clocks - wanted)) > 1e-9:
        raise ValueError(f"labels {clocks.tolist()}; the original's {wanted.tolist()}")
    ours = run(theirs["noise"], theirs["labels"], float(theirs["guidance"]), plan)
    return ours, theirs["latents"]


# Cases: name -> (bound, function that gives (ours, theirs)).


def network_cases(folder, model):
    """The cases of a DiT or SiT."""
    cases, run = {}, sampler(model)
    given = arrays(folder / "expected.npz") if (folder / "expected.npz").is_file() else {}
    if "out" in given:
        cases["forward"] = ONCE, functools.partial(forward, model, given)
    for name in given:
        if EULER.fullmatch(name):
            cases[name] = RUN, functools.partial(euler_run, run, given, name)
    for file in sorted(folder.glob("sample_*.npz")):
        found = SAMPLE.fullmatch(file.stem)
        if found is None:
            raise ValueError(
                f"the name {file.name} is not known; wanted sample_SCHEDULER_STEPS_GUIDANCE.npz"
            )
        scheduler, steps = SCHEDULERS[found[1]], int(found[2])  # the guidance is in the file
        cases[file.stem] = RUN, functools.partial(diffusers_run, run, file, scheduler, steps)
    return cases


def forward(model, given):
    """One evaluation: (ours, theirs)."""
    ours = jax.jit(model.card.raw)(model.params, given["x"], given["t"], given["y"])
    return ours, given["out"]


def euler_run(run, given, name):
    """Euler's method on a uniform grid, by a name such as "euler20_cfg4": (ours, theirs)."""
    found = EULER.fullmatch(name)
    plan, scale = plans.euler(grids.uniform(int(found[1]))), float(found[2])
    return run(given["noise"], given["labels"], scale, plan), given[name]


def autoencoder_cases(folder, vae):
    """The cases of an autoencoder."""
    given = arrays(folder / "expected.npz")

    @functools.cache
    def encoded():
        return jax.jit(models.Autoencoder.encode)(vae, np.clip(given["image"], -1, 1))

    def decoded():
        return jax.jit(models.Autoencoder.decode)(vae, given["z"])

    # The encoder gives two arrays, so its result is computed once for both cases.
    return {
        "decode": (ONCE, lambda: (decoded(), given["image"])),
        "encode, mean": (ONCE, lambda: (encoded()[0], given["posterior_mean"])),
        "encode, log-variance": (ONCE, lambda: (encoded()[1], given["posterior_logvar"])),
        "scaling factor": (ONCE, lambda: (vae.config.scale, given["scaling_factor"])),
    }


def cases_of(folder):
    """The cases of a folder."""
    found = models.load(folder)
    if isinstance(found, models.Autoencoder):
        cases = autoencoder_cases(folder, found)
    else:
        cases = network_cases(folder, found)
    if not cases:
        raise ValueError("no case is known in its files")
    return cases


# Running them.


def run_network(folder, show=print):
    """Check all cases of a folder: (passed, failed)."""
    try:
        cases = cases_of(folder)
    except Exception as error:
        # What cannot be loaded is a failure like any other, and the other folders still run.
        show(f"{folder.name}: {type(error).__name__}: {error}   FAILED")
        return 0, 1
    failed = 0
    for name, (bound, run) in cases.items():
        try:
            error = error_of(*run())
            result = f"error {error:.2g}, bound {bound:.2g}"
        except Exception as raised:
            error, result = np.inf, f"{type(raised).__name__}: {raised}"
        passed = error <= bound  # False also where the error is not a number
        failed += not passed
        show(f"{folder.name:20} {name:24} {result}{'' if passed else '   FAILED'}")
    return len(cases) - failed, failed


def holds_outputs(folder):
    return any(folder.glob("expected.npz")) or any(folder.glob("sample_*.npz"))


def networks(path):
    """The folders of `path` that hold a network with outputs, or `path` itself."""
    path = pathlib.Path(path)
    if holds_outputs(path):
        return [path]
    found = sorted(folder for folder in path.glob("*/") if holds_outputs(folder))
    if not found:
        raise ValueError(
            f"tests.golden_models: {path} holds no folder with expected.npz or sample_*.npz."
        )
    return found


def run_folder(path, show=print):
    """Check every network of a folder: (passed, failed)."""
    counts = [run_network(folder, show) for folder in networks(path)]
    passed, failed = map(sum, zip(*counts, strict=True))
    show(f"{passed} passed, {failed} failed")
    return passed, failed


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden_models", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=HERE)
    folder = parser.parse_args(argv).folder
    try:
        return 1 if run_folder(folder)[1] else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
