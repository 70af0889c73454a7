"""The settings of public codes that mean a solver and a shift of ours."""

import json
from typing import Any

import numpy as np

from experiments.tune.subject import Subject
from flowjax import grids
from flowjax.schedules import Straight, VPDiscrete

# Solvers that diffusers has: (class, options).
DIFFUSERS = {
    "Euler": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 1, "algorithm_type": "dpmsolver++"},
    ),
    "DPM++ 2M": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver++"},
    ),
    "UniPC2": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
}
# The same in SANA's code.
SANA = {"Euler": "flow_euler", "DPM++ 2M": "flow_dpm-solver"}
# What diffusers calls our predictions.
PREDICTIONS = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}


def diffusers(solver: str, shift: float) -> dict | None:
    """The scheduler_config.json of a solver on the flow path; None where diffusers has none."""
    if solver not in DIFFUSERS:
        return None
    name, options = DIFFUSERS[solver]
    return {
        "_class_name": name,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "final_sigmas_type": "zero",
        **options,
    }


def discrete(solver: str, path: VPDiscrete, prediction: str) -> dict | None:
    """The scheduler_config.json of a solver for a network that was trained on discrete steps.

    Its times are those of the uniform grid with shift 1.

    Args:
      solver: a name of `experiments.lab.solvers`.
      path: that of the network.
      prediction: what the network predicts.

    Returns:
      The dictionary, or None where diffusers has no such solver or prediction.
    """
    if solver not in DIFFUSERS or prediction not in PREDICTIONS:
        return None
    name, options = DIFFUSERS[solver]
    betas = path.betas
    ends = {"beta_start": float(betas[0]), "beta_end": float(betas[-1])}
    is_linear = np.allclose(betas, np.linspace(betas[0], betas[-1], len(betas)), rtol=1e-6)
    return {
        "_class_name": name,
        "prediction_type": PREDICTIONS[prediction],
        "num_train_timesteps": len(betas),
        # The betas themselves say all of a schedule that is not uniform.
        **({"beta_schedule": "linear"} | ends if is_linear else {"trained_betas": betas.tolist()}),
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
        **options,
    }


def timesteps(steps: int, shift: float, training_steps: int) -> list[int]:
    """The whole timesteps of diffusers that are nearest to the uniform grid with this shift."""
    # Node n of training lies at t = n/N, and diffusers counts from 0.
    times = grids.uniform(steps, shift=shift)[:-1]
    return [int(n) for n in np.rint(times * training_steps) - 1]


def of(made: Subject, solver: str, shift: float, steps: int, file: str) -> list[str]:
    """Lines for the page: what to write into diffusers' and SANA's settings.

    Args:
      made: the model.
      solver, shift: the advice.
      steps: the number of evaluations.
      file: its plan.
    """
    by_file = f"its plan {file} runs there by `flowjax.compat.torch_scheduler`."
    if isinstance(made.schedule, Straight):
        line = _of_discrete(made, solver, shift, steps)
        return [line or f"diffusers has no settings for {solver} with shift {shift:g}: {by_file}"]
    config = diffusers(solver, shift)
    if config is None:
        return [f"{solver} is not in diffusers or SANA: {by_file}"]
    lines = [_line(solver, shift, config)]
    if solver in SANA:
        options = {"sampling_algo": SANA[solver], "flow_shift": shift}
        lines.append(f"SANA: `{json.dumps(options)}`.")
    return lines


def _of_discrete(made: Subject, solver: str, shift: float, steps: int) -> str | None:
    """The line for diffusers, of a network that was trained on discrete steps."""
    path = made.own_schedule
    if not isinstance(path, VPDiscrete):
        return None
    config = discrete(solver, path, made.field.kind[2])
    if config is None:
        return None
    line = _line(solver, shift, config)
    if shift == 1:
        return line
    if config["_class_name"] != "DPMSolverMultistepScheduler":
        return None  # the others take no times of one's own
    numbers = timesteps(steps, shift, len(path.betas))
    return f"{line[:-1]}, and `set_timesteps(timesteps={numbers})`."


def _line(solver: str, shift: float, config: dict[str, Any]) -> str:
    return f"diffusers, for {solver} with shift {shift:g}: `{json.dumps(config)}`."
