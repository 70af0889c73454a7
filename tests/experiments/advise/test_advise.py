"""Advice: the sizes follow from the budget, and the advised setting is nearly the best one."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs.advise import Config
from experiments import advise
from experiments.advise import budget, devices, setting, strings, why
from experiments.cli import embeddings
from experiments.tune import unseen
from experiments.tune.ratio import numbers as published
from flowjax import (
    Cosine,
    Linear,
    compat,
    fields,
    grids,
    guidance,
    models,
    plans,
    sample,
    schedules,
)
from flowjax.tune import facts as tune_facts

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "models"


def config(**changes):
    return dataclasses.replace(Config(), **changes)


# ---- the budget


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("8min", 480), ("1.5 h", 5400)])
def test_budgets_are_times(text, seconds):
    assert budget.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "-3min", "0s", "8 fortnights"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match="wanted a time such as 90s"):
        budget.seconds_of(text)


def test_more_time_affords_more_starts_and_longer_tables():
    given = config(model="digits", devices=(1, 4))
    made = budget.subject_of(given)
    sizes = [
        budget.sizes(dataclasses.replace(given, budget=text), made, 3e-3)
        for text in ("4min", "20min", "6h")
    ]
    starts = [found["starts"] for found in sizes]
    assert starts == sorted(starts) and starts[-1] == given.most_starts
    assert sizes[-1]["tuned_steps"] == [8, 20]
    assert sizes[0]["device_starts"] <= sizes[-1]["device_starts"]


def test_a_budget_that_is_too_small_says_what_is_enough():
    given = config(model="digits", budget="10s")
    made = budget.subject_of(given)
    with pytest.raises(ValueError, match=r"so give \d+min or more"):
        budget.sizes(given, made, 3e-3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": "digitz"}, "digitz"),
        ({"steps": (2,)}, "at least 3"),
        ({"guidance": float("nan")}, "guidance"),
        ({"solvers": ("Eulr",)}, "Eulr"),
        ({"link": "pcie9"}, "pcie9"),
        ({"factor": 1.0}, "more than 1"),
        ({"budget": "soon"}, "soon"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_measured(changes, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        advise.run(config(**changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_finite_is_refused(monkeypatch):
    made = budget.subject_of(config(model="ring"))
    monkeypatch.setattr(budget.solvers, "solve", lambda *_: np.array([np.nan]))
    with pytest.raises(ValueError, match="not finite within 8 steps"):
        budget.seconds_each(made)


@pytest.mark.parametrize(
    ("folder", "match"),
    [
        ("sana_a", "draws for texts"),
        ("vae_kl", "autoencoder by itself"),
    ],
)
def test_a_model_that_it_cannot_judge_gets_a_sentence(folder, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        advise.run(config(model=str(GOLDEN / folder)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_draws_for_texts_is_measured_on_the_texts_of_a_file(tmp_path):
    random = np.random.default_rng(0)
    card = models.load(GOLDEN / "sana_a").card
    texts = models.Condition(
        random.standard_normal((2, 3, card.config.caption)),
        np.array([[1, 1, 1], [1, 0, 0]]),
        random.standard_normal((2, 2, card.config.caption)),
        np.array([[1, 1], [1, 0]]),
    )
    embeddings.write(tmp_path / "texts.npz", texts, ["a fox", "a tree"])
    given = config(
        model=str(GOLDEN / "sana_a"),
        embeddings=str(tmp_path / "texts.npz"),
        guidance=2.0,
        steps=(4,),
        solvers=("Euler", "AB2"),
        shifts=(1.0,),
        sizes={"starts": 4, "tuned_steps": []},
        plans=str(tmp_path),
    )
    budget.check(given)
    made = budget.subject_of(given)
    # Starts go round the texts.
    np.testing.assert_array_equal(made.labels(3).mask[2], texts.mask[0])
    ((_, row),) = setting.measure(given, setting.cells(given))
    assert np.isfinite(row["rms"])
    # Without guidance the negative texts take no part.
    assert budget.subject_of(dataclasses.replace(given, guidance=1.0)).texts.negative is None


def small_discrete(**changes):
    """The settings that measure a small DiT, which predicts noise on discrete steps."""
    given = config(
        model=str(GOLDEN / "dit_diffusers_a"),
        guidance=2.0,
        steps=(5,),
        devices=(1, 2),
        solvers=("Euler", "DPM++ 2M"),
        shifts=(1.0, 2.0),
        sizes={"starts": 8, "device_starts": 8, "tuned_steps": []},
    )
    return dataclasses.replace(given, **changes)


def test_a_network_of_discrete_steps_is_measured_on_its_own_path():
    """The errors are those of `flowjax.sample` with the network's own velocity and schedule."""
    given = small_discrete()
    jobs, errors = setting.measured(given, 5)
    made = budget.subject_of(given)
    model = models.load(given.model)
    test = unseen.unseen(budget.tuning_config(given, 8), made)
    noise, label = made.own_starts(given.seed + 1, 8), made.labels(8)
    velocity = guidance.classifier_free(
        lambda x, t, label: model.apply(model.params, x, t, label),
        *model.card.branches(label),
        2.0,
    )
    for (solver, shift, _), measured in zip(jobs, errors, strict=True):
        order = {"Euler": 1, "DPM++ 2M": 2}[solver]
        grid = grids.uniform(5, shift=shift)
        plan = plans.dpm_solver_pp(model.card.schedule, grid, order)
        ends = sample(velocity, noise, plan).x
        np.testing.assert_allclose(test.errors_of(np.asarray(ends)[None])[0], measured, rtol=1e-3)


