"""What the order page says follows from its rows, in every branch: made rows, and the kept ones."""

import pathlib
import re

import pytest

from experiments import order, report
from experiments.lab import claims as rule
from experiments.order import claims, clock, lead, ledger, nfe, smooth, tolerance
from experiments.order.ledger import numbers
from flowjax import records

ROOT = pathlib.Path(__file__).parents[3]
KEPT = ROOT / "results" / "order"
# A word in a sense that the glossary does not have.
PRIVATE = re.compile(r"\b(told|claimed|way round|shares? of)\b")


@pytest.fixture(scope="module")
def kept():
    return records.read(KEPT)


def pair(a, b, ratio, width=0.01):
    low, high = ratio * (1 - width), ratio * (1 + width)
    found = {"a": a, "b": b}
    for name in ("rms", "median"):
        found |= {f"{name}_ratio": ratio, f"{name}_low": low, f"{name}_high": high}
    return found


def matrix_row(ratio, nfe=40, a="AB3", b="AB2", shift=1.0, width=0.01):
    """A row of the matrix in which solver a has `ratio` times the error of b."""
    solvers = [{"solver": a, "rms": ratio, "median": ratio}, {"solver": b, "rms": 1, "median": 1}]
    return {
        "question": "nfe",
        "field": "ring",
        "shift": shift,
        "nfe": nfe,
        "solvers": solvers,
        "pairs": [pair(a, b, ratio, width)],
    }


# ---- order 3 against order 2


@pytest.mark.parametrize(
    ("ratio", "width", "verdict"),
    [(0.5, 0.01, "better"), (2.0, 0.01, "worse"), (1.0, 0.01, "tie"), (1.0, 0.5, "undecided")],
)
def test_a_cell_is_counted_by_its_interval(ratio, width, verdict):
    counts = nfe.tally([matrix_row(ratio, width=width)], "AB3", "AB2")
    assert counts == dict.fromkeys(nfe.VERDICTS, 0) | {verdict: 1}


@pytest.mark.parametrize(
    ("ratio", "word"), [(0.5, "third order pays**"), (2.0, "does not pay here**")]
)
def test_the_summary_says_whether_order_pays(ratio, word):
    (line,) = lead.lead([matrix_row(ratio)])
    assert word in line and ("jump" in line) is (ratio < 1)


@pytest.mark.parametrize(("ratio", "says"), [(0.5, "pays too"), (2.0, "does not pay")])
def test_the_summary_says_what_exact_weights_are_worth(ratio, says):
    (line,) = lead.lead([matrix_row(ratio, a=nfe.WARM, b="DPM++ 2M")])
    assert f"third order {says}**" in line


def test_the_exact_weights_start_cold_only_where_no_warm_start_was_measured():
    cold = matrix_row(0.5, a="DPM++ 3M exact", b="DPM++ 2M")
    warm = matrix_row(2.0, a=nfe.WARM, b="DPM++ 2M")
    for rows, solver in (([cold], "DPM++ 3M exact"), ([cold, warm], nfe.WARM)):
        (line,) = [line for line in nfe.families(rows) if line["shift"] == "all"]
        assert line["a"] == solver


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_section_has_a_figure_and_a_line_for_few_evaluations_alone(ratio):
    section = nfe.section([matrix_row(ratio, nfe=n) for n in (10, 20)], "a command")
    assert "With at most 20 evaluations" in section.answer
    assert "more than" not in section.answer.splitlines()[0]


def test_the_gain_of_what_is_published_is_none_of_an_order():
    rows = [matrix_row(0.5, a="DPM++ 3M published", b="DPM++ 2M")]
    section = nfe.section(rows, "a command")
    assert section.figures[0].title == "With more than 20 evaluations order 3 pays in no family"


# ---- the ledger


def ledger_row(gains, order=3, seeds=3, **key):
    """A row whose log mean square errors fall by 2 gains[cause] for each cause that is mended."""
    logs = [
        -2 * sum(gains.get(name, 0.0) for name in numbers.subset(index))
        for index in numbers.subsets_of(order)
    ]
    row = {"question": "ledger", "field": "ring", "shift": 1.0, "nfe": 10, **key}
    row["log_squares"] = [[log] * seeds for log in logs]
    if order == 3:
        row["lower"] = [
            {"order": n, "shipped": [0.0] * seeds, "mended": [-1.0] * seeds} for n in (1, 2)
        ]
        return row
    return row | {"order": order}


def test_the_ledger_splits_the_ratio_of_two_orders_by_cause():
    third = {"last jump": 0.5, "grid": 0.3, "weight": 0.1}
    second = {"last jump": 0.5, "grid": 0.1}
    found = ledger.over_order_2([ledger_row(third), ledger_row(second, order=2)])
    gains = {bar["cause"]: round(bar["gain"], 9) for bar in found["bars"]}
    assert gains == dict.fromkeys(ledger.FACTORS, 0.0) | {"grid": 0.2, "weight": 0.1}
    assert found["common"] == pytest.approx(0.6 / 0.9)
    assert found["shipped"] == pytest.approx(1.0)


