"""The settings of public codes that mean a solver and a shift of ours."""

import json

# Solvers that diffusers has on the flow path: (class, options).
DIFFUSERS = {
    "DPM++ 2M": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver++"},
    ),
    "UniPC2": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
}


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


def of(solver: str, shift: float) -> list[str]:
    """Lines for the page: what to write into diffusers' and SANA's settings."""
    config = diffusers(solver, shift)
    if config is None:
        return [
            f"{solver} is not in diffusers or SANA: save its plan with `flowjax.plans.save` and "
            "run it there by `flowjax.compat.torch_scheduler`."
        ]
    lines = [f"diffusers, for {solver} with shift {shift:g}: `{json.dumps(config)}`."]
    if solver == "DPM++ 2M":
        options = {"sampling_algo": "flow_dpm-solver", "flow_shift": shift}
        lines.append(f"SANA: `{json.dumps(options)}`.")
    return lines
