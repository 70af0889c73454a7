"""Plans from the settings of other codes: diffusers, NVlabs/Sana and LuChengTHU/dpm-solver.

Nothing here solves anything: settings become grids and the arguments of `flowjax.plans`. Where a
public code has a defect the default is the correct form, and a named option reproduces the defect.
The networks of these codes predict noise or take labels of their own; wrap them once with
`flowjax.schedules.as_velocity`.

`python -m flowjax.compat scheduler_config.json --steps 20` prints the plan of a file of diffusers
and warns where it is unsafe.

diffusers.py         the plan of a scheduler_config.json
scheduler_config.py  which classes and options a config may have, and their defaults
scheduler_rules.py   the table of the classes: what each one does
scheduler_times.py   at which times a scheduler evaluates the network
scheduler_solvers.py the call of `flowjax.plans` that each class makes
dpm_solver.py        the plan of the options of NVlabs/Sana and LuChengTHU/dpm-solver
show.py              a plan as text, and its unsafe rows
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
    "diffusers_plan",
    "diffusers_schedule",
    "dpm_solver_grid",
    "dpm_solver_plan",
    "dpm_solver_schedule",
    "singlestep_orders",
    "table",
    "unsafe_rows",
]
