"""Mistakes of a caller of flowjax.plans, refused by name before anything compiles."""

import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.schedules import Linear, VPDiscrete

L, G = Linear(), grids.uniform(6)
MISTAKES = {
    # The grid
    "not monotone": (lambda: plans.euler([1, 0.5, 0.6]), r"plans\.euler: .*not strictly monotone"),
    "labels as times": (lambda: plans.heun([999, 500, 0]), r"plans\.heun: .*999, outside \[0, 1\]"),
    "one time": (lambda: plans.rk4([1.0]), r"plans\.rk4: .*two or more times"),
    # Orders and options of the methods
    "ab order": (
        lambda: plans.adams_bashforth(G, 5),
        r"plans\.adams_bashforth: order=5; .*from 1 to 4",
    ),
    "ab steps": (
        lambda: plans.adams_bashforth([1, 0], 2),
        r"plans\.adams_bashforth: 1 step.*too few.*order=1",
    ),
    "ab start": (
        lambda: plans.adams_bashforth(G, 2, start="huen"),
        r"start='huen'.*did you mean 'heun'",
    ),
    "order": (
        lambda: plans.dpm_solver_pp(L, G, 4),
        r"plans\.dpm_solver_pp: order=4; wanted .*1 to 3",
    ),
    "order zero": (lambda: plans.unipc(L, G, 0), r"plans\.unipc: order=0"),
    "order as a fraction": (
        lambda: plans.dpm_solver_pp(L, G, 2.0),
        r"plans\.dpm_solver_pp: order=2\.0; wanted a whole",
    ),
    "too few steps": (
        lambda: plans.dpm_solver_pp(L, [1, 0.5, 0], 3),
        r"plans\.dpm_solver_pp: 2 step.*too few.*order=2",
    ),
    "method": (
        lambda: plans.dpm_solver_pp(L, G, 2, method="multi"),
        r"method='multi'.*did you mean 'multistep'",
    ),
    "start of singlestep": (
        lambda: plans.dpm_solver_pp(L, G, 2, method="singlestep", start="singlestep"),
        r"start='singlestep' with method='singlestep'; .*take method='multistep'",
    ),
    "third order of singlestep": (
        lambda: plans.dpm_solver_pp(L, G, 3, method="singlestep", third_order="published"),
        r"third_order='published' .* with method='singlestep'",
    ),
    "variant": (
        lambda: plans.dpm_solver_pp(L, G, 2, variant="tailor"),
        r"variant='tailor'.*mean 'taylor'",
    ),
    "prediction": (
        lambda: plans.unipc(L, G, 2, prediction="nose"),
        r"plans\.unipc: prediction='nose'.*mean 'noise'",
    ),
    "final": (
        lambda: plans.dpm_solver_pp(L, G, 2, final="diffuser"),
        r"final='diffuser'.*mean 'diffusers'",
    ),
    "third": (
        lambda: plans.dpm_solver_pp(L, G, 3, third_order="publish"),
        r"third_order='publish'.*mean 'published'",
    ),
    "bh": (lambda: plans.unipc(L, G, 2, variant="b2"), r"plans\.unipc: variant='b2'.*mean 'bh2'"),
    "deis variable": (
        lambda: plans.deis(L, G, 2, variable="time"),
        r"plans\.deis: variable='time' is not known; the choices are 't', 'rho'",
    ),
    # Final rules, and steps that end where log-SNR is infinite
    "caps": (
        lambda: plans.dpm_solver_pp(L, G, 2, final=(1,) * 7),
        r"final=.* for 6 steps; wanted at most 6 caps",
    ),
    "cap": (lambda: plans.dpm_solver_pp(L, G, 2, final=(0,)), r"final=\(0,\).*each 1, 2 or 3"),
    "end": (
        lambda: plans.dpm_solver_pp(L, G, 2, final="none"),
        r"step 6 of 6 ends at t = 0.*order 2 .*final='auto'",
    ),
    "end, upstream": (
        lambda: plans.dpm_solver_pp(L, grids.uniform(10), 3, final="upstream"),
        r"step 10 of 10 ends at t = 0, .*final='upstream'\); keep final='auto', or end the grid",
    ),
    "end, unipc": (
        lambda: plans.unipc(L, G, 3, final="none"),
        r"plans\.unipc: step 6 of 6 ends at t = 0",
    ),
    "end, sde": (
        lambda: plans.dpm_solver_sde(L, G, 2, final="none"),
        r"plans\.dpm_solver_sde: step 6 of 6 ends",
    ),
    "end, singlestep": (
        lambda: plans.dpm_solver_pp(L, [0.5, 0.0], 2, method="singlestep", final="none"),
        r"plans\.dpm_solver_pp: step 1 of 1 ends at t = 0.*order 2",
    ),
    "inversion to noise": (
        lambda: plans.dpm_solver_pp(L, G[::-1], 2, final="none"),
        r"step 6 of 6 ends at t = 1, where log-SNR is infinite",
    ),
    # Stochastic plans
    "sde backwards": (
        lambda: plans.dpm_solver_sde(L, G[::-1], 1),
        r"dpm_solver_sde: the grid increases .*\[::-1\]",
    ),
    "ddim backwards": (lambda: plans.ddim(L, G[::-1], 0.5), r"plans\.ddim: the grid increases"),
    "eta": (lambda: plans.ddim(L, G, 1.5), r"plans\.ddim: eta=1\.5; wanted .*ancestral"),
    # Heun in rho, and blocks
    "heun in rho from noise": (
        lambda: plans.heun(G, schedule=L),
        r"plans\.heun: alpha = 0 .*start below t = 1",
    ),
    "block of five": (
        lambda: plans.singlestep(L, [(0.9, 0.8, 0.7, 0.6, 0.5)]),
        r"plans\.singlestep: a block of 5 times",
    ),
    "blocks apart": (
        lambda: plans.singlestep(L, [(0.9, 0.8), (0.7, 0.6)]),
        r"begins at t = 0\.7 .* ends at t = 0\.8",
    ),
    "block at the end": (
        lambda: plans.singlestep(L, [(0.5, 0.2, 0)]),
        r"plans\.singlestep: .*order 2 touches t = 0",
    ),
    "block at the start": (
        lambda: plans.singlestep(L, [(1.0, 0.9, 0.8)]),
        r"order 2 touches t = 1.*no substeps",
    ),
    # Padding, joining, labels
    "pad": (
        lambda: plans.pad(plans.euler(G), 5),
        r"plans\.pad: the plan has 6 rows, more than rows=5; give at least 6",
    ),
    "concat": (
        lambda: plans.concat(plans.euler([1, 0.5]), plans.euler([0.6, 0])),
        r"plans\.concat: .*0\.5 .*0\.6; .*meet",
    ),
    "labels": (
        lambda: plans.with_labels(plans.euler(G), G),
        r"plans\.with_labels: \(7,\) labels for 6 rows",
    ),
    "label range": (
        lambda: plans.with_labels(plans.euler(G), 1000 * G[:-1]),
        r"plans\.with_labels: the label 1000 .*scale",
    ),
    "label kind": (
        lambda: plans.with_labels(plans.euler(G), G[:-1], network="eps", schedule=L),
        r"network='eps' is not known; the choices are 'velocity', 'data', 'noise'",
    ),
    "label schedule": (
        lambda: plans.with_labels(plans.euler(G), G[:-1], network="noise"),
        r"needs its schedule; pass",
    ),
    # One argument in the place of another
    "grid in the place of the schedule": (
        lambda: plans.dpm_solver_pp(G, L, 2),
        r"plans\.dpm_solver_pp: the schedule is an array of shape \(7,\); .*comes first",
    ),
    "list in the place of the schedule": (
        lambda: plans.unipc([1.0, 0.5, 0.0], L, 2),
        r"plans\.unipc: the schedule is an array of shape \(3,\); wanted a schedule such as",
    ),
    "schedule in the place of the grid": (
        lambda: plans.ddim(L, L),
        r"plans\.ddim: the schedule Linear\(\) stands in the place of the grid; .*grids\.uniform",
    ),
    "schedule alone": (
        lambda: plans.euler(VPDiscrete.linear()),
        r"plans\.euler: the schedule VPDiscrete\(.*\) stands in the place of the grid",
    ),
    "class of a schedule": (
        lambda: plans.deis(Linear, G, 2),
        r"plans\.deis: the schedule is the class Linear; .* for example Linear\(\)",
    ),
    "name of a schedule": (
        lambda: plans.dpm_solver_sde("linear", G, 2),
        r"plans\.dpm_solver_sde: the schedule is 'linear'; wanted .* flowjax\.Linear\(\)",
    ),
    "grid as the path": (
        lambda: plans.with_path(plans.euler(G), G),
        r"plans\.with_path: the schedule is an array of shape \(7,\)",
    ),
    "grid as the schedule of Heun": (
        lambda: plans.heun(G[1:], schedule=G),
        r"plans\.heun: the schedule is an array of shape \(7,\)",
    ),
    "number of steps as grid": (
        lambda: plans.euler(20),
        r"plans\.euler: the grid has shape \(\); .* for example grids\.uniform\(20\)",
    ),
    "plan as grid": (
        lambda: plans.euler(plans.euler(G)),
        r"plans\.euler: the grid is a Plan; wanted a vector of two or more times",
    ),
    # A number of another type, or no number
    "order as a name": (
        lambda: plans.dpm_solver_pp(L, G, "2M"),
        r"plans\.dpm_solver_pp: order='2M'; wanted a whole number from 1 to 3, not a string",
    ),
    "order as a numeral": (
        lambda: plans.unipc(L, G, "3"),
        r"plans\.unipc: order='3'; wanted a whole number from 1 to 3, not a string",
    ),
    "order as a float": (
        lambda: plans.adams_bashforth(G, 2.0),
        r"adams_bashforth: order=2\.0; .* from 1 to 4, for example 2 instead of 2\.0",
    ),
    "order of DEIS as a boolean": (
        lambda: plans.deis(L, G, True),
        r"plans\.deis: order=True; wanted a whole number from 1 to 4",
    ),
    "turn of an increasing grid": (
        lambda: plans.ddim(L, [0.0, 0.4, 0.3, 1.0]),
        r"plans\.ddim: .*not strictly monotone: times 1 and 2 are 0\.4 and 0\.3",
    ),
    "eta as a string": (lambda: plans.ddim(L, G, "0"), r"plans\.ddim: eta='0'; wanted a number"),
    "eta nan": (lambda: plans.ddim(L, G, np.nan), r"plans\.ddim: eta=nan; wanted a number"),
    "prediction of blocks": (
        lambda: plans.singlestep(L, [(0.9, 0.8)], prediction="velocity"),
        r"plans\.singlestep: prediction='velocity' is not known; the choices are 'data', 'noise'",
    ),
    "rows of padding": (
        lambda: plans.pad(plans.euler(G), 8.0),
        r"plans\.pad: rows=8\.0; wanted a whole number of at least 1",
    ),
    "label undetermined": (
        lambda: plans.with_labels(plans.euler(G[::-1]), G[::-1][1:], network="data", schedule=L),
        r"plans\.with_labels: coefficient \w+ of row 1.*not finite; keep the grid where",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused_by_name_with_a_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
