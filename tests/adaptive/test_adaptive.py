"""Laws of error-controlled sampling.

The tolerance rules the error, samples are independent, and counts are what really ran.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax.sharding import PartitionSpec as P

import flowjax
from flowjax import fields, plans
from flowjax.adaptive import Tolerance, sample_adaptive, sample_adaptive_many
from tests.golden import adaptive_cases as golden_adaptive
from tests.golden import solver_cases as golden

LINEAR = flowjax.Linear()
COSINE = flowjax.Cosine()
VP = flowjax.VPLinear()
DISCRETE = flowjax.VPDiscrete.cosine()
SCHEDULES = (LINEAR, COSINE, VP, DISCRETE)

# Every method with each of its orders.
PAIRS = [
    ("dpm_solver_pp", 2),
    ("dpm_solver_pp", 3),
    ("dpm_solver", 2),
    ("dpm_solver", 3),
    ("runge_kutta", 2),
    ("runge_kutta", 3),
    ("runge_kutta", 5),
]
LOOSE = Tolerance(1e-3, 1e-2)
OPTIONS = {"order": 3, "span": (1.0, 0.0), "max_evaluations": 500}
INNER = {"order": 3, "span": (0.999, 0.001), "max_evaluations": 500}  # no infinite log-SNR

STATIC = ("order", "method", "variant", "span", "max_evaluations", "lockstep")


# Most tests share the programs of this function: 64 samples, 5 modes in 4 dimensions, order 3,
# from 1 to 0.
@functools.partial(jax.jit, static_argnames=STATIC)
def solve(
    field,
    x,
    tolerance,
    order=3,
    method="dpm_solver_pp",
    span=(1.0, 0.0),
    max_evaluations=20_000,
    **options,
):
    return sample_adaptive(
        field.velocity,
        x,
        field.schedule,
        tolerance,
        order=order,
        span=span,
        max_evaluations=max_evaluations,
        method=method,
        save_grid=True,
        **options,
    )


def noise(count=64, dim=4, dtype=np.float64):
    draws = np.random.default_rng(0).standard_normal((count, dim))
    return jnp.asarray(draws, dtype)


def mixture(schedule=LINEAR):
    return fields.random_mixture(0, schedule, dim=4, modes=5, std=0.2)


def equal_modes(means, values, schedule):
    """Five modes of equal weight, whose covariances have the same eigenvalues along the axes."""
    weights = np.full(5, 0.2)
    vectors = np.broadcast_to(np.eye(4), (5, 4, 4))
    values = np.broadcast_to(values, (5, 4))
    return fields.GaussianMixture.from_eigen(weights, means, vectors, values, schedule)


def size(difference):
    """Root mean square norm of a difference (B, D)."""
    return float(np.sqrt(np.mean(np.sum(np.square(difference), axis=1))))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# ---- error and effort


EFFORT_CASES = [("dpm_solver_pp", 3, LINEAR), ("runge_kutta", 3, LINEAR)]
EFFORT_CASES += [
    slow(method, order, schedule) for method, order in PAIRS for schedule in (LINEAR, COSINE, VP)
]
# Between its nodes a discrete schedule has corners in t, but none in log-SNR.
EFFORT_CASES += [
    slow(method, order, DISCRETE) for method, order in PAIRS if method != "runge_kutta"
]


@pytest.mark.parametrize(("method", "order", "schedule"), EFFORT_CASES)
def test_error_falls_with_the_tolerance_and_effort_grows(method, order, schedule):
    # A Gaussian, whose solution is known.
    mean = np.array([0.5, -1.0, 2.0, 0.0])
    values = np.array([1.0, 0.1, 0.03, 0.01])
    field = equal_modes(np.tile(mean, (5, 1)), values, schedule)
    x = noise()
    exact = fields.Gaussian(mean, np.diag(values), schedule).flow(x, 1.0, 0.0)

    tolerances = 10.0 ** -np.arange(2, 7)
    errors, efforts = [], []
    for tolerance in tolerances:
        solution = solve(field, x, Tolerance(tolerance, tolerance), order, method)
        assert not np.any(solution.status)
        errors.append(size(solution.x - exact))
        efforts.append(int(np.sum(solution.stats.nfe)))

    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    # About 1: the estimated error of a step, which is that of the lower order, stays at the
    # tolerance; the higher order is what is used, and steps add up.
    assert 0.75 < slope < 1.25
    assert np.all(np.array(errors) < 30 * tolerances)
    assert np.all(np.diff(efforts) > 0)


def test_mixture_agrees_with_an_independent_solver():
    field, x = mixture(), noise()
    velocity = jax.jit(field.velocity)

    def right_hand_side(t, y):
        return np.asarray(velocity(y[None], t))[0]

    ends = []
    for start in np.asarray(x)[:3]:
        peer = scipy.integrate.solve_ivp(
            right_hand_side, (1, 0), start, "DOP853", rtol=1e-9, atol=1e-9
        )
        ends.append(peer.y[:, -1])
    for method in ("dpm_solver_pp", "runge_kutta"):
        found = solve(field, x, Tolerance(1e-7, 0.0), 3, method).x
        np.testing.assert_allclose(found[:3], np.array(ends), atol=3e-6)


def test_a_sample_does_not_depend_on_its_batch():
    field, x = mixture(), noise()
    together = solve(field, x, LOOSE)
    for i in (0, 17, 63):
        alone = solve(field, x[i : i + 1], LOOSE)
        np.testing.assert_allclose(alone.x[0], together.x[i], atol=1e-10)
        assert alone.stats.nfe[0] == together.stats.nfe[i]
    assert len(np.unique(together.stats.nfe)) > 3
    assert np.all(together.stats.computed == np.max(together.stats.nfe))


# ---- the ends of time


END_CASES = [
    slow(schedule, dtype, method)
    for schedule in SCHEDULES
    for dtype in (np.float32, np.float64)
    for method in ("dpm_solver_pp", "dpm_solver", "runge_kutta")
]


@pytest.mark.parametrize(
    ("schedule", "dtype", "method"),
    [
        (LINEAR, np.float32, "dpm_solver_pp"),
        (COSINE, np.float32, "dpm_solver"),
        (VP, np.float32, "dpm_solver_pp"),
        *END_CASES,
    ],
)
def test_runs_from_exactly_1_to_exactly_0(schedule, dtype, method):
    found = solve(mixture(schedule), noise(dtype=dtype), Tolerance(1e-4, 1e-3), 3, method)
    assert found.x.dtype == dtype
    assert np.all(found.status == 0)
    assert np.all(np.isfinite(found.x))
    grid = found.stats.grid
    assert np.all(grid[0] == 1)
    assert np.all(grid[-1] == 0)
    assert np.all(np.diff(grid, axis=0) <= 0)


@pytest.mark.parametrize(
    ("schedule", "dtype", "method"),
    [(LINEAR, np.float64, "dpm_solver_pp"), *END_CASES],
)
def test_inversion_returns_to_the_noise(schedule, dtype, method):
    field, x = mixture(schedule), noise(dtype=dtype)
    there = solve(field, x, Tolerance(1e-4, 1e-3), 3, method)
    back = solve(field, there.x, Tolerance(1e-4, 1e-3), 3, method, (0.0, 1.0))
    assert np.all(back.status == 0)
    assert np.all(back.stats.grid[-1] == 1)
    assert size(back.x - x) < 0.02


def test_loose_tolerance_does_not_jump_from_the_plateau_before_the_decision():
    # Near t = 1 the data prediction rests at the mean of the modes; its change alone would say that
    # all is done.
    means = np.array(
        [
            [0.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0],
            [-1.0, 1.0, 0.0, 0.0],
            [0.0, -1.0, 1.0, 0.0],
            [0.0, 0.0, -1.0, 2.0],
        ]
    )
    field = equal_modes(means, 1e-4, LINEAR)
    found = solve(field, 0.1 * noise(), Tolerance(0.05, 0.05))
    nearest = means[field.nearest(found.x)]
    assert np.max(np.abs(found.x - nearest)) < 0.1
    assert np.max(found.stats.nfe) < 60


# ---- steps, counts and carries


@pytest.mark.parametrize(
    ("order", "variant"), [(3, "midpoint"), slow(2, "midpoint"), slow(3, "taylor")]
)
def test_plan_on_the_chosen_grid_gives_the_same_result(order, variant):
    field, x = mixture(), noise()
    found = solve(field, x, LOOSE, order, variant=variant)
    for i in range(3):
        accepted_times = slice(found.stats.accepted[i] + 1)
        grid = np.asarray(found.stats.grid)[accepted_times, i]
        plan = plans.dpm_solver_pp(
            field.schedule, grid, order, method="singlestep", variant=variant
        )
        again = flowjax.sample(field.velocity, x[i : i + 1], plans.pad(plan, 120))
        np.testing.assert_allclose(again.x[0], found.x[i], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("method", "order", "span"),
    [("dpm_solver_pp", 3, (0.999, 0.001)), ("runge_kutta", 3, (1.0, 0.0))],
)
def test_counted_evaluations_are_the_calls_and_a_rejected_step_keeps_its_first(method, order, span):
    field, calls = mixture(), []

    def model(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t[0], ordered=True)
        return field.velocity(x, t)

    options = {"order": order, "span": span, "max_evaluations": 500, "method": method}
    found = jax.jit(lambda x: sample_adaptive(model, x, LINEAR, LOOSE, **options))(noise(1))
    jax.effects_barrier()
    nfe, accepted, rejected, computed, _ = found.stats
    assert rejected > 0
    assert nfe == computed == len(calls)
    stages = {"dpm_solver_pp": order, "runge_kutta": 4}[method]
    if method == "runge_kutta":
        # The last evaluation of an accepted step is the first of the next.
        assert nfe == 1 + (stages - 1) * (accepted + rejected)
    else:
        assert nfe == stages * accepted + (stages - 1) * rejected


def test_a_rejected_step_does_not_commit_its_carry():
    field, x = mixture(), noise(8)

    def model(x, t, carry):
        return field.velocity(x, t), carry + 1

    zero = jnp.zeros(8, jnp.int32)
    found = jax.jit(lambda x: sample_adaptive(model, x, LINEAR, LOOSE, carry=zero, **INNER))(x)
    assert np.sum(found.stats.rejected) > 0
    np.testing.assert_array_equal(found.carry, 3 * found.stats.accepted)


@pytest.mark.parametrize("name", ["flow_sana_00142", "vp_01121"])
def test_peers_controller_has_the_original_numbers(name):
    folder = golden.Folder(golden.HERE)
    case = next(case for case in folder.cases if case["id"] == name)
    ours = golden_adaptive.adaptive(folder, case)  # counts are compared there
    theirs = folder.array(case["file"], name)
    np.testing.assert_allclose(ours, theirs, atol=case["tol_abs"], rtol=0)


# ---- samples that do not arrive


def test_out_of_evaluations_is_a_status_with_the_last_state():
    found = solve(mixture(), noise(), Tolerance(1e-6, 0.0), 2, "runge_kutta", max_evaluations=20)
    assert np.all(found.status == 1)
    assert np.all(found.stats.nfe == 20)
    assert np.all(np.isfinite(found.x))
    assert np.all(found.stats.grid[-1] > 0)


@pytest.mark.parametrize("method", ["dpm_solver_pp", slow("runge_kutta")])
def test_a_model_that_breaks_stops_its_own_sample_alone(method):
    field, x = mixture(), noise()

    def model(x, t):
        never_finite = jnp.arange(64) == 1
        breaks_later = (jnp.arange(64) == 2) & (t < 0.5)
        broken = (never_finite | breaks_later)[:, None]
        return jnp.where(broken, jnp.nan, field.velocity(x, t))

    options = OPTIONS | {"method": method}
    found = jax.jit(lambda x: sample_adaptive(model, x, LINEAR, LOOSE, **options))(x)
    unbroken = solve(field, x, LOOSE, 3, method)
    others = np.delete(np.arange(64), [1, 2])
    np.testing.assert_array_equal(np.flatnonzero(found.status == 2), [1, 2])
    np.testing.assert_allclose(found.x[others], unbroken.x[others], atol=1e-10)
    assert np.all(np.isfinite(found.x))
    assert found.stats.nfe[1] == 1
    assert found.stats.nfe[2] < 100


# ---- batches and devices


def test_lockstep_takes_the_same_steps_for_all_and_more_of_them():
    field, x = mixture(), noise()
    own = solve(field, x, LOOSE)
    locked = solve(field, x, LOOSE, 3, lockstep=True)
    assert len(np.unique(locked.stats.nfe)) == 1
    assert np.mean(locked.stats.nfe) > np.mean(own.stats.nfe)


def test_lanes_that_take_the_next_sample_give_the_same_results_for_less():
    field, x = mixture(), noise()
    plain = solve(field, x, LOOSE)
    labels = jnp.arange(64)

    def model(x, t, ids):
        # A sample must see its own label.
        own_label = (labels[ids] == ids)[:, None]
        return jnp.where(own_label, field.velocity(x, t), jnp.nan)

    many = jax.jit(lambda x: sample_adaptive_many(model, x, LINEAR, LOOSE, lanes=7, **OPTIONS))(x)
    np.testing.assert_allclose(many.x, plain.x, atol=1e-10)
    np.testing.assert_array_equal(many.stats.nfe, plain.stats.nfe)
    np.testing.assert_array_equal(many.status, 0)
    needed = np.mean(plain.stats.nfe)
    assert np.mean(many.stats.computed) < 1.12 * needed
    assert np.mean(plain.stats.computed) > 1.2 * needed


def test_devices_stop_alone_in_shard_map_and_agree_in_lockstep():
    field, x = mixture(), noise()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    here = solve(field, x, LOOSE)
    # Everything but the grid (slots, B) has the batch first.
    specs = jax.tree.map(lambda a: P(None, "data") if a.shape[1:] == (64,) else P("data"), here)

    def over_devices(**more):
        """(the compiled program as text, its solution)."""

        def run(x):
            return sample_adaptive(
                field.velocity, x, LINEAR, LOOSE, save_grid=True, **OPTIONS, **more
            )

        program = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=specs))
        compiled = program.lower(x).compile()
        split = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data")))
        return compiled.as_text(), compiled(split)

    text, alone = over_devices()
    collectives = ("all-reduce", "all-gather", "collective-permute", "all-to-all")
    assert not any(word in text for word in collectives)
    np.testing.assert_allclose(alone.x, here.x, atol=1e-10)
    assert len(np.unique(alone.stats.computed)) > 1

    text, agreed = over_devices(lockstep=True, axis_name="data")
    assert "all-reduce" in text
    locked = solve(field, x, LOOSE, lockstep=True)
    np.testing.assert_allclose(agreed.x, locked.x, atol=1e-10)


def test_half_precision_is_raised():
    x = noise(dtype=jnp.bfloat16)
    found = jax.eval_shape(lambda x: solve(mixture(), x, LOOSE), x)
    assert found.x.dtype == np.float32
