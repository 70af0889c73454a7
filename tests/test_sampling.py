"""Laws of the sampler: what it counts and compiles, how it keeps samples apart, and its hooks.

At both ends of the path and in every precision its results are finite.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import draw_noise, grids, models, plans, sample
from flowjax.fields import GaussianMixture
from flowjax.plans.table import DEPTH
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, as_velocity, to_velocity

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "vp": VPLinear(),
    "discrete": VPDiscrete.linear(),
    "discrete-cosine": VPDiscrete.cosine(),
}
GRID = grids.uniform(6)

PLANS = {
    "euler": lambda s, g: plans.with_path(plans.euler(g), s),
    "heun": lambda s, g: plans.with_path(plans.heun(g), s),
    "rk4": lambda s, g: plans.with_path(plans.rk4(g), s),
    "ab4": lambda s, g: plans.with_path(plans.adams_bashforth(g, 4, start="heun"), s),
    "ddim": lambda s, g: plans.ddim(s, g),
    "2M": lambda s, g: plans.dpm_solver_pp(s, g, 2),
    "3M": lambda s, g: plans.dpm_solver_pp(s, g, 3, start="singlestep"),
    "3M noise": lambda s, g: plans.dpm_solver_pp(s, g, 3, prediction="noise"),
    "2S": lambda s, g: plans.dpm_solver_pp(s, g, 2, method="singlestep"),
    "3S": lambda s, g: plans.dpm_solver_pp(s, g, 3, method="singlestep"),
    "3S noise": lambda s, g: plans.dpm_solver_pp(s, g, 3, method="singlestep", prediction="noise"),
    "UniPC 2": lambda s, g: plans.unipc(s, g, 2),
    "UniPC 3": lambda s, g: plans.unipc(s, g, 3),
    "UniPC 3 noise": lambda s, g: plans.unipc(s, g, 3, prediction="noise"),
    "DEIS 3": lambda s, g: plans.deis(s, g, 3),
    "DEIS 3 rho": lambda s, g: plans.deis(s, g, 3, variable="rho"),
}
STOCHASTIC = {
    "DDIM eta": lambda s, g: plans.ddim(s, g, 0.6),
    "DDPM": lambda s, g: plans.ddim(s, g, 1.0),
    "SDE 1": lambda s, g: plans.dpm_solver_sde(s, g, 1),
    "SDE 3": lambda s, g: plans.dpm_solver_sde(s, g, 3),
    "SDE 2 noise": lambda s, g: plans.dpm_solver_sde(s, g, 2, prediction="noise"),
}
ALL = PLANS | STOCHASTIC
every_plan = pytest.mark.parametrize("name", PLANS)
every_plan_of_all = pytest.mark.parametrize("name", ALL)
every_stochastic = pytest.mark.parametrize("name", STOCHASTIC)
ROWS = 24  # of RK4 on six steps; other plans are padded to it, so that one program serves all


def start(batch=3, *, shape=(2,), dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(dtype)


def velocity(x, t):
    return jnp.sin(2 * x) * (1 + t) - 0.5 * x


def gaussian(schedule, mean=0.4, std=0.7):
    """The velocity of a Gaussian target, in a form that is defined at both ends."""

    def model(x, t):
        # alpha' E[data | x] + sigma sigma' E[noise | x]/sigma
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        offset = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        data = mean + alpha * std**2 * offset
        return schedule.alpha_dot(t) * data + schedule.sigma_sigma_dot(t) * offset

    return model


@functools.partial(jax.jit, static_argnames=("data_hook", "state_hook"))
def solve(x, plan, key=None, data_hook=None, state_hook=None):
    """The sampler with the plan as an argument: one program for all plans of one length."""
    return sample(
        velocity, x, plan, key=key, data_hook=data_hook, state_hook=state_hook, save_path=True
    )


def padded(name, grid=GRID, path="linear"):
    """The plan of this name in `ROWS` rows."""
    return plans.pad(ALL[name](SCHEDULES[path], grid), ROWS)


KEY = jax.random.key(0)

# What is counted

CALLS = []  # times at which the network was evaluated


@jax.jit
def counted(x, plan):
    def model(x, t):
        jax.debug.callback(CALLS.append, t, ordered=True)
        return velocity(x, t)

    return sample(model, x, plan, key=KEY)


@every_plan_of_all
def test_nfe_is_the_number_of_rows_and_of_calls(name):
    plan = ALL[name](Linear(), GRID)
    CALLS.clear()
    solution = counted(start(), plan)
    jax.effects_barrier()
    np.testing.assert_array_equal(solution.stats.nfe, [plan.rows] * 3)
    np.testing.assert_array_equal(np.array(CALLS), plan.label_time)


def test_padding_is_not_counted():
    solution = solve(start(), padded("heun"), KEY)
    np.testing.assert_array_equal(solution.stats.nfe, [11] * 3)
    np.testing.assert_array_equal(solution.stats.accepted, [6] * 3)
    np.testing.assert_array_equal(solution.stats.rejected, [0] * 3)
    assert solution.status.tolist() == [0, 0, 0]


def test_status_is_two_where_and_only_where_the_state_is_not_finite():
    is_second = jnp.arange(3)[:, None] == 1  # (B, 1)

    def broken(x, t):
        return jnp.where(is_second, jnp.nan, velocity(x, t))

    solution = sample(broken, start(), plans.euler(GRID))
    assert solution.status.tolist() == [0, 2, 0]
    assert np.isfinite(solution.x).all(axis=1).tolist() == [True, False, True]


# What is compiled


def test_forty_plans_of_one_length_are_one_program():
    traces = []

    @jax.jit
    def run(x, plan, key):
        traces.append(plan.rows)
        return sample(velocity, x, plan, key=key).x

    for steps, shift in [(4, 1.0), (4, 3.0), (5, 1.0), (5, 3.0)]:
        grid = grids.uniform(steps, shift=shift)
        for make in ALL.values():
            run(start(), plans.pad(make(Linear(), grid), ROWS), jax.random.key(0))
    # Traced once; another number of rows is another program.
    assert traces == [ROWS]
    run(start(), plans.euler(GRID), jax.random.key(0))
    assert traces == [ROWS, 6]


@every_plan
def test_scan_is_a_loop_over_the_rows_of_the_table(name):
    # The equations of plans.table in numpy, with the complete history in a list
    plan = ALL[name](Linear(), GRID)
    x = base = start()
    history = [np.zeros_like(x)] * DEPTH
    for i in range(plan.rows):
        history.append(plan.p[i] * x + plan.q[i] * np.asarray(velocity(x, plan.label_time[i])))
        newest_first = np.stack(history[: -DEPTH - 1 : -1], axis=-1)
        base = plan.a[i] * base + newest_first @ plan.b[i]
        x = plan.c[i] * base + newest_first @ plan.d[i]
    np.testing.assert_allclose(solve(start(), padded(name), KEY).x, x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("many", [jax.vmap, lambda run: functools.partial(jax.lax.map, run)])
def test_stack_of_plans_in_one_call_is_the_loop(many):
    made = [padded(name) for name in PLANS]
    stacked = jax.tree.map(lambda *columns: np.stack(columns), *made)

    def run(plan):
        return sample(velocity, start(), plan, save_path=True)

    together = jax.jit(many(run))(stacked)
    for i, plan in enumerate(made):
        alone = solve(start(), plan, KEY)
        np.testing.assert_allclose(together.x[i], alone.x, rtol=1e-12)
        np.testing.assert_allclose(together.path[i], alone.path, rtol=1e-12)
        assert together.stats.nfe[i].tolist() == alone.stats.nfe.tolist() == [plan.nfe] * 3


def test_second_call_gives_what_the_first_gave():
    # With another plan in between, so that a buffer that survived a call would show
    paths = [solve(start(), padded(name), KEY).path for name in ("SDE 3", "UniPC 3", "SDE 3")]
    first, _, second = paths
    np.testing.assert_array_equal(first, second)


def test_gradients_flow_through_the_sampler():
    plan = plans.unipc(Linear(), GRID, 2)

    def end(scale):
        solution = sample(lambda x, t: scale * velocity(x, t), start(), plan)
        return jnp.sum(solution.x)

    # Central difference, exact to about 1e-9 here
    slope = (end(1 + 1e-6) - end(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(end)(1.0), slope, rtol=1e-7)


# Samples keep apart


@every_stochastic
def test_sample_does_not_depend_on_its_batch(name):
    x, plan = start(4), padded(name)
    few = solve(x[:2], plan, KEY).path
    many = solve(x, plan, KEY).path
    np.testing.assert_allclose(few, many[:, :2], rtol=1e-13, atol=1e-14)


@every_stochastic
def test_sample_follows_its_key_and_not_its_position(name):
    x, plan, keys = start(4), padded(name), jax.random.split(KEY, 4)
    order = np.array([2, 0, 3, 1])
    moved = solve(x[order], plan, keys[order]).path
    np.testing.assert_allclose(moved, solve(x, plan, keys).path[:, order], rtol=1e-13, atol=1e-14)


def test_samples_draw_different_noise_in_every_row():
    plan = plans.dpm_solver_sde(Linear(), GRID, 1)

    @jax.jit
    def run(x, plan, key):
        return sample(lambda x, t: x / t, x, plan, key=key, save_path=True).path

    path = np.asarray(run(np.zeros((3, 2)), plan, KEY))
    # The data prediction x - t velocity is zero, so x1 = decay x0 + weight z. No noise is drawn on
    # the last of the six steps.
    drawn = (path[1:6] - plan.a[:5, None, None] * path[:5]) / plan.s[:5, None, None]
    assert len(np.unique(np.round(drawn, 9))) == 5 * 3 * 2
    assert np.abs(drawn).max() < 5


def test_keys_one_key_and_the_noise_itself_agree():
    plan, x = plans.dpm_solver_sde(Linear(), GRID, 2), start()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(3))

    def normal(key, row):
        return jax.random.normal(jax.random.fold_in(key, row), (2,))

    drawn = jax.vmap(jax.vmap(normal, (0, None)), (None, 0))(keys, jnp.arange(6))  # (rows, B, D)
    expected = solve(x, plan, KEY).x
    for same in (keys, drawn, np.array(drawn), jax.random.PRNGKey(0), jax.random.key_data(keys)):
        np.testing.assert_allclose(solve(x, plan, same).x, expected, rtol=1e-13)


def test_drawn_noise_of_a_sample_depends_on_key_and_number_alone():
    key, shape = jax.random.key(1), (4, 4, 3)
    every = draw_noise(key, jnp.arange(6), shape)
    assert every.shape == (6, 4, 4, 3)
    assert len(np.unique(every)) == every.size
    np.testing.assert_array_equal(draw_noise(key, range(6), shape), every)
    np.testing.assert_array_equal(draw_noise(key, [5, 2], shape), every[jnp.array([5, 2])])
    assert not np.array_equal(draw_noise(jax.random.key(2), [0], shape)[0], every[0])


# Ends and precision: from exactly 1 to exactly 0


def in_bfloat16(model):
    """The model, as a network that computes in bfloat16 and returns it."""

    def rounded(x, t):
        velocity = model(x.astype(jnp.bfloat16), t.astype(jnp.bfloat16))
        return velocity.astype(jnp.bfloat16)

    return rounded


@functools.partial(jax.jit, static_argnums=(2, 3))
def padded_end(x, plan, path, network):
    schedule = SCHEDULES[path]
    model = gaussian(schedule)
    if network == "bfloat16":
        model = in_bfloat16(model)
    return sample(model, x, plan, key=jax.random.key(0))


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize(
    ("dtype", "network"), [(np.float32, "same"), (np.float64, "same"), (np.float32, "bfloat16")]
)
def test_every_plan_is_finite_from_exactly_one_to_exactly_zero(path, dtype, network):
    for name, make in ALL.items():
        plan = plans.pad(make(SCHEDULES[path], GRID), ROWS)
        solution = padded_end(start(dtype=dtype), plan, path, network)
        assert solution.x.dtype == dtype, name
        assert np.all(np.isfinite(solution.x)), name
        # The target is N(0.4, 0.7^2). SDE 2 noise amplifies by exp(h) a step, and h is 2 here.
        if name != "SDE 2 noise":
            assert np.abs(solution.x).max() < 5, name


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "discrete"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_plan_inverts_from_exactly_zero_to_exactly_one(path, dtype):
    for name, make in PLANS.items():
        plan = plans.pad(make(SCHEDULES[path], GRID[::-1]), ROWS)
        solution = padded_end(start(dtype=dtype), plan, path, "same")
        assert np.all(np.isfinite(solution.x)), name
        # DEIS 3 rho extrapolates a parabola in rho over a step many times the one before.
        if name != "DEIS 3 rho":
            assert np.abs(solution.x).max() < 10, name


@every_plan
def test_float32_follows_float64(name):
    plan = plans.pad(PLANS[name](Linear(), GRID), ROWS)
    single = padded_end(start(dtype=np.float32), plan, "linear", "same").x
    double = padded_end(start(dtype=np.float32).astype(np.float64), plan, "linear", "same").x
    np.testing.assert_allclose(single, double, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["noise", "data", "v", "score"])
@pytest.mark.parametrize("path", ["vp", "discrete"])
def test_wrapped_networks_reach_exactly_zero(kind, path):
    """No plan but RK4 evaluates at t = 0, where a prediction may not determine the velocity."""
    schedule = SCHEDULES[path]

    def network(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        offset = (x - alpha * 0.4) / (alpha**2 * 0.49 + sigma**2)
        # E[data | x] and E[noise | x] of N(0.4, 0.7^2), and what follows from them
        data, noise = 0.4 + alpha * 0.49 * offset, sigma * offset
        v = alpha * noise - sigma * data
        return {"noise": noise, "data": data, "score": -offset, "v": v}[kind]

    model = as_velocity(network, schedule, kind)
    run = jax.jit(lambda x, plan: sample(model, x, plan).x)
    for name, make in PLANS.items():
        if name != "rk4":
            plan = plans.pad(make(schedule, GRID), ROWS)
            expected = padded_end(start(), plan, path, "same").x
            end = run(start(), plan)
            np.testing.assert_allclose(end, expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_noise_is_raised_to_float32(dtype):
    seen = []

    def model(x, t):
        seen.append((x.dtype, t.dtype, t.shape))
        return velocity(x, t).astype(dtype)

    solution = sample(model, jnp.asarray(start(), dtype), plans.euler(GRID), save_path=True)
    assert solution.x.dtype == solution.path.dtype == jnp.float32
    assert set(seen) == {(jnp.dtype(jnp.float32), jnp.dtype(jnp.float32), ())}


# Path, carry and hooks


@pytest.mark.parametrize("name", ["euler", "rk4", "3M", "3S", "UniPC 3"])
def test_path_holds_the_accepted_states_from_start_to_end(name):
    plan = PLANS[name](Linear(), GRID)
    solution = sample(velocity, start(), plan, save_path=True)
    assert solution.path.shape == (7, 3, 2)
    np.testing.assert_array_equal(solution.path[0], start())
    np.testing.assert_array_equal(solution.path[-1], solution.x)
    # The path of a traced, padded plan begins with the same states.
    traced = solve(start(), padded(name), KEY).path
    np.testing.assert_allclose(solution.path, traced[:7], rtol=1e-12)


@every_plan
def test_path_is_the_ends_of_shorter_runs(name):
    path = solve(start(), padded(name), KEY).path
    end = solve(start(), padded(name, GRID[:6]), KEY).x
    np.testing.assert_allclose(end, path[5], rtol=1e-12, atol=1e-13)


@every_plan
def test_path_of_a_traced_plan_repeats_its_end(name):
    solution = solve(start(), padded(name), KEY)
    assert solution.path.shape == (ROWS + 1, 3, 2)
    np.testing.assert_array_equal(solution.path[6:], np.broadcast_to(solution.x, (ROWS - 5, 3, 2)))


def test_no_path_is_kept_unasked():
    assert sample(velocity, start(), plans.euler([1.0, 0.0])).path is None


def test_carry_passes_through_every_evaluation():

    def model(x, t, carry):
        return velocity(x, t), {"count": carry["count"] + 1, "last": x}

    plan = plans.heun(GRID)
    first = {"count": jnp.zeros((3,), jnp.int32), "last": jnp.zeros((3, 2))}
    solution = sample(model, start(), plan, carry=first)
    np.testing.assert_array_equal(solution.carry["count"], [plan.nfe] * 3)
    path = sample(velocity, start(), plan, save_path=True).path
    np.testing.assert_allclose(solution.x, path[-1], rtol=1e-14)
    # The last row is an Euler step.
    np.testing.assert_allclose(solution.carry["last"], path[-2], rtol=1e-14)


def test_carry_is_given_to_the_model():

    def model(x, t, carry):
        return carry * jnp.ones_like(x), 2 * carry

    plan = plans.euler([1.0, 0.75, 0.25, 0.0])
    solution = sample(model, np.zeros((1, 1)), plan, carry=jnp.asarray(1.0))
    # Velocities 1, 2 and 4 over steps of 0.25, 0.5 and 0.25
    np.testing.assert_allclose(solution.x, [[-(0.25 + 2 * 0.5 + 4 * 0.25)]], rtol=1e-14)


def identity_hook(data, t):
    return data


def clip_hook(data, t):
    return jnp.clip(data, -0.1, 0.1)


@every_plan_of_all
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_identity_as_data_hook_changes_nothing(name, path):
    plan = padded(name, path=path)
    hooked = solve(start(), plan, KEY, data_hook=identity_hook).path
    np.testing.assert_allclose(hooked, solve(start(), plan, KEY).path, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["linear", "cosine", "discrete"])
@every_plan_of_all
def test_data_hook_is_the_model_with_that_data(name, path):
    """A hook that replaces the data prediction, against a model that predicts this data."""
    plan = padded(name, grids.uniform(6, end=0.1), path)
    hooked = constant_data_end(start(), plan, path, True)
    expected = constant_data_end(start(), plan, path, False)
    np.testing.assert_allclose(hooked, expected, rtol=0, atol=1e-11)


@functools.partial(jax.jit, static_argnums=(2, 3))
def constant_data_end(x, plan, path, hooked):
    schedule, target = SCHEDULES[path], jnp.array([0.5, -0.3])

    def hook(data, t):
        return jnp.broadcast_to(target, data.shape)

    def constant(x, t):
        return to_velocity(schedule, "data", jnp.broadcast_to(target, x.shape), x, t)

    key = jax.random.key(0)
    if hooked:
        return sample(velocity, x, plan, key=key, data_hook=hook).x
    return sample(constant, x, plan, key=key).x


def test_data_hook_sees_data_and_time():
    seen = []

    def record(data, t):
        seen.append((np.array(data), float(t)))

    def hook(data, t):
        jax.debug.callback(record, data, t, ordered=True)
        return data

    plan = plans.dpm_solver_pp(Linear(), GRID, 2)
    path = sample(velocity, start(), plan, data_hook=hook, save_path=True).path
    jax.effects_barrier()
    assert [t for _, t in seen] == pytest.approx(GRID[:-1])
    # On the linear path, data = x - t velocity.
    for (data, t), x in zip(seen, path[:-1], strict=True):
        np.testing.assert_allclose(data, x - t * velocity(x, t), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "name", ["euler", "ddim", "2M", "3M", "3M noise", "2S", "3S", "3S noise", "UniPC 3"]
)
def test_clipping_the_data_bounds_a_result_that_is_the_data_prediction(name):
    free = solve(3 * start(), padded(name), KEY).x
    clipped = solve(3 * start(), padded(name), KEY, data_hook=clip_hook).x
    assert np.abs(free).max() > 0.5
    assert np.abs(clipped).max() < 0.1 + 1e-12


@every_plan_of_all
def test_state_hook_sees_every_step_once_at_its_time(name):
    marks = solve(start(), padded(name), KEY, state_hook=mark_hook).path[1:7, 0]
    np.testing.assert_allclose(marks[:, 0], GRID[1:], rtol=1e-14)
    np.testing.assert_array_equal(marks[:, 1], np.arange(1, 7))


def mark_hook(x, t, step):
    """Writes the time and the number of the step into the state."""
    return jnp.stack([jnp.full((3,), t), jnp.full((3,), step, x.dtype)], axis=1)


def still_hook(x, t, step):
    return x


def move_hook(x, t, step):
    return 0.9 * x + t


@every_plan_of_all
def test_identity_as_state_hook_changes_nothing(name):
    hooked = solve(start(), padded(name), KEY, state_hook=still_hook).path
    np.testing.assert_allclose(hooked, solve(start(), padded(name), KEY).path, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["euler", "heun", "rk4", "3S", "2S"])
def test_state_hook_of_a_one_step_method_restarts_it(name):
    """Moving the state after each step is solving every step from the moved state."""
    x = start()
    for t0, t1 in zip(GRID[:-1], GRID[1:], strict=True):
        x = 0.9 * solve(x, padded(name, [t0, t1]), KEY).x + t1
    hooked = solve(start(), padded(name), KEY, state_hook=move_hook).x
    np.testing.assert_allclose(hooked, x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["UniPC 2", "UniPC 3"])
def test_state_hook_replaces_the_state_that_the_network_sees(name):
    frozen = jnp.array([0.3, -0.2])
    seen = []

    def model(x, t):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x, ordered=True)
        return velocity(x, t)

    def hook(x, t, step):
        return jnp.broadcast_to(frozen, x.shape)

    sample(model, start(), PLANS[name](Linear(), GRID), state_hook=hook)
    jax.effects_barrier()
    # All but the first evaluation, which is at the start
    np.testing.assert_allclose(seen[1:], np.broadcast_to(frozen, (5, 3, 2)), rtol=1e-15)


# The stochastic samplers reach the target

TO_THE_TARGET = STOCHASTIC | {"SDE 2": lambda s, g: plans.dpm_solver_sde(s, g, 2)}


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("name", ["DDPM", "SDE 1", "SDE 2", "SDE 2 noise", "DDIM eta"])
def test_variance_of_stochastic_plans_tends_to_the_targets(path, name):
    """On a Gaussian every step is linear, so mean and variance are known without drawing."""
    errors = []
    for steps in (80, 160):
        plan = plans.pad(TO_THE_TARGET[name](SCHEDULES[path], grids.uniform(steps)), 160)
        # Column j of the noise is one in row j: the end is mean + sum_j response_j z_j.
        impulse = np.concatenate([np.zeros((160, 2, 1)), np.eye(160)[:, :, None]], axis=1)
        x = np.concatenate([[[0.0], [1.0]], np.zeros((160, 1))])
        end = np.asarray(linear_end(x, plan, impulse, path))[:, 0]
        mean, response = end[0], end[1:] - end[0]
        errors.append((abs(mean - 0.4), abs(np.sum(response**2) - 0.49)))
    (mean, variance), (mean2, variance2) = errors
    assert variance2 < 0.02
    assert mean2 < 0.02
    # Twice the steps give about half the error, or the mean is exact.
    assert variance2 < 0.62 * variance
    assert mean2 < 0.62 * mean or mean2 < 1e-12


@functools.partial(jax.jit, static_argnums=3)
def linear_end(x, plan, noise, path):
    return sample(gaussian(SCHEDULES[path]), x, plan, key=noise).x


@pytest.mark.parametrize("name", ["DDPM", "SDE 2", "SDE 2 noise"])
def test_drawn_samples_have_the_mean_and_variance_of_the_target(name):
    count = 10000
    x = draw_noise(jax.random.key(0), jnp.arange(count), (1,))
    plan = TO_THE_TARGET[name](Linear(), grids.uniform(160))

    @jax.jit
    def run(x, plan, key):
        return sample(gaussian(Linear()), x, plan, key=key).x

    end = np.asarray(run(x, plan, jax.random.key(1)))
    # Four standard errors of 10000 samples, 0.028 for both, and the 0.02 that the test above allows
    # 160 steps.
    assert abs(end.mean() - 0.4) < 0.05
    assert abs(end.var() - 0.49) < 0.05


# Mistakes


def test_stochastic_plan_without_a_key_is_refused():
    message = r"flowjax\.sample: this plan draws noise .*key is None; pass key="
    with pytest.raises(ValueError, match=message):
        sample(velocity, start(), plans.ddim(Linear(), GRID, 0.5))


def test_stochastic_plan_without_a_key_under_jit_is_nan_with_status_two():
    run = jax.jit(lambda plan: sample(velocity, start(), plan))
    solution = run(plans.dpm_solver_sde(Linear(), GRID, 1))
    assert np.all(np.isnan(solution.x))
    assert solution.status.tolist() == [2, 2, 2]
    assert run(plans.euler(GRID)).status.tolist() == [0, 0, 0]


SDE = plans.dpm_solver_sde(Linear(), GRID, 1)
FIELD = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None], Linear())
MODEL = models.Model(lambda params, x, t, label: x, None, None)
MISTAKES = {
    # The noise
    "no batch": (
        lambda: sample(velocity, np.zeros(3), plans.euler(GRID)),
        r"noise has shape \(3,\).*\(B, \*D\)",
    ),
    "integers": (
        lambda: sample(velocity, np.zeros((3, 2), int), plans.euler(GRID)),
        r"dtype int64; wanted floating",
    ),
    # The shape that the model returns
    "shape": (
        lambda: sample(lambda x, t: x[:, :1], start(), plans.euler(GRID)),
        r"shape \(3, 1\) .* \(3, 2\)",
    ),
    "flat": (
        lambda: sample(lambda x, t: x.ravel(), start(), plans.euler(GRID)),
        r"model returned shape \(6,\)",
    ),
    # Keys, and noise in their place
    "keys": (
        lambda: sample(velocity, start(), SDE, key=jax.random.split(jax.random.key(0), 2)),
        r"\(2,\) keys for a batch of 3; give one key, or one a sample",
    ),
    "noise": (
        lambda: sample(velocity, start(), SDE, key=np.zeros((5, 3, 2))),
        r"noise given as key has shape \(5, 3, 2\); wanted .*\(6, 3, 2\)",
    ),
    "seed": (
        lambda: sample(velocity, start(), SDE, key=0),
        r"key=0 is not a key; pass key=jax\.random\.key\(0\)",
    ),
    "name of a key": (
        lambda: sample(velocity, start(), SDE, key="noise"),
        r"key='noise' is not a key; pass one that jax\.random\.key\(0\)",
    ),
    # What is no velocity, and no plan
    "field": (
        lambda: sample(FIELD, start(), plans.euler(GRID)),
        r"model must be a function .* the GaussianMixture has it as a method: pass field\.velocity",
    ),
    "model with parameters": (
        lambda: sample(MODEL, start(), plans.euler(GRID)),
        r"bind the parameters .* of the Model: lambda x, t: model\.apply\(model\.params, x, t",
    ),
    "noise before the model": (
        lambda: sample(start(), velocity, plans.euler(GRID)),
        r"an array stands in its place: the model comes first, then noise and plan",
    ),
    "name of a model": (
        lambda: sample("digits", start(), plans.euler(GRID)),
        r"model must be a function \(x, t\) -> velocity; a str cannot be called",
    ),
    "grid as plan": (
        lambda: sample(velocity, start(), GRID),
        r"plan is a ndarray; wanted a plan, for example flowjax\.plans\.euler\(grid\)",
    ),
    "carry that was not given": (
        lambda: sample(lambda x, t: (x, 1), start(), plans.euler(GRID)),
        r"the model returned a tuple; .* needs its first carry: pass carry=",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused_by_name_with_a_way_out(call, message):
    with pytest.raises(ValueError, match=r"flowjax\.sample: .*" + message):
        call()


IDS_WANTED = r"wanted a vector of integers, \(B,\): .* range\(16\)"
NOISE_MISTAKES = {
    "number of samples": (
        lambda: draw_noise(KEY, 16, (2,)),
        r"ids has shape \(\) and dtype int64; " + IDS_WANTED,
    ),
    "fractions": (
        lambda: draw_noise(KEY, [0.0, 1.0], (2,)),
        r"ids has shape \(2,\) and dtype float64; " + IDS_WANTED,
    ),
    "no samples": (lambda: draw_noise(KEY, [], (2,)), r"ids has shape \(0,\) .*" + IDS_WANTED),
    "matrix": (
        lambda: draw_noise(KEY, np.arange(4).reshape(2, 2), (2,)),
        r"ids has shape \(2, 2\) .*" + IDS_WANTED,
    ),
    "shape first": (lambda: draw_noise(KEY, (4, 4), 16), r"shape=16; wanted the sizes .* tuple"),
    "sizes as floats": (
        lambda: draw_noise(KEY, range(3), (4.0, 4)),
        r"shape=\(4\.0, 4\); wanted the sizes of one sample as a tuple",
    ),
    "seed": (
        lambda: draw_noise(0, range(3), (2,)),
        r"key=0 is not a key; pass key=jax\.random\.key\(0\)",
    ),
    "keys": (
        lambda: draw_noise(jax.random.split(KEY, 3), range(3), (2,)),
        r"key holds 3 keys; wanted one key for all ids",
    ),
}


@pytest.mark.parametrize(("call", "message"), NOISE_MISTAKES.values(), ids=NOISE_MISTAKES)
def test_mistake_in_drawing_noise_is_refused_with_a_way_out(call, message):
    with pytest.raises(ValueError, match=r"flowjax\.draw_noise: " + message):
        call()
