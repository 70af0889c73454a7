"""The comparisons of the staleness experiment: the options of their cells, and their numbers."""

import dataclasses

import numpy as np
import pytest

from configs.staleness import Config, get_config
from experiments import staleness
from experiments.cli.run import cells_of
from experiments.staleness import (
    fractions,
    gallery,
    layers,
    loop,
    orders,
    pareto,
    partition,
    pipeline,
    precision,
    subjects,
    viewer,
    window,
)
from experiments.staleness.loop import threshold
from flowjax.parallel.stale import policies

PLAN = subjects.plan_of("DPM++ 2M", window.STEPS)


# ---- the options of runs


@pytest.mark.parametrize("place", window.PLACES)
def test_every_place_of_fifty_steps_has_the_count_that_its_name_says(place):
    chosen = window.policy(place, PLAN) == policies.ALWAYS
    count = {"warm-up 1": 1}.get(place, window.MANY if str(window.MANY) in place else window.FEW)
    assert chosen.sum() == count
    assert chosen[0]


def test_a_window_begins_at_the_time_in_its_name():
    # Without the first step, which is always synchronous.
    chosen = np.flatnonzero(window.policy("window 0.6", PLAN) == policies.ALWAYS)[1:]
    assert np.asarray(PLAN.t)[chosen].max() == pytest.approx(0.6)
    # The steps follow each other.
    assert np.ptp(chosen) == len(chosen) - 1


@pytest.mark.parametrize("steps", [6, 20])
def test_every_named_policy_is_one(steps):
    config, plan = Config(one_steps=steps), subjects.plan_of("DPM++ 2M", steps)
    made = {name: pareto.policy(name, plan) for name in pareto.names(config)}
    for name, policy in made.items():
        assert policies.check(name, policy, steps)[0] == policies.ALWAYS
    assert {name.rsplit(" ", 1)[0] for name in made} == set(pareto.KINDS)


@pytest.mark.parametrize("name", partition.PARTITIONS)
def test_every_partition_gives_each_device_as_many_tokens(name):
    assert np.bincount(partition.shards(name)).tolist() == [16] * partition.DEVICES


def test_blocks_keep_neighbours_together_and_scattering_parts_them():
    def separated(name):
        """Pairs of neighbours that lie on two devices."""
        grid = partition.shards(name).reshape(partition.SIDE, partition.SIDE)
        down, across = grid[1:] != grid[:-1], grid[:, 1:] != grid[:, :-1]
        return int(down.sum() + across.sum())

    assert {name: separated(name) for name in partition.PARTITIONS} == {
        "rows": 24,
        "columns": 24,
        "blocks": 16,
        "scattered": 112,
    }


def test_noise_of_fewer_pixels_is_that_of_more_and_keeps_its_variance():
    fine, coarse = (subjects.starts_of(f"{pixels} pixels", 2, 8) for pixels in (32, 8))
    np.testing.assert_allclose(coarse[3, 1, 2], 4 * fine[3, 4:8, 8:12].mean((0, 1)))
    # 3072 numbers: 0.013 is one standard error.
    assert coarse.std() == pytest.approx(1, abs=0.05)


def test_a_network_of_another_size_is_a_subject_and_nothing_is_said_of_its_data(monkeypatch):
    """Also the guidance of its configuration is used."""
    model = subjects.random_network((4, 4, 2))
    monkeypatch.setattr(subjects.models, "load", lambda name: model)
    config = Config(
        network="own", network_guidance=2.0, seeds=1, compared_network_starts=2, fine_steps=4
    )
    key = subjects.compared(config, "network")
    assert key.guidance == 2.0
    subject = subjects.subject(key)
    assert subject.noise.shape == (2, 4, 4, 2)
    assert np.isnan(subject.compare(subject.exact, subject.exact)["misrouted"])


