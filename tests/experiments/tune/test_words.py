"""Every branch of the page's words says what its rows say, on rows that were made for it."""

import pathlib
import re

import pytest

from experiments import tune
from experiments.tune import (
    QUESTIONS,
    floor,
    lead,
    optimizer,
    order,
    parts,
    quality,
    ratio,
    stale,
    transfer,
)
from flowjax import records
from tests.experiments.tune import rows as made

EVERY = [
    made.ratio_row(),
    made.ratio_row(steps=10, ratio=0.1),
    made.quality_row(0.05, 0.02),
    *(made.part_row(part, 0.5) for part in parts.PARTS),
    made.order_row("depth", 1, 0.2, 0.1),
    made.order_row("depth", 2, 0.1, 0.02),
    made.order_row("curvature", 0.05, 0.2, 0.05, model="ring-0.05"),
    made.order_row("curvature", 0.5, 0.02, 0.004, model="ring-0.5"),
    made.order_row("jump", 1.0, 0.02, 0.01),
    made.order_row("jump", 3.0, 0.2, 0.01),
    made.transfer_row("model", "ring", "ring", 0.25),
    made.transfer_row("model", "ring", "mixture-2", 3.0),
    made.optimizer_row(0.03),
    made.floor_row(),
    made.stale_row(2, 0.02),
]


def words_of(module, rows):
    """All text of a section, without marks."""
    section = module.section(rows, "command")
    return re.sub(r"[*`]", "", f"{section.answer} {section.caveat}")


@pytest.mark.parametrize("module", QUESTIONS, ids=lambda module: module.QUESTION)
def test_a_section_has_a_question_an_expectation_an_answer_and_a_figure(module):
    section = module.section(EVERY, "python -m experiments.tune")
    assert section.question.endswith("?") and section.expected and section.caveat
    assert section.answer and section.figures and section.table
    assert "nan" not in words_of(module, EVERY).split()


def test_the_lead_has_seven_lines_at_most_and_one_for_each_of_the_first_questions():
    lines = lead(EVERY)
    assert len(lines) == 7
    assert lines[0] == ratio.summary(EVERY)


# ---- ratio


def test_the_ratio_is_the_geometric_mean_over_cells():
    rows = [made.ratio_row(ratio=0.1), made.ratio_row(steps=10, ratio=0.4)]
    text = words_of(ratio, rows)
    assert "0.20 times the RMS error" in text
    assert "least at 6 evaluations (0.10)" in text
    assert "better in 2 of 2 cells and worse in 0" in text


def test_networks_and_fields_have_means_of_their_own():
    rows = [made.ratio_row(ratio=0.1), made.ratio_row("digits", ratio=0.3)]
    rows += [made.ratio_row("digits", ratio=0.6, guidance=1.5)]
    text = words_of(ratio, rows)
    assert "On networks the tuned table has 0.42 times" in text  # sqrt(0.3 x 0.6)
    assert "On exact fields the tuned table has 0.10 times" in text
    assert "geometric mean of 2 cells" in text and "geometric mean of 1 cell." in text
    assert "| digits, guidance 1.5 | 6 |" in ratio.findings(rows)


def test_one_cell_has_no_interval():
    assert "interval 0" not in words_of(ratio, [made.ratio_row()]).split("The interval")[0]


def test_tables_that_were_not_accepted_are_counted():
    rows = [made.ratio_row(), made.ratio_row(steps=10, ratio=1.0, accepted=False)]
    assert "in 1 tuning was not accepted" in words_of(ratio, rows)


@pytest.mark.parametrize(
    ("half", "says"),
    [
        ((0.0101, 0.04), "rounding does not touch the gain"),
        ((0.02, 0.04), "rounding costs a part of the gain"),
        ((0.05, 0.04), "rounding undoes the gain"),
        (None, None),
    ],
)
def test_bfloat16_is_told_by_its_growth_and_its_ratio(half, says):
    text = words_of(ratio, [made.ratio_row(half=half)])
    assert (says in text) if says else ("bfloat16" not in text)


def test_a_coarse_reference_is_admitted():
    assert "twentieth" in words_of(ratio, [made.ratio_row(doubling=0.01)])
    assert "twentieth" not in words_of(ratio, [made.ratio_row()])


def test_refused_cells_are_named_and_alone_they_have_a_section_of_their_own():
    assert "digits at 6" in words_of(ratio, [made.ratio_row(), made.refused_row()])
    section = ratio.section([made.refused_row()], "command")
    assert "None of 1 cells" in section.answer and not section.figures


# ---- quality


