"""Coupled mixtures: the exact field of noise that is correlated with its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import Cosine, Linear, fields, geometry, grids, plans

TIMES = (0.0, 1e-3, 0.2, 0.5, 0.8, 0.999, 1.0)


def tilted(coupling, std=0.3):
    """One Gaussian with a full covariance."""
    root = np.array([[std, 0.2], [0.0, 1.4]])
    return fields.CoupledMixture([1.0], [[1.0, -0.5]], [root @ root.T], Linear(), coupling)


def two(coupling):
    """Two modes whose covariances do not commute."""
    covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.9]]]
    return fields.CoupledMixture(
        [0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], covariances, Linear(), coupling
    )


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "score"])
def test_no_coupling_is_the_mixture(kind, t):
    plain = fields.random_mixture(0, Linear(), dim=3, modes=4)
    x = plain.draw_at(jax.random.key(0), 16, t)
    found, wanted = (getattr(field, kind)(x, t) for field in (fields.couple(plain, 0.0), plain))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("coupling", [0.4, 1.0])
def test_one_mode_is_regression_of_a_joint_gaussian(coupling, t):
    field = tilted(coupling)
    covariance = field.covariances[0]
    values, vectors = np.linalg.eigh(covariance)
    cross = (
        coupling * (vectors * np.sqrt(values)) @ vectors.T
    )  # cov(data, noise), the symmetric root
    of_x = (1 - t) ** 2 * covariance + t**2 * np.eye(2) + 2 * t * (1 - t) * cross
    with_data, with_noise = (1 - t) * covariance + t * cross, (1 - t) * cross + t * np.eye(2)
    x = np.asarray(field.draw_at(jax.random.key(1), 8, t))
    back = np.linalg.solve(of_x, (x - (1 - t) * field.means[0]).T)
    data, noise = field.means[0] + (with_data @ back).T, (with_noise @ back).T
    np.testing.assert_allclose(field.data(x, t), data, atol=1e-10)
    np.testing.assert_allclose(field.noise(x, t), noise, atol=1e-10)
    np.testing.assert_allclose(field.velocity(x, t), noise - data, atol=1e-10)


def test_velocity_is_the_mean_of_noise_minus_data_over_pairs():
    field, t = two(0.8), 0.6
    data, noise = field.draw_pair(jax.random.key(2), 60_000)
    x = (1 - t) * data + t * noise
    for corner in ([0.3, -0.2], [-0.6, 0.4]):
        near = jnp.sum((x - jnp.array(corner)[None]) ** 2, axis=1) < 0.2**2
        error = (noise - data)[near] - field.velocity(x[near], t)
        assert near.sum() > 400
        np.testing.assert_allclose(
            error.mean(0), 0, atol=4 * float(error.std() / near.sum() ** 0.5)
        )


@pytest.mark.parametrize("t", TIMES)
def test_predictions_compose_the_state(t):
    field = two(0.7)
    x = field.draw_at(jax.random.key(3), 32, t)
    data, noise, velocity = field.data(x, t), field.noise(x, t), field.velocity(x, t)
    np.testing.assert_allclose((1 - t) * data + t * noise, x, atol=1e-12)
    np.testing.assert_allclose(noise - data, velocity, atol=1e-12)
    p, q = field.schedule.prediction_weights("data", t)
    np.testing.assert_allclose(p * x + q * velocity, data, atol=1e-12)


def test_score_is_not_minus_noise_over_sigma():
    field, t = two(0.7), 0.5
    x = field.draw_at(jax.random.key(4), 32, t)
    gradient = jax.vmap(jax.grad(lambda y: field.log_density(y[None], t)[0]))(x)
    np.testing.assert_allclose(field.score(x, t), gradient, atol=1e-10)
    assert np.abs(field.score(x, t) + field.noise(x, t) / t).max() > 0.1


def test_noise_is_standard_normal_and_data_are_the_mixture():
    field, plain = two(0.9), two(0.0)
    x = 2 * jax.random.normal(jax.random.key(5), (32, 2))
    standard = -0.5 * jnp.sum(x**2, axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(field.log_density(x, 1.0), standard, atol=1e-12)
    np.testing.assert_allclose(field.log_density(x, 0.0), plain.log_density(x, 0.0), atol=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_velocity_keeps_mass(t):
    field = two(0.6)
    x = field.draw_at(jax.random.key(6), 24, t)
    change = jax.jvp(lambda u: field.log_density(x, u), (jnp.asarray(t),), (jnp.asarray(1.0),))[1]
    flux = jnp.sum(field.velocity(x, t) * field.score(x, t), axis=1) + field.divergence(x, t)
    np.testing.assert_allclose(change, -flux, atol=1e-9)


def test_divergence_is_the_trace_of_the_jacobian():
    field, t = two(0.6), 0.4
    x = field.draw_at(jax.random.key(7), 8, t)
    jacobian = jax.vmap(jax.jacfwd(lambda y: field.velocity(y[None], t)[0]))(x)
    np.testing.assert_allclose(
        field.divergence(x, t), jnp.trace(jacobian, axis1=1, axis2=2), atol=1e-10
    )


def test_one_euler_step_is_exact_when_one_mode_is_fully_coupled():
    field = tilted(1.0)
    noise = jax.random.normal(jax.random.key(8), (64, 2))
    values, vectors = np.linalg.eigh(field.covariances[0])
    transported = field.means + np.asarray(noise) @ ((vectors * np.sqrt(values)) @ vectors.T)
    found = flowjax.sample(field.velocity, noise, plans.euler(grids.uniform(1))).x
    np.testing.assert_allclose(found, transported, atol=1e-12)


@pytest.mark.parametrize("make", [tilted, lambda rho: fields.couple(fields.ring(Linear()), rho)])
def test_coupling_straightens_paths(make):
    noise = jax.random.normal(jax.random.key(9), (32, 2))
    t = np.linspace(1, 0, 51)
    plan = plans.rk4(t)

    @jax.jit
    def solve(field):
        path = flowjax.sample(field.velocity, noise, plan, save_path=True).path
        return path, jax.lax.map(lambda at: field.velocity(*at), (path, jnp.asarray(t)))

    def mean_straightness(rho):
        return geometry.path_geometry(t, *solve(make(rho))).straightness.mean()

    falling = [mean_straightness(rho) for rho in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert np.all(np.diff(falling) < 0)


def test_draws_at_a_time_have_the_density_of_that_time():
    field = two(0.8)
    x = field.draw_at(jax.random.key(10), 60_000, 0.5)
    # Where the log-density is the right one, its gradient has mean zero and E[x . score] = -D.
    score = field.score(x, 0.5)
    np.testing.assert_allclose(score.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(jnp.sum(x * score, axis=1).mean(), -2, atol=0.05)


def test_subset_keeps_the_coupling():
    field = two(0.8)
    part = field.subset([1])
    assert type(part) is type(field) and part.coupling == field.coupling
    assert type(fields.power_law(Linear(), dim=3, exponent=1.0).subset([0])) is fields.Gaussian


def test_float32_survives_both_ends():
    field = fields.couple(fields.ring(Linear(), std=1e-3), 0.9)
    for t in (0.0, 1.0):
        x = jnp.asarray(field.draw_at(jax.random.key(11), 8, t), jnp.float32)
        found, wanted = field.velocity(x, t), field.velocity(x.astype(jnp.float64), t)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make, says",
    [
        (
            lambda: fields.couple(fields.ring(Cosine()), 0.5),
            "Cosine; noise that is correlated with data is solved here on the lin",
        ),
        (lambda: two(0.5).with_schedule(Cosine()), "give Linear\\(\\), or take GaussianMixture"),
        (lambda: two(1.5), "coupling=1.5; wanted one number from 0 to 1"),
        (lambda: two(np.array([0.1])), "wanted one number"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(make, says):
    with pytest.raises(ValueError, match=says):
        make()