def test_the_twin_of_the_emoji_network_is_a_subject_of_every_question_that_names_one():
    names = ("emoji-smooth",)
    config = dataclasses.replace(Config(), subjects=names, compared_subjects=names)
    asked = {module.QUESTION: cells for module, cells in cells_of(config, staleness.QUESTIONS)}
    for question in ("error", "warmup", "placement", "forecasts", "pareto"):
        assert {cell["subject"] for cell in asked[question]} == set(names)
    # A strip of digits is grey.
    assert asked["pictures"] == []
    key = subjects.compared(config, "emoji-smooth")
    assert (key.network, key.guidance) == ("emoji-smooth", config.emoji_guidance)


def test_the_quick_variant_has_no_comparisons():
    config = get_config("quick")
    comparisons = (pipeline, window, partition, pareto, precision, gallery, viewer, fractions)
    assert [module.cells(config) for module in comparisons] == [[]] * len(comparisons)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("subjects", ("filed",), "'filed' is not known; did you mean 'field'"),
        ("solvers", ("DPM++ 2S",), "'DPM[+]{2} 2S' is not known"),
        ("one_solver", "Eular", "'Eular' is not known; did you mean 'Euler'"),
        ("compared_subjects", ("emojis",), "'emojis' is not known; did you mean 'emoji'"),
        ("network", "digit", "'digit'"),
        ("precision_subjects", ("field",), "'field' is not known"),
        ("bits", (32, 1), "'1' is not known"),
        ("pixels", (8, 17), "'17' is not known"),
        ("gallery_pictures", 7, "take at most as many"),
        ("viewer_networks", ("digit",), "'digit'"),
        ("fraction_networks", ("digit",), "'digit'"),
        ("threshold_networks", ("digit",), "'digit'"),
        ("linear_networks", ("digit",), "'digit'"),
    ],
)
def test_a_name_that_is_not_known_is_refused_before_anything_is_measured(option, value, words):
    config = dataclasses.replace(get_config(), **{option: value})
    with pytest.raises(ValueError, match=rf"--config\.{option}.*{words}"):
        cells_of(config, staleness.QUESTIONS)


@pytest.mark.parametrize("devices", [2, 3, 8, 100])
def test_what_a_layer_sees_of_misses_is_the_largest_eigenvalue_and_at_least_a_half(devices):
    """With a correction of (n - 2)/(2 n - 2) it is a half, and no other fraction does better."""
    others = (np.ones((devices, devices)) - np.eye(devices)) / devices
    for correction in np.linspace(0, 1, 11):
        corrected = others - correction * np.diag(others.sum(1))
        largest = np.abs(np.linalg.eigvalsh(corrected)).max()
        assert loop.seen(devices, correction) == pytest.approx(largest)
        assert loop.seen(devices, correction) >= 0.5 - 1e-12
    assert loop.seen(devices, (devices - 2) / (2 * devices - 2)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("pushes", "grow", "words"),
    [
        (
            (1, 2, 3),
            (False, False, True),
            "all of those with a push of 3 or more and none of those up to 2",
        ),
        (
            (1, 2, 3, 4),
            (False, True, False, True),
            "all of those with a push of 4 or more and none of those up to 1**; of 2 between, 1",
        ),
        ((1, 2), (True, False), "no push parts them"),
        ((1, 2), (False, False), "0 of 2 loops"),
    ],
)
def test_the_place_from_which_loops_grow_is_said_with_what_lies_between(pushes, grow, words):
    rows = [
        {"push": push, "rate": 2.0 if grows else 1.0, "own_rate": 1.0}
        for push, grows in zip(pushes, grow, strict=True)
    ]
    assert words in loop.split(rows, "here")


def test_a_place_where_growth_begins_is_found_by_bisection():
    found = threshold.first_that(lambda gain: gain > 0.7, 16.0, 20)
    assert found == pytest.approx(0.7, abs=16 / 2**20)
    assert found > 0.7
    assert threshold.first_that(lambda gain: True, 16.0, 20) == 0
    assert threshold.first_that(lambda gain: False, 16.0, 20) == np.inf