def test_quality_counts_cells_that_come_nearer_to_converged_samples():
    rows = [made.quality_row(0.05, 0.02), made.quality_row(0.03, 0.06, steps=4)]
    text = words_of(quality, rows)
    assert "in 1 of 2 cells" in text
    assert "with fewer than 6 evaluations in 0 of 1" in text


def test_quality_counts_draws_and_says_what_a_classifier_finds():
    mixed = made.quality_row(0.05, 0.02)
    mixed["values"]["tuned"] = [0.02, 0.09]  # nearer with the first draw alone
    network = made.quality_row(0.05, 0.06, measure="Frechet")
    network["accuracy"] = {"published": 0.5, "tuned": 0.75, "converged": 1.0}
    text = words_of(quality, [made.quality_row(0.05, 0.02), mixed, network])
    assert "in 1 with every draw of samples, and in 1 with none" in text
    assert "on networks in 0 of 1" in text
    assert "50.0% of published, 75.0% of tuned and 100.0% of converged" in text


def test_the_converged_samples_of_a_model_are_judged_once():
    judged, known = [], {}
    for steps in (4, 6):
        plan = {"published": f"p{steps}", "tuned": f"t{steps}", "converged": "fine"}
        found = quality._each(plan, known, lambda plan: judged.append(plan) or plan.upper())
        assert found == {kind: plan[kind].upper() for kind in quality.KINDS}
    assert judged == ["p4", "t4", "fine", "p6", "t6"]


@pytest.mark.parametrize(
    ("tuned", "says"),
    [((0.02, 0.02), "at every"), ((0.12, 0.12), "at no number"), ((0.02, 0.12), "at 6")],
)
def test_the_title_of_a_figure_of_quality(tuned, says):
    rows = [made.quality_row(0.05, tuned[0]), made.quality_row(0.05, tuned[1], steps=10)]
    assert says in quality.section(rows, "command").figures[0].markup


def test_quality_without_a_table_says_so():
    assert "None of 1 cells" in words_of(quality, [made.refused_row("quality")])


# ---- parts


@pytest.mark.parametrize(
    ("times", "weights", "says"), [(0.7, 0.4, "the weights give"), (0.3, 0.6, "the times give")]
)
def test_the_stronger_part_is_named(times, weights, says):
    found = {"times": times, "weights": weights, "times and weights": 0.2}
    assert says in words_of(parts, [made.part_row(*item) for item in found.items()])


@pytest.mark.parametrize(
    ("every", "says"), [(0.1, "lower the error further"), (0.4, "raise it"), (0.2, "by 0% only")]
)
def test_label_times_are_judged_beside_times_and_weights(every, says):
    found = {"times": 0.7, "weights": 0.4, "times and weights": 0.2, "all": every}
    assert says in words_of(parts, [made.part_row(*item) for item in found.items()])


def test_parts_have_a_verdict_for_fields_and_one_for_networks():
    named = ("times", "weights", "times and weights")
    rows = [made.part_row(part, ratio) for part, ratio in zip(named, (0.9, 0.3, 0.2), strict=True)]
    networks = [row | {"model": "digits"} for row in rows]
    networks[0] |= {"rms_ratio": 0.2}
    found = parts.summary(rows + networks)
    assert "On exact fields the **weights** give more" in found
    assert "On networks the **times** give more" in found


def test_parts_that_are_not_all_measured_give_no_verdict():
    assert "not all measured" in words_of(parts, [made.part_row("times", 0.7)])


# ---- order


def test_depth_gives_the_gain_of_all_outputs_and_of_the_last_one():
    rows = [made.order_row("depth", d, 0.1, e) for d, e in ((1, 0.1), (3, 0.02), (4, 0.018))]
    assert "0.18 times that with 1; the last one alone gives a factor 0.90" in words_of(order, rows)


@pytest.mark.parametrize(("narrow", "says"), [(0.05, "remains"), (0.004, "does not remain")])
def test_curvature_remains_if_the_tuned_error_grows_as_the_published_one_does(narrow, says):
    rows = [
        made.order_row("curvature", 0.5, 0.02, 0.005),
        made.order_row("curvature", 0.05, 0.2, narrow),
    ]
    assert f"Curvature {says}" in words_of(order, rows)


@pytest.mark.parametrize(("far", "says"), [(0.011, "does not remain"), (0.03, "remains in part")])
def test_the_last_jump_remains_if_tuned_errors_depend_on_the_first_grid(far, says):
    rows = [made.order_row("jump", 1.0, 0.02, 0.01), made.order_row("jump", 3.0, 0.2, far)]
    assert f"The last jump {says}" in words_of(order, rows)


