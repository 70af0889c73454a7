"""Distances against closed forms, brute force, invariances and the null hypothesis.

Tests also hold what each distance sees, and what it does not see.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import wasserstein_distance

from flowjax import distances, fields
from flowjax.distances import distributions
from flowjax.schedules import Linear

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = RNG.normal(size=(30, 3)) * 1.5 + 0.5
TURN = np.linalg.qr(RNG.normal(size=(3, 3)))[0]  # a rotation
SLICED = functools.partial(distances.sliced_wasserstein, directions=64, seed=1)
ALL = {
    "sliced": SLICED,
    "energy": distances.energy,
    "mmd": functools.partial(distances.mmd, bandwidth=1.0),
    "kid": distances.kid,
    "frechet": distances.frechet,
}
UNBIASED = {name: ALL[name] for name in ("energy", "mmd", "kid")}

each = pytest.mark.parametrize("distance", ALL.values(), ids=ALL)


# ---- errors on the same noise


def test_endpoint_errors_of_known_differences():
    exact = np.zeros((4, 2, 3))
    x = exact.copy()
    x[:, 0, 0] = [3.0, 0.0, 1.0, 0.0]
    x[:, 1, 2] = [4.0, 0.0, 0.0, 0.0]

    def nearest(x):
        return (np.asarray(x)[:, 0, 0] > 2).astype(int)

    found = distances.endpoint_errors(x, exact, nearest)
    assert_allclose(found.errors, [5.0, 0.0, 1.0, 0.0])
    assert_allclose([found.median, found.rms, found.misrouted], [0.5, np.sqrt(26 / 4), 0.25])


def test_misrouted_takes_a_field_or_indices():
    field = fields.ring(Linear())
    exact = np.asarray(field.means)
    x = np.roll(exact, 1, axis=0)
    x[0] = exact[0]
    assert distances.endpoint_errors(x, exact, field.nearest).misrouted == 7 / 8
    assert distances.endpoint_errors(x, exact, ([0, 1], [0, 2])).misrouted == 0.5
    assert np.isnan(distances.endpoint_errors(x, exact).misrouted)


def test_bootstrap_of_the_mean_matches_the_normal_interval():
    values = np.random.default_rng(1).normal(size=400)
    low, high = distances.bootstrap(values, np.mean, seed=0, resamples=4000)
    half = 1.96 * values.std() / 20
    normal = values.mean() + np.array([-half, half])
    # Two quantiles of 4000 resamples scatter by about 4 % of the half-width.
    assert_allclose([low, high], normal, atol=0.15 * half)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(2).normal(size=(200, 60))
    intervals = [
        distances.bootstrap(row, distances.rms, seed=i, resamples=300)
        for i, row in enumerate(draws)
    ]
    covered = np.mean([low < 1.0 < high for low, high in intervals])
    # 95 % less the known shortfall at 60 rows and three standard errors of 200.
    assert 0.87 < covered <= 1.0


def test_pairing_removes_what_is_hard_for_both():
    rng = np.random.default_rng(3)
    hard = rng.lognormal(sigma=2.0, size=300)
    ratio = distances.paired_ratio(0.9 * hard * rng.normal(1, 0.02, 300), hard, seed=0)
    assert ratio.verdict == "win"
    assert ratio.low < 0.9 < ratio.high
    unpaired = distances.paired_ratio(0.9 * rng.permutation(hard), hard, seed=0)
    assert unpaired.high - unpaired.low > 5 * (ratio.high - ratio.low)


@pytest.mark.parametrize(
    "factor, verdict", [(0.8, "win"), (1.25, "loss"), (1.01, "tie"), (0.99, "tie"), (1.0, "tie")]
)
def test_verdicts(factor, verdict):
    errors = np.random.default_rng(4).lognormal(size=200)
    found = distances.paired_ratio(factor * errors, errors, distances.rms, seed=0)
    assert found.verdict == verdict
    assert_allclose([found.ratio, found.low, found.high], factor)


def test_noisy_ratio_is_undecided_and_exact_methods_tie():
    rng = np.random.default_rng(5)
    unrelated = distances.paired_ratio(rng.lognormal(size=30), rng.lognormal(size=30), seed=0)
    assert unrelated.verdict == "undecided"
    assert distances.paired_ratio(np.zeros(9), np.zeros(9), seed=0) == (1.0, 1.0, 1.0, "tie")


# ---- distributions


@each
def test_symmetric_and_blind_to_order_and_shape(distance):
    expected = distance(X, Y)
    assert expected > 0
    assert_allclose(distance(Y, X), expected, rtol=1e-9)
    assert_allclose(distance(RNG.permutation(X), Y), expected, rtol=1e-9)
    assert_allclose(distance(X.reshape(40, 1, 3), Y.reshape(30, 1, 3)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["energy", "mmd", "frechet"])
def test_rigid_motion_changes_nothing(name):
    assert_allclose(ALL[name](X @ TURN + 3.0, Y @ TURN + 3.0), ALL[name](X, Y), rtol=1e-9)


@pytest.mark.parametrize("name", ["sliced", "frechet"])
def test_zero_on_itself(name):
    assert ALL[name](X, X) < 1e-12


@pytest.mark.parametrize("name", UNBIASED)
def test_zero_in_the_mean_under_the_null(name):
    rng = np.random.default_rng(6)
    values = []
    for _ in range(400):
        x, y = rng.normal(size=(20, 2)), rng.normal(size=(30, 2))
        values.append(UNBIASED[name](x, y))
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0  # unbiased, so not clipped


def test_sliced_distance_of_a_translation():
    # The projections are shifted by direction . shift, so the distance is their root mean square:
    # near |shift|/sqrt(F).
    shift = np.array([3.0, 0.0, 4.0])
    found = distances.sliced_wasserstein(X, X + shift, directions=20000, seed=0)
    assert_allclose(found, 5 / np.sqrt(3), rtol=0.02)


def test_sliced_distance_of_the_line_is_the_quantile_distance():
    x, y = X[:, :1], Y[:, :1]
    longer = np.sort(np.repeat(x, 30)) - np.sort(np.repeat(y, 40))  # both at 1200 equal weights
    assert_allclose(SLICED(x, y), np.sqrt(np.mean(longer**2)), rtol=1e-12)
    assert SLICED(x, y) >= wasserstein_distance(x[:, 0], y[:, 0])  # W2 >= W1


@pytest.mark.parametrize(
    "name, kernel",
    [
        ("energy", lambda a, b: -np.linalg.norm(a - b)),
        ("mmd", lambda a, b: np.exp(-((a - b) ** 2).sum() / 2)),
        ("kid", lambda a, b: (a @ b / 3 + 1) ** 3),
    ],
)
def test_unbiased_sums_against_loops(name, kernel, monkeypatch):
    def among(x):
        pairs = itertools.permutations(x, 2)  # of different rows, in both orders
        return np.mean([kernel(a, b) for a, b in pairs])

    between = np.mean([kernel(x, y) for x in X for y in Y])
    expected = among(X) + among(Y) - 2 * between
    assert_allclose(ALL[name](X, Y), expected, rtol=1e-10)

    # Blocks that do not divide the number of rows.
    monkeypatch.setattr(distributions, "BLOCK", 7)
    assert_allclose(ALL[name](X, Y), expected, rtol=1e-10)


def test_energy_of_two_points_far_apart():
    # Two rows at 0 and two at d: 2 d - 0 - 0.
    assert_allclose(distances.energy(np.zeros((2, 1)), np.full((2, 1), 7.0)), 14.0)


def test_w2_of_gaussians_in_closed_form():
    identity, zero = np.eye(3), np.zeros(3)
    assert_allclose(distances.gaussian_w2(zero, identity, np.array([1.0, 2.0, 2.0]), identity), 3.0)
    assert_allclose(distances.gaussian_w2(zero, identity, zero, 4 * identity), np.sqrt(3))
    # Commuting covariances: the distance of the standard deviations.
    first, second = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 4.0])
    expected = np.linalg.norm(np.sqrt(first) - np.sqrt(second))
    one, other = TURN * first @ TURN.T, TURN * second @ TURN.T
    assert_allclose(distances.gaussian_w2(zero, one, zero, other), expected)
    # Two perpendicular rank-one covariances share nothing.
    flat, tall = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    assert_allclose(distances.gaussian_w2(np.zeros(2), flat, np.zeros(2), tall), np.sqrt(2))


def test_w2_of_gaussians_equals_the_length_of_the_optimal_map():
    # The map T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2 carries N(0, A) to N(0, B), and
    # W2^2 = E|x - T x|^2 = tr (I-T) A (I-T).
    rng = np.random.default_rng(7)
    a, b = (factor @ factor.T for factor in rng.normal(size=(2, 4, 4)))
    root = distributions._root(a)
    inverse = np.linalg.inv(root)
    optimal_map = inverse @ distributions._root(root @ b @ root) @ inverse
    moved = np.eye(4) - optimal_map
    zero = np.zeros(4)
    expected = np.sqrt(np.trace(moved @ a @ moved))
    assert_allclose(distances.gaussian_w2(zero, a, zero, b), expected, rtol=1e-9)


def test_frechet_is_the_squared_w2_of_the_fitted_moments():
    expected = distances.gaussian_w2(X.mean(0), np.cov(X.T), Y.mean(0), np.cov(Y.T)) ** 2
    assert_allclose(distances.frechet(X, Y), expected, rtol=1e-12)
    assert_allclose(distances.frechet(X, X + [0.0, 3.0, 4.0]), 25.0, rtol=1e-9)


def test_frechet_with_fewer_rows_than_features_is_finite_and_zero_on_itself():
    wide = np.random.default_rng(8).normal(size=(5, 50))
    assert distances.frechet(wide, wide) < 1e-12
    assert np.isfinite(distances.frechet(wide, wide[::-1] + 1))


# ---- what each sees


def ring_samples(std, seed, n=2000):
    return np.asarray(fields.ring(Linear(), std=std).draw(jax.random.key(seed), n))


@pytest.mark.parametrize(
    "distance, sees",
    [
        (functools.partial(distances.mmd, bandwidth=0.15), True),
        (functools.partial(distances.mmd, bandwidth=2.0), False),
        (SLICED, False),
        (distances.energy, False),
        (distances.kid, False),
        (distances.frechet, False),
    ],
    ids=["narrow mmd", "wide mmd", "sliced", "energy", "kid", "frechet"],
)
def test_who_sees_modes_that_are_too_narrow(distance, sees):
    # 30 % too little spread in each mode, against two draws of the right distribution.
    def draw(seed, n):
        return ring_samples(0.15, seed, n)

    floor = distances.floor(distance, draw, (1000, 1000), seeds=range(1, 6))
    found = distance(ring_samples(0.105, 0, 1000), ring_samples(0.15, 6, 1000))
    assert (found > floor.mean + 3 * floor.sd) == sees


def test_shared_draws_let_the_sliced_distance_see_narrow_modes():
    # The pairing is a coupling, so the distance is at most its own: 0.045 times a standard normal
    # in each direction.
    found = SLICED(ring_samples(0.105, 0), ring_samples(0.15, 0))
    assert 0.6 * 0.045 < found < 1.1 * 0.045


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.2])
def test_within_mode_spread_reads_the_factor(factor):
    field = fields.ring(Linear())
    x = ring_samples(0.15, 1)
    centres = field.means[np.asarray(field.nearest(x))]
    found = distances.within_mode_spread(centres + factor * (x - centres), field)
    # 4000 squared normals: the relative standard error of a root mean square is 1/sqrt(8000).
    assert abs(found / factor - 1) < 4 / np.sqrt(8000)


def test_within_mode_spread_of_a_smoothed_data_set():
    field = fields.DataSet(10 * np.random.default_rng(9).normal(size=(20, 2, 4)), 0.2, Linear())
    x = field.draw(jax.random.key(0), 2000)
    # 16000 squared normals.
    assert abs(distances.within_mode_spread(x, field) - 1) < 4 / np.sqrt(2 * 16000)


def test_floor_falls_with_the_sample_size():
    draw = lambda seed, n: np.random.default_rng(seed).normal(size=(n, 2))
    small, large = (distances.floor(SLICED, draw, (n, n), seeds=range(8)) for n in (50, 800))
    # As 1/sqrt(N): a factor 4, within its scatter.
    assert 2.5 < small.mean / large.mean < 6
    assert small.values.shape == (8,)
    assert small.sd == np.std(small.values, ddof=1)


def test_floor_draws_from_a_pool_without_sharing_rows():
    pool = np.arange(10.0)[:, None]
    draw = lambda seed, n: np.random.default_rng(seed).permutation(pool)[:n]
    shared = distances.floor(lambda x, y: np.intersect1d(x, y).size, draw, (4, 6), seeds=[0, 1])
    assert shared.mean == 0
    with pytest.raises(ValueError, match="gave 10 samples where n \\+ m = 12"):
        distances.floor(SLICED, draw, (6, 6), seeds=[0, 1])


# ---- mistakes, and groups of rows

POINTS = fields.two_points(Linear(), distance=1.0, std=0.0)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: distances.endpoint_errors(X, Y), "paired by noise"),
        (lambda: distances.paired_ratio(np.ones(3), np.ones(4), seed=0), "paired by noise"),
        (lambda: distances.paired_ratio(np.ones(9), np.zeros(9), seed=0), "no error"),
        (lambda: distances.bootstrap([1.0], np.mean, seed=0), "two or more"),
        (lambda: distances.bootstrap([1.0, 2.0], np.mean, seed=0, level=95), "level 95"),
        (lambda: distances.energy(X, Y[:, :2]), "same trailing axes"),
        (lambda: distances.kid(X[:1], Y), "N, M >= 2"),
        (lambda: distances.mmd(X, Y, 0.0), "bandwidth 0.0"),
        (
            lambda: distances.gaussian_w2(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)),
            r"\(F, F\)",
        ),
        (lambda: distances.floor(SLICED, None, (3, 3), seeds=[0]), "at least two seeds"),
        (lambda: distances.within_mode_spread(np.zeros((1, 1)), POINTS), "no width"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert str(caught.value).startswith("distances.")


def test_bootstrap_of_groups_sees_the_scatter_between_them():
    # Ten groups of ten equal rows: the standard error of the mean is that of ten numbers, not of a
    # hundred.
    rng = np.random.default_rng(0)
    centres = rng.standard_normal(10)
    values, groups = np.repeat(centres, 10), np.repeat(np.arange(10), 10)
    low, high = distances.bootstrap(values, np.mean, seed=0, groups=groups, resamples=4000)
    wanted = 2 * 1.96 * centres.std() / np.sqrt(10)
    assert abs((high - low) / wanted - 1) < 0.1  # a percentile interval of ten numbers

    # Without groups the rows count as independent, and the interval is too short.
    plain_low, plain_high = distances.bootstrap(values, np.mean, seed=0, resamples=4000)
    assert plain_high - plain_low < 0.5 * (high - low)


def test_bootstrap_refuses_groups_of_unequal_size():
    with pytest.raises(ValueError, match="groups of one size"):
        distances.bootstrap(np.arange(5.0), np.mean, seed=0, groups=[0, 0, 1, 1, 1])