@pytest.mark.parametrize("devices", fractions.COUNTS)
def test_the_fraction_by_devices_makes_the_seen_part_of_misses_least(devices):
    rule = fractions.by_rule(devices)
    assert loop.seen(devices, rule) == pytest.approx(0.5)
    others = (fraction for fraction in fractions.FRACTIONS if fraction != rule)
    assert all(loop.seen(devices, fraction) > 0.5 for fraction in others)


def test_the_best_fraction_of_one_network_is_judged_on_the_other():
    ratios = {"digits": (1.2, 0.9), "digits-smooth": (0.8, 1.1)}
    rows = [
        {"network": network, "devices": 8, "fraction": fraction, "rms_ratio": ratio}
        | {f"{kind}_{end}": ratio for kind in ("rms", "median") for end in ("low", "high")}
        | {"median_ratio": ratio}
        for network, pair in ratios.items()
        for fraction, ratio in zip(("0.2", "0.6"), pair, strict=True)
    ]
    found = {row["network"]: row for row in fractions.transferred(rows)}
    # Digits-smooth chose 0.2, which is worse on digits, and the other way round.
    assert found["digits"]["fraction"] == 0.2
    assert found["digits"]["ratio of RMS"].startswith("1.2")
    assert found["digits-smooth"]["ratio of RMS"].startswith("1.1")


# ---- the viewer