@pytest.mark.parametrize(("rough", "says"), [(0.5, "remains"), (0.1, "does not remain")])
def test_roughness_is_read_from_twins_of_networks(rough, says):
    rows = [
        made.order_row("depth", 1, 0.1, 0.05),
        made.ratio_row("digits", ratio=rough),
        made.ratio_row("digits-smooth", ratio=0.1),
    ]
    assert f"Roughness in time {says}" in words_of(order, rows)


def test_order_with_one_setting_gives_no_verdict():
    assert "Too few settings" in words_of(order, [made.order_row("depth", 1, 0.1, 0.05)])


# ---- transfer


@pytest.mark.parametrize(("away", "says"), [(3.0, "does not carry over"), (0.5, "carries over")])
def test_a_table_carries_over_if_it_beats_the_published_plan_there(away, says):
    rows = [
        made.transfer_row("model", "ring", "ring", 0.2),
        made.transfer_row("model", "ring", "mixture-2", away),
    ]
    assert f"Between exact fields (mixture-2) a table {says}" in words_of(transfer, rows)


def test_networks_and_fields_have_verdicts_of_their_own():
    rows = [
        made.transfer_row("model", "ring", "mixture-2", 3.0),
        made.transfer_row("model", "digits", "digits-smooth", 0.5),
        made.transfer_row("model", "digits", "digits", 0.1),
    ]
    text = words_of(transfer, rows)
    assert "exact fields (mixture-2) a table does not carry over: on another one it has 3.0" in text
    assert "networks (digits-smooth) a table carries over: on another one it has 0.50" in text
    assert text.count("better in") == 2
    assert len(transfer.section(rows, "").figures) == 2


def test_guidance_and_interpolation_have_sentences_of_their_own():
    rows = [
        made.transfer_row("guidance", "digits", "digits", 0.2),
        made.transfer_row("guidance", "digits", "digits", 0.8, made_at=1.0, at=2.0),
        made.transfer_row("steps between", "ring", "ring", 0.5, made_at=[6, 10]),
        made.transfer_row("guidance between", "digits", "digits", 2.0, made_at=[1, 2], at=1.5),
    ]
    text = words_of(transfer, rows)
    assert "0.80 times the published error, and the scale's own table 0.20" in text
    assert "Interpolation between evaluations works: 0.50" in text
    assert "Interpolation between scales does not work: 2.0" in text


def test_transfer_without_pairs_gives_no_verdict():
    rows = [made.transfer_row("model", "ring", "ring", 0.2)]
    assert "No pair is measured" in words_of(transfer, rows)


# ---- optimizer, floor, stale


@pytest.mark.parametrize(
    ("adam", "says"), [(0.03, "3.0 times larger than"), (0.005, "2.0 times smaller than")]
)
def test_adam_is_compared_at_its_best_rate(adam, says):
    text = words_of(optimizer, [made.optimizer_row(adam)])
    assert says in text and "4.0 times the evaluations" in text


def test_the_floor_is_a_root_of_fractions_of_squares():
    row = made.floor_row()
    assert floor.total(row, "shared") == pytest.approx((0.04 + 0.01) / 3)
    # sqrt(0.05 / 3) and sqrt(0.03 / 3)
    text = words_of(floor, [row])
    assert "misses 13 % of" in text and "each sample miss 10 %" in text


def test_samples_of_few_numbers_have_no_floor_of_their_own():
    assert "Only samples of few numbers" in words_of(floor, [made.floor_row("ring", own=None)])


@pytest.mark.parametrize(("rms", "says"), [(0.02, "absorbs a part"), (0.07, "does not absorb")])
def test_staleness_is_absorbed_if_both_other_tables_are_worse(rms, says):
    assert says in words_of(stale, [made.stale_row(2, rms), made.stale_row(4, rms)])


def test_the_setting_nearest_to_the_plan_without_staleness_is_named_for_each_number_of_steps():
    rows = [
        made.stale_row(2, 0.02),
        made.stale_row(8, 0.006, forecast="free forecast", placed="worth"),
        made.stale_row(4, 0.008) | {"steps": 20},
    ]
    said = words_of(stale, rows)
    assert (
        "has 1.5 [1.4, 1.7] times at 10 steps of digits-smooth with free forecasts, one "
        "synchronous step placed by worth, 8 devices; 2.0 [1.8, 2.2] times at 20 steps of "
        "digits-smooth with held copies, one synchronous step, 4 devices." in said
    )


def test_the_table_and_the_list_of_the_findings_are_those_of_the_kept_rows():
    root = pathlib.Path(__file__).parents[3]
    text = (root / "docs" / "findings.md").read_text()
    rows = records.read(root / "results" / "tune")
    assert ratio.findings(rows) in text
    assert tune.findings(rows) in text
