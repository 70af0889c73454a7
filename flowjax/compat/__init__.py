"""Plans from other people's settings: the options of diffusers, SANA and DPM-Solver, scheduler_config.json included.

Nothing here solves anything: settings become grids and the arguments of `flowjax.plans`. Where a public code has a
defect the default is the correct form, and a named option reproduces the defect. The networks of these codes predict
noise or take labels of their own; wrap them once with `flowjax.schedules.as_velocity`.

`python -m flowjax.compat scheduler_config.json --steps 20` prints the plan of a file and warns where it is unsafe.
"""

from flowjax.compat.diffusers import diffusers_plan, diffusers_schedule
from flowjax.compat.dpm_solver import (
    dpm_solver_grid,
    dpm_solver_plan,
    dpm_solver_schedule,
    singlestep_orders,
)
from flowjax.compat.show import table, unsafe_rows

__all__ = [
    "diffusers_plan", "diffusers_schedule", "dpm_solver_grid", "dpm_solver_plan", "dpm_solver_schedule",
    "singlestep_orders", "table", "unsafe_rows",
]  # fmt: skip