def test_a_viewer_sees_no_difference_between_a_run_and_itself():
    images = viewer.numbers.judges.judge("digits").images[:20]
    seed = np.repeat([0, 1], 10)
    found = viewer.numbers._seen("digits", seed, images, images)
    for name in ("accuracy_lost", "frechet_more"):
        assert [found[f"{name}{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    assert found["relabelled"] == 0
    # The roots of covariances are accurate to about 1e-8.
    assert found["frechet_to_sync"] < 1e-6
    assert not viewer.is_seen(found)


def test_a_viewer_sees_noise_in_the_place_of_digits():
    judge = viewer.numbers.judges.judge("digits")
    # One image of each class in turn, as the labels of the starts go.
    own = np.stack([judge.images[judge.labels == i % 10][i // 10] for i in range(40)])
    noise = np.random.default_rng(0).standard_normal(own.shape)
    found = viewer.numbers._seen("digits", np.repeat([0, 1, 2, 3], 10), noise, own)
    assert found["accuracy_lost"] > 0.5
    assert viewer.is_seen(found)


def test_a_warm_up_of_the_viewer_is_a_fifth_of_the_steps():
    key = {"mode": "warm-up", "steps": 20}
    assert viewer.numbers.options_of(key) == {"warmup": 4}
    assert viewer.numbers.options_of(key | {"mode": "synchronous"}) == {}


# ---- numbers that are read from rows


def test_orders_are_held_to_the_barrier():
    wanted = {"synchronous": 2.0, "stale": 1.0, "linear": 2.0, "quadratic": 2.0}
    rows = [
        {"solver": "DPM++ 2M", "mode": mode, "steps": steps, "error": steps**-slope}
        for mode, slope in wanted.items()
        for steps in (32, 64)
    ]
    assert all(slope == pytest.approx(bound) for slope, bound in orders.barrier(rows))


def policy_row(policy, synced, error):
    """A row of pareto with 20 steps."""
    return {
        "subject": "network",
        "forecast": 0,
        "policy": policy,
        "synced": synced,
        "sync_rms": error,
        "steps": 20,
    }


def test_a_front_holds_what_nothing_beats():
    points = ((1, 1.0), (3, 0.5), (3, 0.4), (5, 0.6), (8, 0.1))
    rows = [policy_row("warm-up", synced, error) for synced, error in points]
    found = [(row["synced"], row["sync_rms"]) for row in pareto.front(rows)]
    assert found == [(1, 1.0), (3, 0.4), (8, 0.1)]


def test_a_duel_is_fought_at_equal_steps_between_the_tolerances():
    tolerances = [
        policy_row(f"tolerance {tol}", synced, error)
        for tol, synced, error in ((0.2, 2, 1.0), (0.1, 6, 0.01))
    ]
    fixed = [
        policy_row("warm-up 4", 4, 0.2),
        policy_row("cool-down 0", 1, 0.2),
        policy_row("every 2", 10, 0.2),
    ]
    # Only the first lies between 2 and 6 synchronous steps.
    (duel,) = pareto.duels([*tolerances, *fixed])
    assert duel["policy"] == "warm-up 4"
    # The geometric mean of the tolerances' errors, since 4 is midway between 2 and 6.
    assert duel["ratio"] == pytest.approx(0.1 / 0.2)


def test_regret_is_over_the_best_with_as_many_steps_and_where_all_are_synchronous_there_is_none():
    rows = [
        policy_row("warm-up 4", 4, 0.8),
        policy_row("cool-down 3", 4, 0.2),
        policy_row("warm-up 8", 8, 0.1),
        policy_row("tolerance 0.1", 20, 0.0),
    ]
    found = {row["policy"]: row["network"] for row in pareto.regrets(rows)}
    # Of the warm-ups the regrets are 4 and 1, whose geometric mean is 2.
    assert found == pytest.approx({"warm-up": 2.0, "cool-down": 1.0})


def test_more_synchronous_steps_take_longer_in_the_model():
    seconds = [pareto.seconds(synced, 20, 8) for synced in (1, 10, 20)]
    assert seconds == sorted(seconds)
    # Linear in the number of synchronous steps.
    assert seconds[1] - seconds[0] == pytest.approx((seconds[2] - seconds[0]) * 9 / 19, rel=1e-6)


def test_a_strip_of_images_comes_back():
    x = np.linspace(-1, 1, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3)
    back = gallery.pixels(gallery.strip(x))
    assert back.shape == (32, 64, 3)
    # Half a level of 8 bits is lost.
    np.testing.assert_allclose(back[:, 32:] / 127.5 - 1, x[1], atol=0.5 / 127.5 + 1e-9)


# ---- fractions by layer


def test_fractions_of_layers_are_chosen_one_by_one():
    config = get_config()
    ratios = {("digits", str(layer), str(f)): 1.1 for layer in range(6) for f in layers.TRIED}
    # One layer gains from less, one from more; the others keep the constant.
    ratios["digits", "1", "0.2"] = 0.9
    ratios["digits", "4", "0.8"] = 0.95
    found = layers._best_of_layers(config, "digits", ratios)
    assert found == [0.4, 0.2, 0.4, 0.4, 0.8, 0.4]


def test_a_cell_of_one_layer_has_the_constant_in_the_others():
    keys = layers.cells(dataclasses.replace(get_config(), fraction_networks=("digits",)))
    one = next(key for key in keys if (key["layer"], key["fraction"]) == ("2", "0.0"))
    assert layers._by_layer(one, {}) == [0.4, 0.4, 0.0, 0.4, 0.4, 0.4]
    chosen = next(key for key in keys if key["fraction"] == "of digits")
    assert layers._by_layer(chosen, {"digits": [0.1] * 6}) == [0.1] * 6


def test_one_fraction_in_every_layer_is_that_fraction():
    """The same samples as with the option correction, and others with another layer."""
    config = dataclasses.replace(get_config("quick"), network="random", compared_network_starts=2)
    subject = subjects.subject(subjects.compared(config, "network"))
    plan = subjects.plan_of("DPM++ 2M", 5)
    usual = subject.end(plan, subject.exchange(plan, 4, forecast="tuned")).x
    for by_layer, agrees in ((np.array([0.4, 0.4]), True), (np.array([0.4, 0.9]), False)):
        exchanged = subject.exchange(plan, 4, forecast="tuned", by_layer=by_layer)
        found = subject.end(plan, exchanged).x
        assert np.allclose(found, usual, rtol=0, atol=1e-6) == agrees