@pytest.mark.slow
def test_a_network_of_discrete_steps_is_advised_on_devices():
    """Emulated on its own path, synchronous steps alone have the error of one device."""
    given = small_discrete()
    ((_, row),) = devices.measure(given, devices.cells(given))
    jobs, errors = setting.measured(given, 5)
    best = setting.summary(jobs, errors)["place"]
    assert row["own"] == pytest.approx(unseen.rms(errors[best]), rel=1e-3)


def test_noise_that_does_not_determine_the_data_is_refused(tmp_path):
    made = models.init(models.preset("digits"), jax.random.key(0), schedule=Cosine())
    models.save(tmp_path, made._replace(card=dataclasses.replace(made.card, prediction="noise")))
    with pytest.raises(ValueError, match="predicts noise on the path Cosine, which has alpha = 0"):
        budget.check(config(model=str(tmp_path)))


def test_guidance_without_a_null_label_is_refused(tmp_path):
    sizes = dataclasses.replace(models.preset("digits"), classes=1, has_null=False)
    models.save(tmp_path, models.init(sizes, jax.random.key(0)))
    budget.check(config(model=str(tmp_path)))
    with pytest.raises(ValueError, match="trained without a null label"):
        budget.check(config(model=str(tmp_path), guidance=2.0))


@pytest.mark.slow
def test_the_labels_are_no_cause_where_the_ledger_has_other_times():
    found = why.causes(small_discrete(steps=(6,)), budget.subject_of(small_discrete()))
    assert set(found["of"]) == {"last jump", "grid", "start"}


def test_tables_share_a_part_of_the_budget():
    assert 2 * budget.tuning_seconds(config(budget="100s"), 2) == pytest.approx(35)


def test_a_public_flow_network_is_measured(tmp_path):
    given = config(model=str(GOLDEN / "sit_original"), steps=(6,), solvers=("Euler", "AB2"))
    given = dataclasses.replace(given, shifts=(1.0,), sizes={"starts": 4, "tuned_steps": []})
    given.plans = str(tmp_path)
    ((_, row),) = setting.measure(given, setting.cells(given))
    assert row["solver"] == "AB2" and row["doubling"] < 1e-5
    # The plan that diffusers does not have is a file for this network.
    plan, facts = plans.load_with_facts(tmp_path / "sit_original-w1-6-published.json")
    assert tune_facts.check_fits(facts, models.load(given.model).card, 1.0, "the file") == []
    assert plan.nfe == 6 and facts["solver"] == "AB2"
    # The questions on devices and the gallery begin from the plan that was found.
    assert setting.best_published(given, 6)[:2] == (row["solver"], row["shift"])


# ---- what to set


