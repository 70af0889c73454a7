"""SANA's own options and its pipeline's scheduler_config.json, where they mean the same."""

import json
import pathlib

import jax
import numpy as np
import pytest

from flowjax import compat

ROOT = pathlib.Path(__file__).parents[2]
SCHEDULER = json.loads((ROOT / "configs" / "sana_scheduler_config.json").read_text("utf-8"))


def sana_options(steps, order, shift):
    """The options with which NVlabs/Sana calls its solver for images."""
    return {
        "schedule": "discrete_flow",
        "algorithm": "dpmsolver++",
        "steps": steps,
        "order": order,
        "skip_type": "time_uniform_flow",
        "method": "multistep",
        "flow_shift": shift,
        "lower_order_final": True,
    }


# 3 up to 2K, 4 for the 0.6B network at 1024, 6 at 4K: flow_shift of the published configurations.
@pytest.mark.parametrize("shift", [3.0, 4.0, 6.0])
@pytest.mark.parametrize(("steps", "order"), [(5, 2), (14, 2), (20, 2), (50, 2), (20, 1), (14, 3)])
def test_both_descriptions_of_a_sampler_give_one_plan(steps, order, shift):
    ours = compat.dpm_solver_plan(sana_options(steps, order, shift))
    theirs = compat.diffusers_plan(
        SCHEDULER, steps, flow_shift=shift, solver_order=order, solver_type="midpoint"
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15), ours, theirs
    )


def test_they_differ_where_their_last_steps_do():
    # From 15 steps on diffusers keeps order 3 in the last step but one, and SANA lowers it.
    ours = compat.dpm_solver_plan(sana_options(20, 3, 3.0))
    theirs = compat.diffusers_plan(SCHEDULER, 20, flow_shift=3.0, solver_order=3)
    differs = np.max(np.abs(ours.b - theirs.b), axis=1) > 1e-9
    assert np.flatnonzero(differs).tolist() == [18]
