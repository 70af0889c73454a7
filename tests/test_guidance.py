"""Laws of guidance: what the scale means, what is evaluated, and identities between its forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import grids, guidance, plans
from flowjax.fields import Gaussian, random_mixture
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, as_velocity, predict

SCHEDULES = [Linear(), Cosine(), VPLinear(), VPDiscrete.linear()]
INNER = (0.2, 0.8)  # an interval of time


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def pair(schedule, dim=3):
    """The fields of some components, and of all."""
    field = random_mixture(0, schedule, dim=dim, modes=4)
    return field.subset([0, 2]), field


def affine(x, t, label):
    """A network whose velocity depends on its three arguments; labels (B,)."""
    shape = (-1,) + (1,) * (x.ndim - 1)  # (B, 1, ...)
    label = jnp.asarray(label, x.dtype).reshape(shape)
    return jnp.tanh(x * (1 + label)) - jnp.reshape(t, shape) * x + 0.3 * label


def affine_with(label):
    """`affine` as a model, with its label bound."""
    return functools.partial(affine, label=label)


class Counter:
    """A model that counts the samples that it evaluates, in Python.

    It counts outside jit, or under disable_jit.
    """

    def __init__(self, model):
        self.model, self.samples = model, 0

    def __call__(self, x, *rest):
        self.samples += len(x)
        return self.model(x, *rest)


def guided_affine(scale, **options):
    """(the guided network, its labels), for a batch of 4 with the null label 9."""
    labels = jnp.arange(4)
    return guidance.classifier_free(affine, labels, 9, scale, **options), labels


def rules(schedule):
    """Guidance in all its forms that need no carry."""
    projection = guidance.Projection(schedule, threshold=0.5, eta=0.3)
    return {
        "plain": {},
        "rescale": {"rescale": 0.7},
        "projection": {"projection": projection},
        "both": {"projection": projection, "rescale": 0.7},
    }


# ---- the scale


@pytest.mark.parametrize("rule", rules(Linear()))
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_scale_one_is_conditional(rule, t):
    x = normal(0, 4, 5)
    for scale in (1, jnp.ones(4)):
        model, labels = guided_affine(scale, **rules(Linear())[rule])
        np.testing.assert_allclose(model(x, t), affine(x, t, labels), rtol=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_scale_zero_is_unconditional(t):
    x = normal(0, 4, 5)
    model, _ = guided_affine(0.0)
    np.testing.assert_allclose(model(x, t), affine(x, t, jnp.full(4, 9)), rtol=1e-13)


def test_network_and_two_models_are_guided_alike():
    x, t = normal(0, 4, 2, 2, 3), 0.3
    model, labels = guided_affine(2.5, rescale=0.5)
    conditional, unconditional = affine_with(labels), affine_with(jnp.full(4, 9))
    two = guidance.combine(conditional, unconditional, 2.5, rescale=0.5)
    np.testing.assert_allclose(model(x, t), two(x, t), rtol=1e-13)


def test_labels_may_be_a_tree_and_null_labels_lack_the_batch_axis():
    def network(x, t, label):
        text = jnp.sum(label["text"], axis=(1, 2))
        return x * label["mask"][:, None] + text[:, None]

    x = normal(0, 3, 2)
    label = {"text": normal(1, 3, 4, 5), "mask": jnp.ones(3)}
    null = {"text": np.zeros((4, 5)), "mask": 0.5}
    conditional = x + jnp.sum(label["text"], axis=(1, 2))[:, None]
    unconditional = 0.5 * x
    model = guidance.classifier_free(network, label, null, 3.0)
    np.testing.assert_allclose(model(x, 0.5), 3 * conditional - 2 * unconditional, rtol=1e-12)


# ---- what is evaluated


# Samples per evaluation: 8 with the null label, 4 without.
COUNTS = [
    (3.0, (0, 1), 0.5, 8),
    (3.0, (0, 1), 0.0, 8),  # the ends of time are no limits
    (3.0, (0, 1), 1.0, 8),
    (1, (0, 1), 0.5, 4),
    (3.0, INNER, 0.5, 8),
    (3.0, INNER, 0.2, 4),  # open at both ends
    (3.0, INNER, 0.8, 4),
    (3.0, INNER, 1.0, 4),
    (3.0, (0.5, 0.5), 0.5, 4),
    (jnp.array([1.0, 1.0, 2.0, 1.0]), (0, 1), 0.5, 8),
    (jnp.ones(4), (0, 1), 0.5, 4),
    (3.0, INNER, jnp.array([0.1, 0.2, 0.5, 0.9]), 8),
    (3.0, INNER, jnp.array([0.1, 0.2, 0.8, 0.9]), 4),
]


@pytest.mark.parametrize("scale, interval, t, samples", COUNTS)
def test_null_half_is_evaluated_only_where_a_sample_is_guided(scale, interval, t, samples):
    x, labels = normal(0, 4, 3), jnp.arange(4)
    network = Counter(affine)
    model = guidance.classifier_free(network, labels, 9, scale, interval=interval)
    one, other = Counter(affine_with(labels)), Counter(affine_with(9))
    two = guidance.combine(one, other, scale, interval=interval)
    with jax.disable_jit():
        velocity = model(x, t)
        np.testing.assert_allclose(velocity, two(x, t), rtol=1e-13)
    assert network.samples == samples
    assert one.samples + other.samples == samples

    # Samples are guided one by one, by their own scale and time.
    t = jnp.asarray(t)
    at_guided_time = (interval == (0, 1)) | ((t > 0.2) & (t < 0.8))
    guided = (scale != 1) & (samples == 8) & at_guided_time
    weight = jnp.broadcast_to(jnp.where(guided, scale, 1.0), 4)[:, None]
    conditional, unconditional = affine(x, t, labels), affine(x, t, jnp.full(4, 9))
    expected = conditional + (weight - 1) * (conditional - unconditional)
    np.testing.assert_allclose(velocity, expected, rtol=1e-13)


def test_sampling_evaluates_the_null_half_inside_the_interval_only():
    plan = plans.euler(grids.uniform(5))
    network = Counter(affine)
    model = guidance.classifier_free(network, jnp.arange(4), 9, 3.0, interval=INNER)
    with jax.disable_jit():
        solution = flowjax.sample(model, normal(0, 4, 3), plan)
    guided_rows = np.sum((plan.t > 0.2) & (plan.t < 0.8))
    assert network.samples == 4 * (5 + guided_rows)
    assert solution.stats.nfe[0] == 5  # rows, whatever a row cost


# ---- identities


def test_guiding_velocity_noise_and_data_is_the_same():
    x, t, scale = normal(0, 5, 3), 0.6, 3.5
    for schedule in (Linear(), VPLinear()):
        conditional, unconditional = pair(schedule)
        model = guidance.combine(conditional.velocity, unconditional.velocity, scale)
        velocity = jax.jit(model)(x, t)
        for kind in ("noise", "data"):
            strong, weak = (getattr(field, kind)(x, t) for field in (conditional, unconditional))
            expected = weak + scale * (strong - weak)
            found = predict(schedule, kind, velocity, x, t)
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_guided_gaussians_have_the_score_of_the_product_of_their_densities():
    # p^w q^(1-w) of Gaussians is Gaussian, with precision w P + (1-w) Q. The product of precision
    # and mean is combined alike.
    schedule, t, scale = Linear(), 0.4, 2.5
    narrow = Gaussian([1.0, -0.5], [[0.2, 0.1], [0.1, 0.3]], schedule)
    wide = Gaussian([0.0, 0.2], np.eye(2), schedule)
    x = normal(0, 6, 2)
    velocity = guidance.combine(narrow.velocity, wide.velocity, scale)(x, t)
    precisions, pulls = [], []
    for field in (narrow, wide):
        precision = np.linalg.inv((1 - t) ** 2 * field.covariances[0] + t**2 * np.eye(2))
        precisions.append(precision)
        pulls.append(precision @ ((1 - t) * field.means[0]))
    precision, pull = (scale * a + (1 - scale) * b for a, b in (precisions, pulls))
    score = predict(schedule, "score", velocity, x, t)
    np.testing.assert_allclose(score, pull[None] - x @ precision, rtol=1e-10)


# ---- projection and rescaling


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 3, 2)])
def test_neutral_projection_is_classifier_free_guidance(shape):
    x, t = normal(0, *shape), jnp.array([0.0, 0.01, 0.3, 1.0])
    plain, labels = guided_affine(4.0)
    # At t = 0 data = x/alpha whatever the velocity is, so there is nothing to guide.
    expected = plain(x, t).at[0].set(affine(x, t, labels)[0])
    for schedule in SCHEDULES:
        neutral = guidance.Projection(schedule, momentum=0.0, threshold=np.inf, eta=1.0)
        projected = jax.jit(guided_affine(4.0, projection=neutral)[0])(x, t)
        np.testing.assert_allclose(projected, expected, rtol=1e-9)


def change_of_data(x, t, scale, **options):
    """(change of the data prediction by guidance, conditional data), both (B, F).

    On the linear path data = x - t velocity.
    """
    model, labels = guided_affine(scale, projection=guidance.Projection(Linear(), **options))
    conditional = affine(x, t, labels)
    change = -t * (model(x, t) - conditional)
    data = x - t * conditional
    return change.reshape(len(x), -1), data.reshape(len(x), -1)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 3, 2)])
def test_projected_guidance_is_orthogonal_to_the_data_and_the_rest_is_parallel(shape):
    x = normal(0, *shape)
    rest, data = change_of_data(x, 0.7, 5.0, eta=0.0)
    full, _ = change_of_data(x, 0.7, 5.0)
    rest_size, data_size = jnp.linalg.norm(rest, axis=1), jnp.linalg.norm(data, axis=1)
    assert jnp.all(rest_size > 0.1)
    cosine = jnp.sum(rest * data, axis=1) / (rest_size * data_size)
    np.testing.assert_allclose(cosine, 0, atol=1e-14)
    along = full - rest
    projection = jnp.sum(along * data, axis=1) / jnp.linalg.norm(along, axis=1)
    np.testing.assert_allclose(jnp.abs(projection), data_size, rtol=1e-12)


def test_threshold_bounds_the_difference_of_each_sample():
    x = normal(0, 4, 6)
    free, _ = change_of_data(x, 0.7, 3.0)
    norms = jnp.linalg.norm(free, axis=1) / 2  # |d|, since w - 1 = 2
    most = float(jnp.median(norms))
    bounded, _ = change_of_data(x, 0.7, 3.0, threshold=most)
    expected = jnp.minimum(norms, most)
    np.testing.assert_allclose(jnp.linalg.norm(bounded, axis=1) / 2, expected, rtol=1e-12)
    # The direction does not change.
    factor = jnp.broadcast_to((expected / norms)[:, None], (4, 6))
    np.testing.assert_allclose(bounded / free, factor)


def test_momentum_sums_differences_geometrically():
    x, t, momentum = normal(0, 4, 6), 0.7, -0.5
    projection = guidance.Projection(Linear(), momentum=momentum)
    model, labels = guided_affine(3.0, projection=projection)
    conditional = affine(x, t, labels)
    difference = -t * (conditional - affine(x, t, jnp.full(4, 9)))
    carry = projection.start(x)
    for call in range(3):
        velocity, carry = model(x, t, carry)
        total = difference * sum(momentum**k for k in range(call + 1))
        np.testing.assert_allclose(carry.difference, total, rtol=1e-12)
        np.testing.assert_allclose(-t * (velocity - conditional), 2 * total, rtol=1e-10)


def test_momentum_rests_where_a_sample_is_not_guided():
    x = normal(0, 4, 6)
    projection = guidance.Projection(Linear(), momentum=0.5)
    model, labels = guided_affine(3.0, projection=projection, interval=INNER)
    start = projection.start(x)._replace(difference=normal(1, 4, 6))
    _, after = model(x, 0.9, start)
    np.testing.assert_array_equal(after.difference, start.difference)
    velocity, after = model(x, jnp.array([0.1, 0.5, 0.6, 0.9]), start)
    same = jnp.all(after.difference == start.difference, axis=1)
    assert same.tolist() == [True, False, False, True]
    np.testing.assert_allclose(velocity[0], affine(x, 0.1, labels)[0], rtol=1e-14)


def test_full_rescale_keeps_the_standard_deviation():
    x, t = normal(0, 4, 3, 3, 2), 0.6
    axes = (1, 2, 3)
    model, labels = guided_affine(6.0, rescale=1.0)
    conditional, guided = affine(x, t, labels), model(x, t)
    np.testing.assert_allclose(jnp.std(guided, axes), jnp.std(conditional, axes), rtol=1e-12)

    # A fraction mixes the plain and the rescaled guidance.
    plain, _ = guided_affine(6.0)
    in_part, _ = guided_affine(6.0, rescale=0.3)
    mixed = 0.7 * plain(x, t) + 0.3 * guided
    np.testing.assert_allclose(in_part(x, t), mixed, rtol=1e-12)

    # With a projection it is the standard deviation of the data prediction.
    projection = guidance.Projection(Linear(), eta=0.0)
    projected, _ = guided_affine(6.0, rescale=1.0, projection=projection)
    data, conditional_data = x - t * projected(x, t), x - t * conditional
    np.testing.assert_allclose(jnp.std(data, axes), jnp.std(conditional_data, axes))


def test_constant_predictions_are_guided_without_dividing_by_zero():
    # Nothing to project on, no spread to keep, no difference to shorten.
    projection = guidance.Projection(Linear(), threshold=1.0, eta=0.0)
    zero = lambda x, t: jnp.zeros_like(x)
    for options in (
        {"rescale": 0.7},
        {"projection": projection},
        {"projection": projection, "rescale": 0.7},
    ):
        model = guidance.combine(zero, zero, 3.0, **options)
        assert jnp.all(model(jnp.zeros((2, 3)), 0.5) == 0)


# ---- classifier guidance


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_exact_classifier_makes_the_conditional_field(schedule):
    conditional, field = pair(schedule)
    x = normal(0, 10, 3)
    t = jnp.repeat(jnp.array([0.0, 1e-3, 0.5, 0.999, 1.0]), 2)

    def log_prob(x, t):
        return conditional.log_density(x, t) - field.log_density(x, t)

    @jax.jit
    def both(scale, t):
        by_classifier = guidance.classifier(field.velocity, log_prob, scale, schedule)
        by_fields = guidance.combine(conditional.velocity, field.velocity, scale)
        return by_classifier(x, t), by_fields(x, t)

    ours, expected = both(jnp.ones(10), t)
    np.testing.assert_allclose(expected, conditional.velocity(x, t), rtol=1e-12)
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(*both(jnp.full(10, 2.0), t), rtol=1e-7, atol=1e-7)


def test_classifier_moves_the_noise_prediction_by_sigma_times_the_gradient():
    schedule, t, scale = Cosine(), 0.3, 2.0
    slope = jnp.array([1.0, -2.0, 0.5])
    model = guidance.classifier(lambda x, t: 0.1 * x, lambda x, t: x @ slope, scale, schedule)
    x = normal(0, 4, 3)
    guided = predict(schedule, "noise", model(x, t), x, t)
    unguided = predict(schedule, "noise", 0.1 * x, x, t)
    expected = jnp.broadcast_to(-scale * schedule.sigma(t) * slope, (4, 3))
    np.testing.assert_allclose(guided - unguided, expected, rtol=1e-12)


# ---- corrections of the data prediction


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 3, 2)])
@pytest.mark.parametrize(
    "options", [(0.8, {}), (0.995, {}), (0.5, {"least": 0.3}), (0.9, {"most": 1.2})]
)
def test_threshold_is_the_loop_in_numpy(shape, options):
    quantile, limits = options
    scales = jnp.linspace(0.05, 1, 5).reshape((5,) + (1,) * (len(shape) - 1))
    data = 3 * normal(0, *shape) * scales
    result = guidance.dynamic_threshold(quantile, **limits)(data, 0.5)
    assert jnp.all(jnp.abs(result) <= 1)
    for sample, found in zip(np.asarray(data), result):
        s = max(np.quantile(np.abs(sample), quantile), limits.get("least", 1.0))
        s = min(s, limits.get("most", np.inf))
        np.testing.assert_allclose(found, np.clip(sample, -s, s) / s, rtol=1e-14)


def test_threshold_leaves_what_is_inside_and_is_idempotent():
    hook = guidance.dynamic_threshold(0.9)
    inside = jnp.tanh(normal(0, 4, 8))
    np.testing.assert_array_equal(hook(inside, 0.5), inside)
    once = hook(4 * normal(1, 4, 8), 0.5)
    np.testing.assert_array_equal(hook(once, 0.5), once)


@pytest.mark.parametrize("schedule", [Linear(), VPLinear()], ids=lambda s: type(s).__name__)
def test_corrected_model_samples_as_the_hook_of_the_sampler(schedule):
    model, hook = lambda x, t: affine(x, t, 0.5), guidance.dynamic_threshold(0.7, least=0.5)
    corrected = jax.jit(guidance.correct_data(model, schedule, hook))
    plan = plans.dpm_solver_pp(schedule, grids.uniform(6), 2)
    x = normal(0, 4, 3)
    inside = flowjax.sample(model, x, plan, data_hook=hook).x
    np.testing.assert_allclose(flowjax.sample(corrected, x, plan).x, inside, rtol=1e-9, atol=1e-12)
    times = jnp.array([0.0, 0.5, 0.9, 1.0])
    np.testing.assert_array_equal(corrected(x, times)[0], model(x, 0.0)[0])
    found = predict(schedule, "data", corrected(x, times), x, times)
    for i in (1, 2, 3):
        data = predict(schedule, "data", model(x, times[i]), x, times[i])
        np.testing.assert_allclose(found[i], hook(data, times[i])[i], rtol=1e-9)


# ---- batches, dtypes and transformations


def every_model(schedule, batch):
    """One model of every kind of guidance."""
    labels, weak = jnp.arange(batch), affine_with(1)

    def log_prob(x, t):
        return jnp.sum(jnp.sin(x), axis=1) * (1 - t)

    for options in rules(schedule).values():
        yield guidance.classifier_free(affine, labels, 9, 3.0, interval=INNER, **options)
    yield guidance.combine(affine_with(labels), weak, 3.0, interval=INNER)
    yield guidance.classifier(weak, log_prob, 3.0, schedule)
    yield guidance.correct_data(weak, schedule, guidance.dynamic_threshold(0.7))


@functools.partial(jax.jit, static_argnames="batch")
def all_velocities(x, t, batch):
    return jnp.stack([model(x, t) for model in every_model(Linear(), batch)])


def test_sample_does_not_depend_on_its_batch_and_times_may_differ():
    x, times = normal(0, 4, 6), jnp.array([0.1, 0.5, 0.7, 1.0])
    together = all_velocities(x, times, 4)
    alone = all_velocities(x[:1], times[:1], 1)
    np.testing.assert_allclose(together[:, :1], alone, rtol=1e-11, atol=1e-12)
    for i, t in enumerate(times):
        at_one_time = all_velocities(x, t, 4)
        np.testing.assert_allclose(together[:, i], at_one_time[:, i], rtol=1e-11, atol=1e-12)


def test_float32_stays_float32_and_close_to_float64():
    x = normal(0, 4, 6)
    for t in (0.0, 0.5, 1.0):
        wide = all_velocities(x, jnp.float64(t), 4)
        narrow = all_velocities(x.astype(jnp.float32), jnp.float32(t), 4)
        assert narrow.dtype == jnp.float32
        np.testing.assert_allclose(narrow, wide, rtol=2e-4, atol=2e-4)
    model, _ = guided_affine(3.0, interval=INNER, rescale=0.5)
    assert model(x.astype(jnp.float32), 0.5).dtype == jnp.float32  # a Python number is no float64


def test_half_precision_is_raised():
    model, _ = guided_affine(2.0)
    assert model(normal(0, 4, 3).astype(jnp.bfloat16), jnp.bfloat16(0.5)).dtype == jnp.float32


def test_scale_and_interval_may_be_arguments_of_jit():
    x, t, calls = normal(0, 4, 3), jnp.array([0.1, 0.3, 0.5, 0.9]), []

    @jax.jit
    def run(x, scale, interval):
        calls.append(1)
        return guided_affine(scale, interval=interval)[0](x, t)

    every_time = (0.0, 1.0)
    for scale, interval in [(1.0, every_time), (3.0, every_time), (3.0, INNER), (0.0, every_time)]:
        untraced, _ = guided_affine(scale, interval=interval)
        np.testing.assert_allclose(run(x, scale, interval), untraced(x, t), rtol=1e-12)
    assert len(calls) == 1  # one trace


def test_vmap_over_plans_and_scales():
    x, scales = normal(0, 4, 3), jnp.array([1.0, 2.0, 4.0])
    projection = guidance.Projection(Linear(), momentum=-0.5, threshold=2.0, eta=0.2)

    def run(plan, scale):
        model, _ = guided_affine(scale, interval=INNER, rescale=0.3, projection=projection)
        return flowjax.sample(model, x, plan, carry=projection.start(x)).x

    shifts = (1.0, 2.0, 3.0)
    ladder = [plans.dpm_solver_pp(Linear(), grids.uniform(6, shift=s), 2) for s in shifts]
    stacked = jax.tree.map(lambda *columns: np.stack(columns), *ladder)
    together = jax.jit(jax.vmap(run))(stacked, scales)
    one = jax.jit(run)
    for plan, scale, found in zip(ladder, scales, together):
        np.testing.assert_allclose(found, one(plan, scale), rtol=1e-9, atol=1e-12)


def counting_network(x, t, label, carry):
    """`affine`, which counts in its carry (B,) how often each sample is evaluated."""
    return affine(x, t, label), carry + jnp.ones(len(x))


def test_carries_of_networks_are_kept():
    x, labels = normal(0, 4, 3), jnp.arange(4)
    plan = plans.euler(grids.uniform(5))
    plain = guided_affine(3.0, interval=INNER)[0]

    # One network: both halves of its carry are evaluated at every row.
    one = guidance.classifier_free(counting_network, labels, 9, 3.0, interval=INNER)
    solution = flowjax.sample(one, x, plan, carry=jnp.zeros(8))
    np.testing.assert_allclose(solution.x, flowjax.sample(plain, x, plan).x, rtol=1e-12)
    np.testing.assert_array_equal(solution.carry, 5)

    # Two models, of which the first has a carry, under a projection.
    def with_carry(x, t, carry):
        return counting_network(x, t, labels, carry)

    projection = guidance.Projection(Linear(), momentum=0.3)
    without_carry = affine_with(jnp.full(4, 9))
    two = guidance.combine(with_carry, without_carry, 3.0, interval=INNER, projection=projection)
    start = projection.start(x, (jnp.zeros(4), None))
    solution = flowjax.sample(two, x, plan, carry=start)
    np.testing.assert_array_equal(solution.carry.networks[0], 5)
    assert solution.carry.networks[1] is None

    # Guidance by a classifier, and corrections.
    counting = lambda x, t, carry: (-x, carry + 1)
    for wrapped in (
        guidance.classifier(counting, lambda x, t: x[:, 0], 1.0, Linear()),
        guidance.correct_data(counting, Linear(), lambda data, t: data),
    ):
        assert flowjax.sample(wrapped, x, plan, carry=jnp.zeros(())).carry == 5


def test_noise_network_is_guided_through_its_wrapper():
    # Guidance before or after the conversion to velocity: linear, hence equal.
    schedule, x, t = Cosine(), normal(0, 4, 3), 0.4
    guided_noise = guidance.classifier_free(affine, jnp.arange(4), 9, 3.0)
    before = as_velocity(guided_noise, schedule, "noise")

    def network(x, t, label):
        return as_velocity(affine_with(label), schedule, "noise")(x, t)

    after = guidance.classifier_free(network, jnp.arange(4), 9, 3.0)
    np.testing.assert_allclose(before(x, t), after(x, t), rtol=1e-12)


# ---- mistakes


MOMENTUM = guidance.Projection(Linear(), momentum=0.5)
MISTAKES = [
    (
        lambda x: guided_affine(3.0, interval=(0.8, 0.2)),
        "interval=.0.8, 0.2. is inverted; wanted .low, high",
    ),
    (lambda x: guidance.combine(affine, affine, 3.0, interval=(1, 0)), "combine: interval"),
    (
        lambda x: guidance.classifier_free(affine, jnp.arange(4), None, 3.0),
        "null_label is None.*number of classes",
    ),
    (lambda x: guided_affine(jnp.ones(3))[0](x, 0.5), r"scale has shape \(3,\).*\(4,\)"),
    (lambda x: guided_affine(3.0)[0](x, jnp.ones((4, 1))), r"t has shape \(4, 1\)"),
    (
        lambda x: guidance.classifier_free(affine, 3, 9, 3.0)(x, 0.5),
        r"label has shape \(\); wanted \(4, ",
    ),
    (
        lambda x: guided_affine(3.0, projection=MOMENTUM)[0](x, 0.5),
        r"carry=projection.start\(noise\)",
    ),
    (
        lambda x: guidance.classifier(lambda x, t: x, lambda x, t: x, 1.0, Linear())(x, 0.5),
        r"log_prob.*\(4,\)",
    ),
    (lambda x: guidance.Projection(Linear(), threshold=0.0), "threshold=0.0.*None"),
    (lambda x: guidance.dynamic_threshold(99.5), "quantile=99.5"),
    (lambda x: guidance.dynamic_threshold(0.9, least=2.0, most=1.0), "least <= most"),
    (lambda x: guidance.dynamic_threshold(0.9, least=0.0), "0 < least"),
    # Numbers that would give NaN, or a picture of nothing, without a word.
    (lambda x: guided_affine(np.nan), "scale=nan; wanted a finite number"),
    (lambda x: guided_affine(-np.inf), "scale=-inf"),
    (lambda x: guided_affine("2"), "scale='2'"),
    (lambda x: guided_affine(np.array([1.0, np.nan, 1.0, 1.0])), "scale=array.*nan"),
    (lambda x: guidance.combine(affine, affine, np.inf), "combine: scale=inf"),
    (lambda x: guided_affine(3.0, rescale=1.5), "rescale=1.5; wanted a number from 0 to 1"),
    (lambda x: guided_affine(3.0, rescale=np.nan), "rescale=nan"),
    (lambda x: guided_affine(3.0, interval=(np.nan, 1)), "interval=.nan, 1"),
    (lambda x: guided_affine(3.0, interval=0.5), "interval=0.5; wanted .low, high"),
    (lambda x: guidance.Projection(Linear(), momentum=np.nan), "momentum=nan"),
    (lambda x: guidance.Projection(Linear(), eta=np.inf), "eta=inf"),
    (lambda x: guidance.Projection(Linear(), threshold=np.nan), "threshold=nan"),
    (lambda x: guidance.dynamic_threshold(np.nan), "quantile=nan"),
    (lambda x: guidance.dynamic_threshold(0.9, least=np.nan), "least=nan"),
    (lambda x: guidance.dynamic_threshold(0.9, most=np.nan), "most=nan"),
    (
        lambda x: guidance.classifier(affine, lambda x, t: x[:, 0], np.nan, Linear()),
        "classifier: scale=nan",
    ),
]


def test_traced_numbers_are_not_looked_at():
    x = normal(0, 4, 3)

    @jax.jit
    def guided(scale, rescale):
        return guided_affine(scale, rescale=rescale)[0](x, 0.5)

    np.testing.assert_allclose(guided(3.0, 0.2), guided_affine(3.0, rescale=0.2)[0](x, 0.5))
    assert np.all(np.isnan(guided(np.nan, 0.2)))


@pytest.mark.parametrize("mistake, sentence", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_refused_with_the_way_out(mistake, sentence):
    with pytest.raises(ValueError, match=rf"guidance\..*{sentence}"):
        mistake(normal(0, 4, 3))


# ---- channels


@pytest.mark.parametrize("rule", rules(Linear()))
def test_leading_channels_are_guided_as_if_alone_and_the_others_are_conditional(rule):
    x, t, options = normal(0, 4, 3, 3, 4), 0.4, rules(Linear())[rule]
    found = guided_affine(2.5, channels=3, **options)[0](x, t)
    alone, labels = guided_affine(2.5, **options)  # `affine` acts on each number by itself
    np.testing.assert_allclose(found[..., :3], alone(x[..., :3], t), rtol=1e-13)
    np.testing.assert_array_equal(found[..., 3:], affine(x, t, labels)[..., 3:])
    np.testing.assert_array_equal(guided_affine(2.5, channels=4, **options)[0](x, t), alone(x, t))


def test_two_models_are_guided_on_leading_channels_as_in_the_published_code():
    x, t = normal(0, 4, 3, 3, 4), 0.4
    strong, weak = affine_with(jnp.arange(4)), affine_with(jnp.full(4, 9))
    a, b = strong(x, t), weak(x, t)
    # DiT.forward_with_cfg, models.py
    published = np.concatenate([(b + 4.0 * (a - b))[..., :3], a[..., 3:]], axis=-1)
    found = guidance.combine(strong, weak, 4.0, channels=3)(x, t)
    np.testing.assert_allclose(found, published, rtol=1e-12)


def test_momentum_rests_in_channels_that_are_not_guided():
    x = normal(0, 4, 3, 3, 4)
    projection = guidance.Projection(Linear(), momentum=-0.5, eta=0.3)
    model, _ = guided_affine(2.5, channels=3, projection=projection)
    _, carry = model(x, 0.4, projection.start(x))
    _, carry = model(x, 0.3, carry)

    # The guided channels alone.
    alone, _ = guided_affine(2.5, projection=projection)
    guided = x[..., :3]
    _, wanted = alone(guided, 0.4, projection.start(guided))
    _, wanted = alone(guided, 0.3, wanted)
    np.testing.assert_allclose(carry.difference[..., :3], wanted.difference, rtol=1e-12)
    np.testing.assert_array_equal(carry.difference[..., 3:], 0)


@pytest.mark.parametrize("channels", [0, 6])
def test_channels_that_are_not_there_are_refused(channels):
    with pytest.raises(ValueError, match=f"channels={channels}; wanted 1 to 5"):
        guided_affine(2.0, channels=channels)[0](normal(0, 4, 5), 0.5)