def within_of_the_best(model, steps, folder, starts=24, others=64):
    """Error of the advised plan over that of the best plan of the matrix, on other starts."""
    sizes = {"starts": starts, "tuned_steps": []}
    given = config(model=model, steps=(steps,), sizes=sizes, plans=str(folder))
    ((_, row),) = setting.measure(given, setting.cells(given))
    made = budget.subject_of(given)
    tuning = dataclasses.replace(
        budget.tuning_config(given, others), unseen_seed=77, field_unseen=1024
    )
    test = unseen.unseen(tuning, made)
    jobs = published.candidates(tuning, made, steps)
    errors = [unseen.rms(line) for line in test.errors([plan for *_, plan in jobs])]
    return errors[row["place"]] / min(errors), row


def test_the_advised_setting_of_an_exact_field_is_within_5_percent_of_the_best(tmp_path):
    ratio, row = within_of_the_best("ring", 20, tmp_path)
    assert ratio < 1.05
    # There order wins by far, on a grid that is not shifted towards noise.
    by_name = {line["solver"]: line["rms"] for line in row["lines"]}
    assert by_name["Euler"] > 5 * row["rms"] and row["shift"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits", "digits-smooth"])
def test_the_advised_setting_of_a_network_is_within_5_percent_of_the_best(model, tmp_path):
    ratio, _ = within_of_the_best(model, 8, tmp_path)
    assert ratio < 1.05


@pytest.mark.parametrize("solver", ["DPM++ 2M", "UniPC2"])
def test_the_strings_for_diffusers_are_the_advised_solver(solver):
    field = fields.ring(Linear())
    noise = np.random.default_rng(0).normal(size=(64, 2))
    theirs = compat.diffusers_plan(strings.diffusers(solver, 2.0), 20)
    grid = grids.uniform(20, shift=2.0)
    ours = {
        "DPM++ 2M": plans.dpm_solver_pp(Linear(), grid, 2),
        "UniPC2": plans.unipc(Linear(), grid, 2),
    }[solver]
    ends = [np.asarray(sample(field.velocity, noise, plan).x) for plan in (theirs, ours)]
    # Their grid begins at t = 0.999 and their labels are whole numbers.
    assert np.sqrt(np.mean((ends[0] - ends[1]) ** 2)) < 0.02


@pytest.mark.parametrize(("solver", "shift"), [("Euler", 1.0), ("DPM++ 2M", 1.0), ("DPM++ 2M", 2)])
def test_the_strings_for_diffusers_are_the_advised_solver_on_discrete_steps(solver, shift):
    path = schedules.of_betas("linear", 1000, 1e-4, 0.02)
    given = strings.discrete(solver, path, "noise")
    times = {"steps": 20}
    if shift != 1:
        times = {"timesteps": strings.timesteps(20, shift, 1000)}
    theirs = compat.diffusers_plan(given, **times)
    order = given["solver_order"]
    ours = plans.dpm_solver_pp(path, grids.uniform(20, shift=shift), order)
    field, noise = fields.ring(path), np.random.default_rng(0).normal(size=(64, 2))
    ends = [np.asarray(sample(field.velocity, noise, plan).x) for plan in (theirs, ours)]
    # Only the shifted times are rounded, to whole steps of training.
    assert np.sqrt(np.mean((ends[0] - ends[1]) ** 2)) < (1e-9 if shift == 1 else 0.02)


def test_other_betas_are_written_one_by_one():
    path = schedules.of_betas("scaled_linear", 1000, 0.00085, 0.012)
    assert strings.discrete("Euler", path, "v")["trained_betas"] == path.betas.tolist()
    assert strings.discrete("Euler", path, "velocity") is None


def test_solvers_that_diffusers_lacks_go_there_by_a_plan_file():
    assert strings.diffusers("AB3", 1.0) is None
    flow, discrete = budget.subject_of(config()), budget.subject_of(small_discrete())
    assert "its plan m.json runs there" in strings.of(flow, "AB3", 1.0, 8, "m.json")[0]
    assert "torch_scheduler" in strings.of(discrete, "UniPC2", 2.0, 8, "m.json")[0]
    assert "set_timesteps(timesteps=[999," in strings.of(discrete, "DPM++ 2M", 2.0, 8, "")[0]
    assert '"sampling_algo": "flow_euler"' in strings.of(flow, "Euler", 3.0, 8, "")[1]


# ---- words, on made rows


def made_setting(steps, solver="AB2", second="AB3", ratio=0.8, high=0.9, tuned=None):
    lines = [
        {"solver": solver, "shift": 1.0, "rms": 0.01, "median": 0.009},
        {"solver": second, "shift": 0.7, "rms": 0.0125, "median": 0.01},
    ]
    return {
        "question": "setting",
        "model": "m",
        "guidance": 1.0,
        "steps": steps,
        "place": 0,
        "solver": solver,
        "shift": 1.0,
        "rms": 0.01,
        "lines": lines,
        "lead": {"ratio": ratio, "low": ratio - 0.1, "high": high},
        "all": [[solver, 1.0, 0.01], [solver, 2.0, 0.02], [second, 0.7, 0.0125]],
        "doubling": 1e-4,
        "starts": 24,
        "tuned": tuned,
        "strings": [f"settings of {solver}"],
    }


def test_a_lead_is_certain_only_where_its_interval_is_below_one():
    certain = dict(setting.advice([made_setting(8)]))["8 evaluations"]
    assert "0.80 times the error of AB3" in certain
    unsure = dict(setting.advice([made_setting(8, high=1.1)]))["8 evaluations"]
    assert "no better than AB3 for certain" in unsure


def test_what_a_tuned_table_gains_is_told_with_its_file():
    better = {"refused": None, "file": "plans/m.json", "ratio": 0.3, "low": 0.2, "high": 0.4}
    text = dict(setting.advice([made_setting(8, tuned=better)]))["8 evaluations"]
    assert "plans/m.json has 0.30 times this error" in text
    same = dict(setting.advice([made_setting(8, tuned=better | {"high": 1.2})]))
    assert "not better for certain" in same["8 evaluations"]
    refused = dict(setting.advice([made_setting(8, tuned={"refused": "rough"})]))["8 evaluations"]
    assert "did not converge" in refused


def test_the_steps_from_which_order_pays_are_those_where_order_3_leads():
    rows = [made_setting(8), made_setting(20, solver="AB3", second="AB2")]
    assert setting.more_order(rows) == "order 3 pays at 20 evaluations"
    assert setting.more_order(rows[:1]) == "order 3 does not pay up to 8 evaluations"


def made_why(clock="1000 t", fall=2.0, size=0.2):
    lines = [
        {"h": 1 / n, "path": 0.1, "time alone": size / fall**i, "state alone": 0.1 / 4**i}
        for i, n in enumerate((20, 40, 80, 160))
    ]
    turns = {"curvature": 0.5, "acceleration": 1.0}
    return {
        "question": "why",
        "clock": clock,
        "differences": lines,
        "causes": {
            "steps": 20,
            "error": 0.1,
            "of": {"last jump": 0.04, "grid": 0.09, "start": 0.1, "labels": 0.1},
        },
        "turns": {"1": turns, "4": {"curvature": 0.9, "acceleration": 2.0}},
    }


def test_a_rough_clock_is_named_with_what_to_do():
    text = " ".join(why.sentences(made_why()))
    assert "receives 1000 t and is rough in it" in text and "clock 1 - t" in text
    assert "An exact last step would divide the error" in text and "by 2.5" in text
    assert "guidance 4 bends them further" in text


def test_a_smooth_clock_is_called_smooth():
    assert "is smooth in the time" in why.sentences(made_why("1 - t", fall=4.0))[0]
    assert "is rough in the time" in why.sentences(made_why("1 - t"))[0]


def made_devices(total, stale_seconds=0.5, exact=1.0):
    lines = [
        {"forecast": name, "synchronous": w, "staleness": 0.1, "total": t, "seconds": stale_seconds}
        for name, w, t in (("held", 1, total), ("corrected", 4, total / 2))
    ]
    return {
        "question": "devices",
        "devices": 8,
        "refused": None,
        "solver": "AB2",
        "shift": 1.0,
        "steps": 20,
        "starts": 8,
        "own": 0.1,
        "lines": lines,
        "exact_seconds": {"gather": exact, "ulysses": 2 * exact, "ring": 3 * exact},
        "one_device": 4.0,
        "factor": 1.1,
        "link": "pcie4",
    }


def test_stale_attention_is_advised_only_where_it_is_quicker_and_near_enough():
    assert devices.choice(made_devices(0.1))["mode"] == "stale"
    assert devices.choice(made_devices(0.1, stale_seconds=2.0))["mode"] == "gather"
    far = made_devices(0.9)
    assert devices.choice(far)["mode"] == "gather" and devices.fewest(far) is None
    assert "no tried policy" in dict(devices.advice([far]))["8 devices"]


def test_sums_of_this_step_are_advised_where_stale_ones_are_little_faster():
    linear = {"sums": {"sums": 40_000, "keys": 80_000}, "exact_seconds": {"gather": 1.0}}
    little, much = (made_devices(0.1, stale_seconds=s) | linear for s in (0.95, 0.5))
    assert devices.choice(little)["mode"] == "gather"
    text = dict(devices.advice([little]))["8 devices"]
    assert "synchronous, because linear attention exchanges sums: 40 kB" in text
    assert "keys and values of as many tokens would be 80 kB" in text and "1.05 times" in text
    assert devices.choice(much)["mode"] == "stale"
    assert "because linear attention" not in dict(devices.advice([much]))["8 devices"]


def small_sana(width=16):
    return models.SanaConfig(
        (4, 4), channels=1, patch=1, width=width, depth=1, heads=2, cross_heads=2, classes=3
    )


def test_devices_are_refused_beyond_the_rows_of_linear_attention_and_the_tokens_of_softmax():
    assert devices.refusal(small_sana(), 4) == ""
    assert devices.refusal(small_sana(), 16) == "16 devices for 4 rows of tokens"
    digits = models.preset("digits")
    assert devices.refusal(digits, 64) == ""
    assert devices.refusal(digits, 65) == "65 devices for 64 tokens"


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_bytes_of_sums_are_those_of_their_sizes(guidance):
    found = devices.received(small_sana(), 2, guidance)
    branches = 1 if guidance == 1 else 2
    # Of one image: 2 heads of 8 x 9 sums, and two rows of four tokens with 2 F channels.
    rows = 2 * 4 * 2 * small_sana().hidden
    assert found["sums"] == branches * 4 * (2 * 8 * 9 + rows)
    # Keys and values of the other half of the tokens.
    assert found["keys"] == branches * 4 * 2 * 8 * 16


@pytest.mark.slow
def test_a_network_with_linear_attention_is_advised_on_devices(tmp_path):
    small = small_sana()
    made = models.init(small, jax.random.key(0), clock="1 - t")
    draw = np.random.default_rng(1).standard_normal
    # The last layer of a new network is zero.
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * draw(leaf.shape).astype(leaf.dtype), made.params)
    models.save(tmp_path, made._replace(params=moved))
    sizes = {"starts": 8, "device_starts": 2, "tuned_steps": []}
    given = config(model=str(tmp_path), steps=(4,), devices=(1, 2), link="nvlink4")
    given = dataclasses.replace(given, sizes=sizes, solvers=("AB2",), shifts=(1.0,))
    rows = [{**key, **values} for key, values in devices.measure(given, devices.cells(given))]
    assert {line["forecast"] for line in rows[0]["lines"]} == {"held"}
    assert list(rows[0]["exact_seconds"]) == ["gather"]
    assert "because linear attention exchanges sums" in dict(devices.advice(rows))["2 devices"]


def test_one_device_is_advised_where_more_are_slower():
    slow = made_devices(0.1, stale_seconds=9.0, exact=8.0)
    assert "stay on one device" in dict(devices.advice([slow]))["8 devices"]
    assert "2.0 times as long" in dict(devices.advice([slow]))["8 devices"]


def test_the_fewest_synchronous_steps_are_those_within_the_factor():
    assert devices.fewest(made_devices(0.1))["synchronous"] == 1
    few = devices.fewest(made_devices(0.2))
    assert (few["synchronous"], few["forecast"]) == (4, "corrected")


# ---- the whole command, in small


def test_the_command_ends_with_settings_and_a_page(tmp_path, capsys):
    given = config(
        model="ring", steps=(4,), budget="60s", shifts=(1.0, 0.7), solvers=("Euler", "AB2")
    )
    rows = advise.run(dataclasses.replace(given, tune=False), tmp_path)
    told = capsys.readouterr().out
    assert "affords 64 starts" in told and "4 evaluations" in told
    assert {row["question"] for row in rows} == {"budget", "setting", "why"}
    # Nothing is measured again.
    assert advise.run(dataclasses.replace(given, tune=False), tmp_path) == rows