@pytest.mark.parametrize("both", [True, False])
def test_the_ledger_speaks_of_order_2_only_where_it_was_measured(both):
    rows = [ledger_row({"last jump": 0.5, "grid": 0.3})]
    if both:
        rows.append(ledger_row({"last jump": 0.5}, order=2))
    section = ledger.section(rows, "a command")
    assert ("is order 2's too" in section.answer) is both
    (line,) = lead.lead(rows)
    assert ("order 2 loses most of that as well" in line) is both


# ---- networks


def clock_row(time, state, kind="network", field="net"):
    """Second differences that halving the step divides by `time` and by `state`."""
    lines = [
        {"h": 1 / n, "path": time**-i, "time alone": time**-i, "state alone": state**-i}
        for i, n in enumerate(clock.STEPS)
    ]
    return {"question": "clock", "kind": kind, "field": field, "differences": lines}


@pytest.mark.parametrize(("time", "state"), [(1.1, 4.0), (4.0, 4.0), (4.0, 1.1), (1.1, 1.1)])
def test_roughness_is_said_with_its_number_and_its_step_whatever_it_is(time, state):
    text = clock.answer([clock_row(time, state)])
    assert f"by **{report.sig(time)}** when the time moves" in text
    assert f"by {report.sig(state)} when the state moves" in text and "1/20" in text
    # No sentence denies what it says.
    assert "In 0 of" not in text
    verdicts = [rule.verdict(found) for found in claims.claims([clock_row(time, state)], CONFIG)]
    assert verdicts == ["holds" if time < 2 else "fails", "holds" if state > 2 else "fails"]


CONFIG = {"seeds": 10, "samples": 24, "network_starts": 12}


def test_networks_that_were_not_measured_are_not_spoken_of():
    assert clock.answer([clock_row(4.0, 4.0, kind="exact field")]) == ""
    assert "exact field" in clock.claim([clock_row(4.0, 4.0, kind="exact field")])


# ---- the kept page


def test_the_summary_has_at_most_seven_lines_each_with_its_claim_in_front(kept):
    lines = lead.lead(kept)
    assert 5 <= len(lines) <= report.LINES
    for line in lines:
        assert line.startswith("**") and len(line.split()) <= 45 and "[" not in line


@pytest.fixture(scope="module")
def found(kept):
    return claims.claims(kept, records.read_config(KEPT))


def test_the_findings_are_those_of_the_kept_rows(found):
    written = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert rule.markdown(found) in written


def test_every_claim_says_what_it_rests_on(found):
    assert {rule.verdict(claim) for claim in found} == set(rule.VERDICTS)
    for claim in found:
        for text in (claim.subjects, claim.starts, claim.seeds, claim.interval, claim.reopen):
            assert text
        assert claim.parts and claim.question in {module.QUESTION for module in order.QUESTIONS}
    # A network is one training seed, and says so.
    assert {claim.seeds for claim in found if "digits-" in claim.subjects} == {"1 each"}


def test_orders_stand_shift_by_shift(kept):
    line = smooth.order_of(smooth.orders(kept), "DPM++ 2M", 1.0)
    assert round(line["digits"], 2) == 1.91 and round(line["digits-smooth"], 2) == 2.08
    assert round(smooth.order_of(smooth.orders(kept), "DPM++ 2M", 3.0)["digits"], 2) == 0.57


def test_error_control_is_held_against_both_rivals(kept):
    own = [row for row in kept if row["question"] == tolerance.QUESTION]
    public = tolerance.at_public(own)
    assert [line["adaptive is"] for line in public] == ["worse"] * 9
    assert sum(ratio < 1 for ratio in tolerance.over_own_formulas(public)) == 5


@pytest.mark.slow  # draws every figure
def test_the_kept_page_has_no_private_word_and_a_claim_above_each_figure():
    private, untitled, padded = [], [], []
    for section in order.chapter(KEPT).sections:
        texts = [section.question, section.expected, section.answer, section.caveat]
        texts += [text for shown in section.figures for text in (shown.title, shown.caption)]
        private += [(section.question, word) for text in texts for word in PRIVATE.findall(text)]
        untitled += [section.question for shown in section.figures if not shown.title]
        # A table of one kind of rows is not padded with the columns of others.
        tables = section.table if isinstance(section.table, dict) else {"": section.table}
        for rows in tables.values():
            columns = {name for row in rows for name in row}
            padded += [section.question for row in rows if len(row) <= len(columns) / 2]
    assert not (private or untitled or padded), (private, untitled, padded)
