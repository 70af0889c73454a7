"""Plans from the settings of other codes: diffusers, NVlabs/Sana and LuChengTHU/dpm-solver.

Nothing here solves anything: settings become grids and the arguments of `flowjax.plans`. Where a
public code has a defect the default is the correct form, and a named option reproduces the defect.
The networks of these codes predict noise or take labels of their own; wrap them once with
`flowjax.schedules.as_velocity`.

`python -m flowjax.compat scheduler_config.json --steps 20` prints the plan of a file of diffusers
and warns where it is unsafe.

diffusers.py            the plan of a scheduler_config.json, its path and its labels
scheduler_options.py    the table of all options: default, use and values, class by class
scheduler_values.py     the checks of single values
scheduler_config.py     a config, read and checked, and its path
scheduler_rules.py      the table of the classes: what each one does
scheduler_times.py      where a scheduler evaluates the network, and where its result lies
scheduler_flow_times.py the times of flows
scheduler_vp_times.py   the times of VP networks
scheduler_respacing.py  the rules of Karras and others
scheduler_lists.py      times that the caller gives, and the steps of image-to-image
scheduler_solvers.py    the call of `flowjax.plans` that each class makes
scheduler_hooks.py      clipping and thresholding of the data prediction
dpm_solver.py           the plan of the options of NVlabs/Sana and LuChengTHU/dpm-solver
show.py                 a plan as text, and its unsafe rows
option_table.py         the table of all options as text, for docs/compat.md
"""

from flowjax.compat.diffusers import (
    diffusers_label,
    diffusers_plan,
    diffusers_prediction,
    diffusers_schedule,
)
from flowjax.compat.dpm_solver import (
    dpm_solver_grid,
    dpm_solver_plan,
    dpm_solver_schedule,
    singlestep_orders,
)
from flowjax.compat.scheduler_config import without_effect
from flowjax.compat.scheduler_hooks import DataHook, diffusers_data_hook
from flowjax.compat.show import table, unsafe_rows

__all__ = [
    "DataHook",
    "diffusers_data_hook",
    "diffusers_label",
    "diffusers_plan",
    "diffusers_prediction",
    "diffusers_schedule",
    "dpm_solver_grid",
    "dpm_solver_plan",
    "dpm_solver_schedule",
    "singlestep_orders",
    "table",
    "unsafe_rows",
    "without_effect",
]
