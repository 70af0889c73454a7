"""Networks in the published file formats, with what the originals compute, against ours.

    python -m tests.golden_models [DIR]

DIR (tests/golden/models) holds one folder a network, of any sizes; its README.md describes the
layouts. A case is a forward pass, a guided sampling run, a decode or an encode, each by the calls
that a user makes: flowjax.models.load, compat.diffusers_plan, guidance.classifier_free,
flowjax.sample. An error is the largest difference from the original over the original's largest
number.
"""

import argparse
import functools
import json
import pathlib
import re
import sys

import jax
import numpy as np

import flowjax
from flowjax import Linear, compat, grids, guidance, models, plans
from flowjax.models import Condition

HERE = pathlib.Path(__file__).parent / "models"
ONCE = 2e-5  # bound of one evaluation in float32
RUN = 1e-4  # bound of a sampling run
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
SCHEDULERS = {  # as in their scheduler_config.json
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
# The class of a scheduler whose other options stand in the file of the run, by the file's name.
FLOW_SCHEDULERS = {
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
    "flow_heun": "FlowMatchHeunDiscreteScheduler",
    "flow_dpmpp": "DPMSolverMultistepScheduler",
    "flow_unipc": "UniPCMultistepScheduler",
    "flow_deis": "DEISMultistepScheduler",
}
SAMPLE = re.compile(r"sample_([a-z].*?)_(\d+)(_[\d.]+)?")


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def arrays(path):
    """The arrays of an .npz, images as (B, H, W, C)."""
    with np.load(path) as file:
        stored = dict(file)
    return {
        name: channels_last(array) if array.ndim == 4 else array for name, array in stored.items()
    }


def sampler(model):
    """(noise, labels, scale, plan) -> latents, compiled once for each scale and number of rows."""

    @functools.partial(jax.jit, static_argnames="scale")
    def run(params, noise, labels, scale, plan):
        network = functools.partial(model.apply, params)
        guided = guidance.classifier_free(network, *model.card.branches(labels), scale)
        return flowjax.sample(guided, noise, plan).x

    return functools.partial(run, model.params)


def scheduler_of(file, name, theirs):
    """The scheduler_config.json of a run: by the name of its file, or the file's own."""
    if isinstance(name, dict):  # the configuration itself
        return name
    if name in SCHEDULERS:
        return SCHEDULERS[name]
    family = [known for known in FLOW_SCHEDULERS if name.startswith(known)]
    if not family or "scheduler" not in theirs:
        raise ValueError(
            f"the name {file.name} is not known; wanted sample_SCHEDULER_STEPS_GUIDANCE.npz"
        )
    return {"_class_name": FLOW_SCHEDULERS[family[0]], **json.loads(str(theirs["scheduler"]))}


def diffusers_run(run, file, name, steps):
    """A sampling run of diffusers: (ours, theirs).

    The times that the network receives must be theirs: discrete ones exactly, and those of a flow,
    which are float32, to their rounding.
    """
    theirs = arrays(file)
    scheduler = scheduler_of(file, name, theirs)
    plan = compat.diffusers_plan(scheduler, steps, labels="peers", grid="peers")
    schedule, wanted = compat.diffusers_schedule(scheduler), theirs["timesteps"]
    is_flow = isinstance(schedule, Linear)
    ours = 1000 * plan.label_time if is_flow else schedule.steps * plan.label_time - 1
    bound = 1e-4 if wanted.dtype == np.float32 else 1e-9
    if ours.shape != wanted.shape or np.max(np.abs(ours - wanted)) > bound:
        raise ValueError(f"labels {ours.tolist()}; the original's {wanted.tolist()}")
    label = theirs["labels"] if "labels" in theirs else condition_of(theirs)
    latents = run(theirs["noise"], label, float(theirs["guidance"]), plan)
    return latents, theirs["latents"]


def condition_of(given):
    """The `Condition` of a file of a text-to-image network."""
    scale = given.get("guidance")
    return Condition(
        given["embeddings"],
        given["mask"],
        given.get("negative"),
        given.get("negative_mask"),
        # A network that receives the scale has one for each sample.
        scale if scale is not None and scale.ndim == 1 else None,
    )


def network_cases(folder, model):
    """{name: (bound, function that gives (ours, theirs))} of a DiT, SiT or SANA."""
    run = sampler(model)
    expected = folder / "expected.npz"
    given = arrays(expected) if expected.is_file() else {}
    cases = {}

    def forward():
        label = given["y"] if "y" in given else condition_of(given)
        ours = jax.jit(model.card.raw)(model.params, given["x"], given["t"], label)
        return ours, given["out"]

    def euler(name, steps, scale):
        plan = plans.euler(grids.uniform(steps))
        return run(given["noise"], given["labels"], scale, plan), given[name]

    # One forward pass
    if "out" in given:
        cases["forward"] = ONCE, forward
    # Euler runs, named by their steps and guidance: euler20_cfg4.0
    for name in given:
        if found := re.fullmatch(r"euler(\d+)_cfg([\d.]+)", name):
            steps, scale = int(found[1]), float(found[2])
            cases[name] = RUN, functools.partial(euler, name, steps, scale)
    # Runs of diffusers, one a file
    for file in sorted(folder.glob("sample_*.npz")):
        found = SAMPLE.fullmatch(file.stem)
        if found is None:
            raise ValueError(
                f"the name {file.name} is not known; wanted sample_SCHEDULER_STEPS_GUIDANCE.npz"
            )
        name, steps = found[1], int(found[2])
        cases[file.stem] = RUN, functools.partial(diffusers_run, run, file, name, steps)
    return cases


def autoencoder_cases(folder, vae):
    """The same of an autoencoder."""
    given = arrays(folder / "expected.npz")

    def decode():
        return jax.jit(type(vae).decode)(vae, given["z"]), given["image"]

    @functools.cache
    def encoded():
        return jax.jit(type(vae).encode)(vae, np.clip(given["image"], -1, 1))

    def mean():
        return encoded()[0], given["posterior_mean"]

    def log_variance():
        return encoded()[1], given["posterior_logvar"]

    def scaling_factor():
        return vae.config.scale, given["scaling_factor"]

    return {
        "decode": (ONCE, decode),
        "encode, mean": (ONCE, mean),
        "encode, log-variance": (ONCE, log_variance),
        "scaling factor": (ONCE, scaling_factor),
    }


def deep_autoencoder_cases(folder, vae):
    """The same of a deep compression autoencoder, whose latents have no posterior."""
    given = arrays(folder / "expected.npz")

    def decode():
        return jax.jit(type(vae).decode)(vae, given["z"]), given["decoded"]

    def decode_in_tiles():
        return vae.decode(given["z"], tile=5), given["decoded"]

    def encode():
        return jax.jit(type(vae).encode)(vae, given["image"]), given["latent"]

    def scaling_factor():
        return vae.config.scale, given["scaling_factor"]

    return {
        "decode": (ONCE, decode),
        "decode in tiles": (ONCE, decode_in_tiles),
        "encode": (ONCE, encode),
        "scaling factor": (ONCE, scaling_factor),
    }


def cases_of(folder):
    """The cases of a folder: name -> (bound, function)."""
    found = models.load(folder)
    kinds = {
        models.Autoencoder: autoencoder_cases,
        models.AutoencoderDC: deep_autoencoder_cases,
        models.Model: network_cases,
    }
    cases = kinds[type(found)](folder, found)
    if not cases:
        raise ValueError("no case is known in its files")
    return cases


def error_of(ours, theirs):
    """The largest difference over the largest number of the original."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {ours.shape}; the original's {theirs.shape}")
    if not np.all(np.isfinite(theirs)):
        raise ValueError("the original is not finite")
    error = np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))
    return error if np.isfinite(error) else np.inf


def run_network(folder, show=print):
    """Check all cases of a folder: (passed, failed)."""
    # A network that cannot be loaded is a miss like any other, and the rest still runs.
    try:
        cases = cases_of(folder)
    except Exception as error:
        show(f"{folder.name}: {type(error).__name__}: {error}   FAILED")
        return 0, 1
    failed = 0
    for name, (bound, run) in cases.items():
        try:
            error = error_of(*run())
            line = f"error {error:.2g}, bound {bound:.2g}"
        except Exception as raised:
            error, line = np.inf, f"{type(raised).__name__}: {raised}"
        passes = error <= bound
        failed += not passes
        show(f"{folder.name:20} {name:24} {line}{'' if passes else '   FAILED'}")
    return len(cases) - failed, failed


def networks(path):
    """The folders of `path` that hold a network with outputs, or `path` itself."""

    def holds(folder):
        return any(folder.glob("expected.npz")) or any(folder.glob("sample_*.npz"))

    path = pathlib.Path(path)
    found = [path] if holds(path) else sorted(filter(holds, path.glob("*/")))
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
