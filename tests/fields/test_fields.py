"""Exact fields against stored numbers, autodiff, finite differences and an ODE solver."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from flowjax import fields, schedules
from flowjax.fields import DataSet, Gaussian, GaussianMixture

SCHEDULES = [
    schedules.Linear(),
    schedules.Cosine(),
    schedules.VPLinear(),
    schedules.VPDiscrete.linear(),
]
KINDS = ["velocity", "data", "noise", "score"]
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "solvers" / "fields.npz")
EXACT = np.load(pathlib.Path(__file__).parents[1] / "golden" / "solvers" / "exact.npz")
GOLDEN_NAMES = ["ring8", "ring8_narrow", "gmm16", "gauss4"]
LINEAR = schedules.Linear()
KEY = jax.random.key(0)

METHODS = KINDS + ["log_density", "divergence"]

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


# Compilation is most of the time here, and the programs are tiny.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@jit
def answers(field, x, t):
    """What each method answers, from one compiled program."""
    return {method: getattr(field, method)(x, t) for method in METHODS}


@jit
def velocity_of(field, x, t):
    return field.velocity(x, t)


def golden_field(name):
    return GaussianMixture.from_eigen(
        *(GOLDEN[f"{name}__{part}"] for part in ("w", "mu", "U", "L")), LINEAR
    )


def mixture(schedule=LINEAR, dim=3):
    return fields.random_mixture(1, schedule, dim=dim, modes=4)


def data_set(schedule=LINEAR, **options):
    samples = np.random.default_rng(2).normal(size=(7, 2, 3)) + 1.0
    options = {"bandwidth": 0.3, "labels": np.arange(7) % 2} | options
    return DataSet(samples, schedule=schedule, **options)


@functools.partial(jit, static_argnames="n")
def states(field, n=5, t=0.5):
    return field.draw_at(KEY, n, t)


@functools.partial(jit, static_argnames="n")
def data(field, n):
    return field.draw(KEY, n)


# --- mixtures
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-4)])
def test_mixture_matches_stored_numbers(name, dtype, tolerance):
    field, x = golden_field(name), GOLDEN[f"{name}__check_x"].astype(dtype)
    for t in ("0.001", "0.05", "0.3", "0.7", "0.999"):
        found = answers(field, x, float(t))
        velocity, data = found["velocity"], found["data"]
        assert velocity.dtype == data.dtype == dtype
        # Relative to the size of a state over t: velocities grow like 1/t far from the data.
        scale = 1 + np.abs(GOLDEN[f"{name}__check_v_t{t}"])
        assert_allclose(
            velocity / scale, GOLDEN[f"{name}__check_v_t{t}"] / scale, rtol=0, atol=tolerance
        )
        assert_allclose(data, GOLDEN[f"{name}__check_x0_t{t}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["ring8", "gmm16"])
def test_ode_of_mixture_ends_at_stored_endpoint(name):
    field, start = golden_field(name), GOLDEN[f"{name}__xT"][:1]
    solution = solve_ivp(
        lambda t, x: np.asarray(velocity_of(field, x[None], t))[0],
        (1.0, 0.0),
        start[0],
        method="DOP853",
        rtol=1e-9,
        atol=1e-10,
    )
    assert_allclose(solution.y[:, -1], EXACT[f"{name}|flow|1.0|0.0"][0], atol=1e-6)


def test_mixture_from_covariances_equals_mixture_from_eigenvectors():
    field, x = mixture(), states(mixture())
    again = GaussianMixture(field.weights, field.means, field.covariances, LINEAR)
    assert_allclose(velocity_of(again, x, 0.4), velocity_of(field, x, 0.4), atol=1e-12)


def test_narrow_mode_keeps_relative_accuracy_in_float32():
    # Axis deviations 1, 1e-4: the noise prediction divides by them, and a factorised a^2 C + s^2 I
    # would lose 1e-8.
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(2, 2)))[0]
    wide = Gaussian.from_eigen(np.zeros(2), turn, np.array([1.0, 1e-8]), LINEAR)
    coordinates = np.array([[0.5, 0.0], [-2.0, 0.0]])
    t = 1e-3
    exact = coordinates * t / ((1 - t) ** 2 * np.array([1.0, 1e-8]) + t**2)
    x = (coordinates @ turn.T).astype(np.float32)
    # A state of size 2 is itself rounded by 1e-7, which the narrow axis multiplies by s/(a^2 L +
    # s^2), about 1e3.
    assert_allclose(wide.noise(x, t) @ turn, exact, rtol=1e-6, atol=4e-7 * 1e3)


@pytest.mark.parametrize(
    "make, schedule",
    [*((mixture, schedule) for schedule in SCHEDULES), (data_set, LINEAR)],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
class TestLaws:
    """Laws of every field; the data set is compared with a mixture on the other schedules below."""

    def test_score_is_gradient_of_log_density(self, make, schedule):
        field = make(schedule)
        gradient = jit(jax.grad(lambda x, t: field.log_density(x, t).sum()))
        for t in (0.02, 0.3, 0.7, 0.98):
            x = states(field, t=t)
            assert_allclose(answers(field, x, t)["score"], gradient(x, t), rtol=1e-9, atol=1e-9)

    def test_predictions_are_those_that_the_schedule_converts_from_velocity(self, make, schedule):
        field = make(schedule)
        x = states(field)
        t = np.linspace(0.1, 0.9, len(x))
        found = answers(field, x, t)
        for kind in KINDS:
            expected = schedules.predict(schedule, kind, found["velocity"], x, t)
            assert_allclose(found[kind], expected, rtol=1e-8, atol=1e-8)

    def test_predictions_average_to_the_state(self, make, schedule):
        field = make(schedule)
        x = states(field)
        for t in (0.0, 0.3, 1.0):
            found = answers(field, x, t)
            assert_allclose(schedule.add_noise(found["data"], found["noise"], t), x, atol=1e-12)

    def test_velocity_moves_density_as_continuity_demands(self, make, schedule):
        # d/dt log p + v . grad log p + div v = 0, the time derivative by central differences
        # between discrete nodes.
        field, t, h = make(schedule), 0.4005, 1e-5
        x = states(field)
        before, now, after = (answers(field, x, s) for s in (t - h, t, t + h))
        rate = (after["log_density"] - before["log_density"]) / (2 * h)
        carried = (now["velocity"] * now["score"]).reshape(len(x), -1).sum(1)
        assert_allclose(rate + carried + now["divergence"], 0, atol=1e-6)

    def test_divergence_is_trace_of_jacobian(self, make, schedule):
        field, t = make(schedule), 0.3
        x = states(field)
        jacobian = jit(jax.vmap(jax.jacfwd(lambda x: field.velocity(x[None], t)[0])))(x)
        square = jacobian.reshape(len(x), x[0].size, x[0].size)
        assert_allclose(
            answers(field, x, t)["divergence"], np.trace(square, axis1=1, axis2=2), rtol=1e-9
        )

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_ends_are_finite_and_are_the_limits(self, make, schedule, dtype):
        field = make(schedule)
        x = np.asarray(states(field), dtype)
        for t, inside in ((0.0, 1e-10), (1.0, 1 - 1e-10)):
            found, near = answers(field, x, dtype(t)), answers(field, x.astype(np.float64), inside)
            for method in METHODS:
                assert found[method].dtype == dtype
                assert_allclose(found[method], near[method], rtol=2e-3, atol=2e-3)

    def test_time_of_each_sample_equals_a_scalar_time(self, make, schedule):
        field, t = make(schedule), np.array([0.0, 0.3, 0.5, 0.8, 1.0])
        x = states(field)
        together = answers(field, x, t)
        for i in range(5):
            alone = answers(field, x, float(t[i]))
            for method in METHODS:
                assert_allclose(together[method][i], alone[method][i], rtol=1e-10, atol=1e-12)


def test_bayes_rule_of_responsibilities():
    field, t = mixture(), 0.4
    x = states(field)
    parts = [field.subset([k]) for k in range(4)]
    alone, together = [answers(part, x, t) for part in parts], answers(field, x, t)
    joint = np.stack(
        [np.log(w) + one["log_density"] for w, one in zip(field.weights, alone)], axis=1
    )
    expected = np.exp(joint - together["log_density"][:, None])
    assert_allclose(field.responsibilities(x, t), expected, rtol=1e-10)
    velocity = sum(expected[:, k, None] * alone[k]["velocity"] for k in range(4))
    assert_allclose(together["velocity"], velocity, rtol=1e-10)


def test_the_index_of_the_nearest_datum_is_searched_for_only_where_it_is_asked_for():
    # Inside a while loop nothing removes a search whose result nobody uses.
    field = DataSet(np.eye(4), 0.1, LINEAR)
    x = np.zeros((2, 4))
    assert "argmax" not in str(jax.make_jaxpr(field.velocity)(x, 0.5))
    assert "argmax" in str(jax.make_jaxpr(field.nearest)(x))


def test_far_states_do_not_overflow_the_softmax():
    field = fields.ring(LINEAR, std=1e-3)
    x = np.array([[1e4, 0.0], [-2.0, 0.0]], np.float32)
    assert np.all(np.isfinite(velocity_of(field, x, 0.001)))
    assert_allclose(field.responsibilities(x, 0.0).sum(1), 1, rtol=1e-6)
    assert field.nearest(x).tolist() == [0, 4]


def test_subset_renormalises():
    part = mixture().subset(np.array([True, False, True, False]))
    assert_allclose(part.weights, mixture().weights[[0, 2]] / mixture().weights[[0, 2]].sum())
    assert_allclose(part.means, mixture().means[[0, 2]])


def test_component_of_zero_weight_changes_nothing():
    field, x = mixture(), states(mixture())
    more = GaussianMixture(
        np.append(field.weights, 0),
        np.vstack([field.means, np.zeros((1, 3))]),
        np.concatenate([field.covariances, np.eye(3)[None]]),
        LINEAR,
    )
    found, expected = answers(more, x, 0.3), answers(field, x, 0.3)
    for method in METHODS:
        assert_allclose(found[method], expected[method], rtol=1e-10)


def test_modes_without_width_are_finite_at_the_data():
    field = fields.two_points(LINEAR, distance=2.0, std=0.0)
    x = np.array([[0.9], [-1.2]], np.float32)
    found = answers(field, x, 0.0)
    assert all(np.all(np.isfinite(found[method])) for method in METHODS)
    assert_allclose(found["data"], [[1.0], [-1.0]])


# --- one Gaussian
# ------------------------------------------------------------------------------


def gaussian(schedule=LINEAR):
    factor = np.random.default_rng(4).normal(size=(3, 3))
    return Gaussian(np.array([1.0, -2.0, 0.5]), factor @ factor.T, schedule)


@each_schedule
def test_flow_has_the_velocity_as_its_derivative(schedule):
    field = gaussian(schedule)
    x, t0, t1 = states(field), 0.8, 0.3
    end, rate = jit(lambda t: jax.jvp(lambda t: field.flow(x, t0, t), (t,), (jnp.ones(()),)))(
        jnp.asarray(t1)
    )
    assert_allclose(rate, velocity_of(field, end, t1), rtol=1e-9, atol=1e-9)


@each_schedule
def test_flows_compose_and_reverse(schedule):
    field = gaussian(schedule)
    x = states(field, t=1.0)
    flow = jit(field.flow)
    assert_allclose(flow(flow(x, 1.0, 0.4), 0.4, 0.0), flow(x, 1.0, 0.0), atol=1e-10)
    assert_allclose(flow(flow(x, 1.0, 0.0), 0.0, 1.0), x, atol=1e-10)
    assert_allclose(flow(x, 0.6, 0.6), x, atol=1e-12)


def test_flow_equals_an_ode_solver():
    field = gaussian()
    x = states(field, 1, t=1.0)
    solution = solve_ivp(
        lambda t, x: np.asarray(velocity_of(field, x[None], t))[0],
        (1.0, 0.0),
        x[0],
        method="DOP853",
        rtol=1e-10,
        atol=1e-11,
    )
    assert_allclose(field.flow(x, 1.0, 0.0)[0], solution.y[:, -1], atol=1e-8)


@pytest.mark.parametrize("name", ["flow|1.0|0.0", "flow|0.999|0.001"])
def test_flow_equals_stored_endpoint(name):
    mean, vectors, values = (GOLDEN[f"gauss4__{part}"][0] for part in ("mu", "U", "L"))
    field = Gaussian.from_eigen(mean, vectors, values, LINEAR)
    _, start, end = name.split("|")
    assert_allclose(
        field.flow(GOLDEN["gauss4__xT"], float(start), float(end)),
        EXACT[f"gauss4|{name}"],
        atol=1e-10,
    )


def test_velocity_of_a_line_of_gaussians_keeps_mass():
    # dp/dt + d(p v)/dx = 0 on a grid of the line, both derivatives by central differences.
    field = fields.two_points(LINEAR, distance=3.0, std=0.4)
    x, t, h = np.linspace(-4, 4, 4001)[:, None], 0.5, 1e-4
    before, now, after = (answers(field, x, s) for s in (t - h, t, t + h))
    flux = np.exp(now["log_density"]) * now["velocity"][:, 0]
    rate = (np.exp(after["log_density"]) - np.exp(before["log_density"])) / (2 * h)
    assert np.abs(rate).max() > 0.1
    assert_allclose(rate[1:-1] + (flux[2:] - flux[:-2]) / (x[2, 0] - x[0, 0]), 0, atol=2e-5)


# --- finite data
# ------------------------------------------------------------------------------


@each_schedule
def test_data_set_is_a_mixture_of_round_gaussians(schedule):
    field = data_set(schedule)
    flat = field.samples.reshape(7, 6)
    same = GaussianMixture(np.full(7, 1 / 7), flat, np.tile(0.09 * np.eye(6), (7, 1, 1)), schedule)
    x = states(field)
    for t in (0.0, 0.3, 1.0):
        found, expected = answers(field, x, t), answers(same, x.reshape(-1, 6), t)
        for method in METHODS:
            assert_allclose(
                found[method], expected[method].reshape(found[method].shape), rtol=1e-9, atol=1e-11
            )
    assert_allclose(field.nearest(x), same.nearest(x.reshape(-1, 6)))


@pytest.mark.parametrize("chunk", [1, 3, 6])
def test_chunks_do_not_change_the_field(chunk):
    whole, parts = data_set(), data_set(chunk=chunk)
    x = states(whole)
    for t in (0.0, 0.05, 0.5, 1.0):
        found, expected = answers(parts, x, t), answers(whole, x, t)
        for method in METHODS:
            assert_allclose(found[method], expected[method], rtol=1e-10, atol=1e-12)
    assert parts.nearest(x).tolist() == whole.nearest(x).tolist()


def test_order_of_the_data_does_not_matter():
    field, order = data_set(), np.random.default_rng(0).permutation(7)
    again = DataSet(field.samples[order], 0.3, LINEAR)
    x = states(field)
    assert_allclose(velocity_of(again, x, 0.4), velocity_of(field, x, 0.4), atol=1e-12)
    assert_allclose(order[again.nearest(x)], field.nearest(x))


@each_schedule
def test_one_datum_is_reached_by_one_step(schedule):
    point = np.random.default_rng(5).normal(size=(1, 4, 4, 3))
    field = DataSet(point, 0.0, schedule)
    x = jax.random.normal(KEY, (3, 4, 4, 3))
    found = answers(field, x, 1.0)
    assert_allclose(found["data"], np.broadcast_to(point, x.shape), atol=1e-15)
    if schedule == LINEAR:
        assert_allclose(found["velocity"], x - point, rtol=0, atol=1e-15)
        assert_allclose(x - found["velocity"], np.broadcast_to(point, x.shape), atol=1e-15)


@each_schedule
def test_data_without_width_are_answered_at_the_data(schedule):
    field = data_set(schedule, bandwidth=0.0)
    x = (field.samples + 0.01).astype(np.float32)
    found = answers(field, x, 0.0)
    assert_allclose(found["data"], field.samples, atol=1e-6)
    assert_allclose(found["noise"], 0)
    assert_allclose(found["score"], 0)
    assert_allclose(
        found["velocity"], schedule.alpha_dot(0.0) * field.samples, rtol=1e-5, atol=1e-5
    )


def test_large_offset_costs_nothing():
    # The data are centred; without that, squared norms of 1e6 would leave float32 no digits of the
    # differences.
    near, far = data_set(), DataSet(data_set().samples + 1000.0, 0.3, LINEAR)
    x, t = np.asarray(states(near)), 0.25
    moved = (x + 1000.0 * (1 - t)).astype(np.float32)
    # Rounding the states themselves moves them by 3e-5, and the noise by ten times as much at most.
    assert_allclose(answers(far, moved, t)["noise"], answers(near, x, t)["noise"], atol=1e-3)


def test_digits_in_float32_agree_with_float64():
    field = fields.digits(LINEAR, bandwidth=0.05)
    for t in (0.0, 0.02, 0.2, 0.6, 1.0):
        x = np.asarray(states(field, 32, t), np.float32)
        exact = np.asarray(velocity_of(field, x.astype(np.float64), t))
        error = np.linalg.norm((velocity_of(field, x, t) - exact).reshape(32, -1), axis=1)
        assert np.all(error < 5e-6 * np.linalg.norm(exact.reshape(32, -1), axis=1))


def test_subset_of_a_label_is_the_data_set_of_its_samples():
    field = data_set(chunk=5)
    part = field.subset(1)
    assert_allclose(part.samples, field.samples[1::2], atol=1e-14)
    assert part.chunk == 3 and part.labels.tolist() == [1, 1, 1]


def test_emoji_are_images_with_labels():
    field = fields.emoji(LINEAR, bandwidth=0.05)
    assert field.samples.shape == (1906, 32, 32, 3)
    assert field.samples.min() == -1 and abs(field.samples.max() - 1) < 1e-12
    assert np.bincount(field.labels).shape == (9,)
    x = field.samples[[5, 1800]]
    assert field.nearest(x).tolist() == [5, 1800]
    assert_allclose(jax.jit(lambda field, x: field.data(x, 0.0))(field, x), x, atol=1e-10)


# --- draws
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", [mixture(), gaussian(), data_set()], ids=["mixture", "gaussian", "data set"]
)
def test_draws_have_the_right_moments(field):
    n = 20000
    x = np.asarray(data(field, n)).reshape(n, -1)
    if isinstance(field, DataSet):
        weights, means = np.full(7, 1 / 7), field.samples.reshape(7, -1)
        covariances = np.tile(0.09 * np.eye(6), (7, 1, 1))
    else:
        weights, means, covariances = field.weights, field.means, field.covariances
    mean = weights @ means
    second = np.einsum("k,kij->ij", weights, covariances + np.einsum("ki,kj->kij", means, means))
    deviation = np.sqrt(np.diag(second - np.outer(mean, mean)))
    # Five standard errors: a false alarm in a few million entries. Fourth moments are at most a few
    # deviation^4 here.
    assert np.all(np.abs(x.mean(0) - mean) < 5 * deviation / np.sqrt(n))
    products = x[:, :, None] * x[:, None, :]
    assert np.all(np.abs(products.mean(0) - second) < 5 * products.std(0) / np.sqrt(n))


def test_draws_at_a_time_have_the_density_of_that_time():
    # E log p under p is minus the entropy; the other side integrates p log p over a grid of the
    # line.
    field, t = fields.two_points(schedules.Cosine(), distance=3.0, std=0.3), 0.4
    grid = np.linspace(-6, 6, 6001)[:, None]
    log_density_of = jit(field.log_density)
    log_density = np.asarray(log_density_of(grid, t))
    expected = (np.exp(log_density) * log_density).sum() * (grid[1, 0] - grid[0, 0])
    values = np.asarray(log_density_of(states(field, 20000, t), t))
    assert abs(values.mean() - expected) < 5 * values.std() / np.sqrt(20000)


# --- pytrees and refusals
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", [mixture(), gaussian(), data_set(chunk=3)], ids=["mixture", "gaussian", "data set"]
)
def test_field_is_an_argument_of_jit_not_a_constant(field):
    x = states(field)
    function = jax.jit(lambda field, x, t: field.velocity(x, t))
    function(field, x, 0.3)
    function(jax.tree.map(lambda leaf: leaf * 1, field), x, 0.5)
    assert function._cache_size() == 1
    constants = function.trace(field, x, 0.3).jaxpr.consts
    assert sum(np.size(constant) for constant in constants) == 0


def test_fields_stack_under_vmap():
    each = [fields.ring(LINEAR, std=std) for std in (0.1, 0.3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    x = states(each[0])
    together = jit(jax.vmap(lambda field: field.velocity(x, 0.3)))(stacked)
    assert_allclose(together, np.stack([velocity_of(field, x, 0.3) for field in each]), rtol=1e-10)


def test_narrow_states_are_answered_in_float32():
    x = jnp.ones((2, 3), jnp.bfloat16)
    assert (
        jax.eval_shape(mixture().velocity, x, jnp.asarray(0.3, jnp.bfloat16)).dtype == jnp.float32
    )


@each_schedule
def test_with_schedule_keeps_the_data(schedule):
    moved = mixture().with_schedule(schedule)
    assert moved.schedule is schedule
    x = states(moved)
    assert_allclose(velocity_of(moved, x, 0.3), velocity_of(mixture(schedule), x, 0.3))


@pytest.mark.parametrize(
    "field, shape",
    [
        (fields.ring(LINEAR), (2,)),
        (fields.two_points(LINEAR, distance=2.0, std=0.1, dim=3), (3,)),
        *((fields.random_mixture(0, LINEAR, dim=dim), (dim,)) for dim in (2, 64)),
        (fields.power_law(LINEAR, dim=5, exponent=2.0), (5,)),
        (fields.digits(LINEAR, bandwidth=0.1), (8, 8, 1)),
    ],
)
def test_presets_draw_states_of_their_shape(field, shape):
    x = data(field, 3)
    assert x.shape == (3, *shape)
    assert np.all(np.isfinite(velocity_of(field, x, 0.5)))
    centres, squares = field.modes()
    assert centres.shape[1:] == shape and squares.shape == centres.shape[:1]


def test_preset_sizes():
    assert_allclose(
        fields.power_law(LINEAR, dim=3, exponent=2.0).covariances[0], np.diag([1, 1 / 4, 1 / 9])
    )
    points = fields.two_points(LINEAR, distance=3.0, std=0.1)
    assert_allclose(points.means[:, 0], [-1.5, 1.5])
    assert_allclose(np.linalg.norm(fields.ring(LINEAR).means, axis=1), 2.0)


EYES = np.tile(np.eye(2), (2, 1, 1))
HALVES = [0.5, 0.5]
MEANS = np.zeros((2, 2))


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: GaussianMixture([0.5, 0.6], MEANS, EYES, LINEAR), "sum to 1.1"),
        (lambda: GaussianMixture([1.5, -0.5], MEANS, EYES, LINEAR), "least is -0.5"),
        (lambda: GaussianMixture([np.nan, 0.5], MEANS, EYES, LINEAR), "nonnegative"),
        (lambda: GaussianMixture(HALVES, np.zeros(2), EYES, LINEAR), r"means have shape \(2,\)"),
        (lambda: GaussianMixture(HALVES, np.zeros((3, 2)), EYES, LINEAR), "do not fit means"),
        (lambda: GaussianMixture(HALVES, MEANS, np.ones((2, 2)), LINEAR), "one square matrix"),
        (lambda: GaussianMixture(HALVES, MEANS, EYES + np.eye(2, k=1), LINEAR), "transposes"),
        (lambda: GaussianMixture(HALVES, MEANS, -EYES, LINEAR), "eigenvalue -1"),
        (
            lambda: GaussianMixture.from_eigen(HALVES, MEANS, 2 * EYES, np.ones((2, 2)), LINEAR),
            "orthonormal",
        ),
        (
            lambda: GaussianMixture.from_eigen(HALVES, MEANS, EYES, -np.ones((2, 2)), LINEAR),
            "eigenvalue is -1",
        ),
        (lambda: mixture().subset([]), "positive weight"),
        (lambda: mixture().velocity(np.zeros((5, 4)), 0.5), r"\(5, 4\); wanted \(B, 3\)"),
        (lambda: mixture().velocity(np.zeros(3), 0.5), "batch first"),
        (
            lambda: jax.jit(mixture().velocity)(np.zeros((5, 3)), np.zeros(4)),
            "one time for each sample",
        ),
        (
            lambda: gaussian().flow(np.zeros((5, 4)), 1.0, 0.0),
            r"Gaussian: x has shape|Gaussian.flow: x has shape",
        ),
        (lambda: DataSet(np.zeros(3), 0.1, LINEAR), r"samples have shape \(3,\)"),
        (lambda: data_set(bandwidth=-0.1), "bandwidth=-0.1"),
        (lambda: data_set(chunk=8), "from 1 to K = 7"),
        (lambda: data_set(labels=[0, 1]), r"labels have shape \(2,\)"),
        (lambda: data_set().subset(5), r"labels are \[0, 1\]"),
        (lambda: data_set(labels=None).subset(0), "no labels were given"),
        (lambda: data_set().velocity(np.zeros((5, 6)), 0.5), r"wanted \(B, 2, 3\)"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(make, says):
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert str(caught.value).startswith("fields.")
