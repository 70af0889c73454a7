"""Geometry of paths of known curvature, and increments of orders against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import Cosine, Linear, fields, geometry, grids, plans

T = np.linspace(1, 0, 401)  # the times of every curve


# ---- curves of known geometry


def curve(position):
    """Path and velocity (M, 1, D) of a curve t -> (D,), the velocity by differentiation."""
    t = jnp.asarray(T)
    path = np.asarray(jax.vmap(position)(t))
    velocity = np.asarray(jax.vmap(jax.jacfwd(position))(t))
    return path[:, None], velocity[:, None]


def geometry_of(position):
    """The geometry of a curve t -> (D,)."""
    path, velocity = curve(position)
    return geometry.path_geometry(T, path, velocity)


@pytest.mark.parametrize("radius", [0.1, 3.0])
def test_half_circle(radius):
    found = geometry_of(lambda t: radius * jnp.array([jnp.cos(jnp.pi * t), jnp.sin(jnp.pi * t)]))
    wanted = {
        "length": np.pi / 2,
        "straightness": np.pi**2 / 4 - 1,
        "acceleration": np.pi**2 / 2,
        "curvature": np.pi,
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, err_msg=name)
    assert found.torsion == 0  # exactly: rounding divided by a small bend is no torsion


def test_helix_turns_its_plane():
    angle, rise = 1.7, 0.8
    found = geometry_of(lambda t: jnp.array([jnp.cos(angle * t), jnp.sin(angle * t), rise * t]))
    speed = np.hypot(angle, rise)
    np.testing.assert_allclose(found.curvature, angle**2 / speed, rtol=1e-3)
    np.testing.assert_allclose(found.torsion, angle * rise / speed, rtol=1e-3)


def test_straight_line_is_straight():
    found = geometry_of(lambda t: jnp.array([1.0, 2.0, 3.0]) + t * jnp.array([1.0, -1.0, 0.5]))
    np.testing.assert_allclose(found.length, 1, rtol=1e-12)
    for name in ("straightness", "acceleration", "curvature", "torsion"):
        np.testing.assert_allclose(getattr(found, name), 0, atol=1e-9, err_msg=name)


def test_changing_speed_costs_euler_but_not_curvature():
    found = geometry_of(lambda t: jnp.array([2.0, 1.0, 0.0]) * (t + t**2) / 2)
    np.testing.assert_allclose(found.curvature, 0, atol=1e-6)
    np.testing.assert_allclose(found.length, 1, rtol=1e-6)
    np.testing.assert_allclose(found.straightness, 1 / 12, rtol=1e-4)
    np.testing.assert_allclose(found.acceleration, 1, rtol=1e-4)


def test_path_that_stops_has_finite_curvature():
    found = geometry_of(lambda t: jnp.array([jnp.cos(t**2), jnp.sin(t**2), t**2]))
    np.testing.assert_allclose(found.curvature, 1 / np.sqrt(2), rtol=0.01)
    np.testing.assert_allclose(found.torsion, 1 / np.sqrt(2), rtol=0.03)


def test_path_that_one_euler_step_takes_has_no_straightness():
    field = fields.couple(fields.random_mixture(1, Linear(), dim=3, modes=1), 1.0)
    noise = jax.random.normal(jax.random.key(0), (8, 3))
    path = flowjax.sample(field.velocity, noise, plans.euler(T), save_path=True).path
    velocity = jax.lax.map(lambda at: field.velocity(*at), (path, jnp.asarray(T)))
    found = geometry.path_geometry(T, path, velocity)
    np.testing.assert_allclose(found.straightness, 0, atol=1e-20)


def test_images_are_samples_too():
    path, velocity = curve(lambda t: jnp.array([jnp.cos(t), jnp.sin(t), t, t**2]))
    flat = geometry.path_geometry(T, path, velocity)
    images = (array.reshape(-1, 1, 2, 2, 1) for array in (path, velocity))
    image = geometry.path_geometry(T, *images)
    np.testing.assert_array_equal(flat, image)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"path \(4, 1, 2\) and velocity \(4, 1, 2\) at 4 times"):
        geometry.path_geometry(T[:4], np.zeros((4, 1, 2)), np.zeros((4, 1, 2)))
    with pytest.raises(ValueError, match="3 data predictions for a grid of 4 steps"):
        geometry.order_increments(Linear(), grids.uniform(4), np.zeros((3, 1, 2)))


# ---- stiffness


def test_stiffness_of_a_linear_field_is_its_largest_eigenvalue():
    values = np.array([0.3, -2.5, 1.0, 0.0])
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    matrix = jnp.asarray(turn * values @ turn.T)
    x = jax.random.normal(jax.random.key(1), (5, 4))
    found = geometry.stiffness(lambda x, t: t * x @ matrix, x, 2.0, key=jax.random.key(2))
    np.testing.assert_allclose(found, 5.0, rtol=1e-6)


def test_stiffness_of_a_constant_field_is_zero():
    x = jnp.ones((3, 2))
    found = geometry.stiffness(lambda x, t: jnp.ones_like(x), x, 0.5, key=jax.random.key(0))
    np.testing.assert_array_equal(found, np.zeros(3))


# ---- increments of successive orders


@jax.jit
def data_along(field, start, times):
    """Data predictions at all times (N,) of the exact path from `start` at times[0]."""
    return jax.lax.map(lambda t: field.data(field.flow(start, times[0], t), t), times)


def exact_data(schedule, grid):
    """Data predictions (N, B, D) along exact paths of a Gaussian with structure at every scale."""
    field = fields.power_law(schedule, dim=4, exponent=2.0)
    start = field.draw_at(jax.random.key(3), 6, grid[0])
    return np.asarray(data_along(field, start, jnp.asarray(grid[:-1])))


def lagrange(u, nodes, j):
    """At places `u`, the polynomial that is 1 at nodes[j] and 0 at the other nodes."""
    value = np.ones_like(u)
    for m, node in enumerate(nodes):
        if m != j:
            value = value * (u - node) / (nodes[j] - node)
    return value


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_increments_are_those_of_interpolation_and_quadrature(schedule):
    grid = np.array([0.9, 0.8, 0.66, 0.5, 0.31, 0.2])
    data = np.random.default_rng(4).standard_normal((5, 3, 2))
    found = geometry.order_increments(schedule, grid, data)
    log_snr = schedule.log_snr(grid)
    points, weights = np.polynomial.legendre.leggauss(40)
    for i in range(5):
        # Gauss-Legendre quadrature of alpha1 int exp(-(lambda1 - u)) data(u) du over the step.
        h = log_snr[i + 1] - log_snr[i]
        u = log_snr[i] + (points + 1) / 2 * h
        alpha = schedule.alpha(grid[i + 1])
        kernel = alpha * weights / 2 * h * np.exp(-(log_snr[i + 1] - u))
        previous = np.zeros((3, 2))
        for order in range(1, 5):
            if order > i + 1:
                assert np.all(np.isnan(found[i, order - 1 :]))
                break
            used = np.arange(i, i - order, -1)  # the newest first
            basis = [lagrange(u, log_snr[used], j) for j in range(order)]
            update = sum((kernel @ b) * data[j] for b, j in zip(basis, used, strict=True))
            increment = np.linalg.norm(update - previous, axis=-1)
            np.testing.assert_allclose(found[i, order - 1], increment, rtol=1e-9)
            previous = update


@pytest.mark.parametrize("third_order", ["exact", "published"])
def test_increments_are_those_of_the_plans(third_order):
    grid, schedule = grids.uniform(8, shift=2.0), Linear()
    data = np.random.default_rng(5).standard_normal((8, 3, 2))
    found = geometry.order_increments(schedule, grid, data, third_order=third_order)
    made = [
        plans.dpm_solver_pp(schedule, grid, order, variant="taylor", third_order=third_order)
        for order in (1, 2, 3)
    ]
    for i in range(4, 7):  # steps whose history is finite and long enough
        updates = [sum(plan.b[i, j] * data[i - j] for j in range(4)) for plan in made]
        first, second, third = updates
        for order, increment in enumerate([first, second - first, third - second]):
            size = np.linalg.norm(increment, axis=-1)
            np.testing.assert_allclose(found[i, order], size, rtol=1e-10)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_rho_halves_with_the_step_on_a_smooth_field(schedule, order):
    def rho(steps):
        grid = grids.log_snr(schedule, steps, start=0.9, end=0.1)
        increments = geometry.order_increments(schedule, grid, exact_data(schedule, grid))
        return geometry.rho(increments, order)

    coarse, fine = rho(80), rho(160)
    np.testing.assert_allclose(np.median(fine / coarse), 0.5, atol=0.05)


def test_infinite_ends_have_no_increments():
    grid = grids.uniform(6)
    found = geometry.order_increments(Linear(), grid, np.ones((6, 2, 3)))
    assert np.all(np.isnan(found[[0, 5]]))
    assert np.all(np.isfinite(found[1:5, 0]))
    assert np.all(np.isnan(found[1, 1:]))
    assert np.all(np.isfinite(found[4]))  # the first step with four evaluations at finite log-SNR


def test_rho_of_data_that_do_not_move_is_zero():
    found = geometry.order_increments(Linear(), grids.uniform(6), np.ones((6, 2, 3)))
    np.testing.assert_allclose(geometry.rho(found, 1), 0, atol=1e-12)


def test_rho_without_enough_history_is_nan():
    found = geometry.order_increments(Linear(), grids.uniform(4), np.ones((4, 2, 3)))
    assert np.all(np.isnan(geometry.rho(found, 3)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_shift_does_not_change_spans_on_the_linear_path(order):
    plain = geometry.log_snr_span(Linear(), grids.uniform(10, shift=1.0), order)
    shifted = geometry.log_snr_span(Linear(), grids.uniform(10, shift=5.0), order)
    np.testing.assert_allclose(plain, shifted, rtol=1e-12)
    assert np.isinf(plain[[0, -1]]).all()
    # On the linear path log-SNR is log((1 - t)/t), here in tenths: step 5 goes to t = 0.4.
    newest, oldest = np.log(6 / 4), np.log((5 - order + 1) / (5 + order - 1))
    np.testing.assert_allclose(plain[5], newest - oldest, rtol=1e-12)
