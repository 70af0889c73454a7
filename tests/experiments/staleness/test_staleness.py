"""The staleness experiment runs from configuration to page, and its page says what its rows say."""

import dataclasses
import html
import pathlib
import re

import numpy as np
import pytest

from configs.staleness import Config, get_config
from experiments import staleness
from experiments.staleness import law, orders, placement, verdict, warmup
from flowjax import records

SELECTIONS = (
    "viewer_networks",
    "fraction_networks",
    "threshold_networks",
    "linear_networks",
    "linear_steps",
    "linear_starts",
)
# Words that the glossary replaces: exchange or copy, fraction, method, part of an answer.
OLD_WORDS = ("told", "share", "shares", "way", "wiggle", "claimed", "hold's", "in all")
DEVICES = np.array([2.0, 4.0, 8.0, 16.0])
# A run of seconds, with every question.
SMALL = {
    "network": "random",
    "seeds": 2,
    "field_starts": 2,
    "network_starts": 2,
    "steps": (4, 6),
    "one_steps": 6,
    "solvers": ("Euler", "DPM++ 2M"),
    "devices": (2, 4),
    "warmups": (1, 3, 6),
    "placed": (2,),
    "order_steps": (16, 32),
    "pictures": 2,
    "reference_steps": 8,
    "fine_steps": 4,
    "emoji_fine_steps": 4,
    "compared_field_starts": 2,
    "compared_network_starts": 2,
    "compared_emoji_starts": 1,
    "compared_pixel_starts": 1,
    "compared_subjects": ("network",),
    "parts": (2, 4),
    "solver_steps": (4,),
    "tolerances": (0.05, 0.2),
    "precision_subjects": ("network",),
    "bits": (32, 4),
    "pixels": (8,),
    "gallery_pictures": 1,
    "viewer_networks": ("random",),
    "viewer_starts": 2,
    "viewer_steps": (4,),
    "viewer_devices": (2,),
    "fraction_networks": ("random",),
    "threshold_networks": ("random",),
    "linear_networks": ("random", "random-linear"),
    "linear_steps": (4,),
    "linear_starts": 2,
}


# ---- numbers that are read from rows


@pytest.mark.parametrize("name", law.LAWS)
def test_errors_that_follow_a_law_fit_it_best(name):
    errors = 0.03 * law.LAWS[name](DEVICES)
    misfits = {other: law.misfit(DEVICES, errors, other) for other in law.LAWS}
    assert min(misfits, key=misfits.get) == name
    assert misfits[name] == pytest.approx(0, abs=1e-12)


def test_a_misfit_is_the_relative_scatter():
    assert law.misfit(DEVICES, np.exp([0.1, -0.1, 0.1, -0.1]), "constant") == pytest.approx(0.1)


def test_slopes_are_read_off_the_last_pair():
    orders_made = {"synchronous": 1.0, "stale": 0.5}
    rows = [
        {
            "solver": "Euler",
            "mode": mode,
            "steps": steps,
            # The first point lies on no line with the others.
            "error": steps**-power if steps > 32 else 7.0,
        }
        for mode, power in orders_made.items()
        for steps in (32, 64, 128)
    ]
    (found,) = orders.slopes(rows)
    assert (found["synchronous"], found["stale"]) == pytest.approx((1.0, 0.5))


def test_steps_needed_are_interpolated():
    rows = [{"warmup": w, "sync_rms": e} for w, e in ((10, 0.0), (1, 0.8), (4, 0.5))]
    assert warmup.needed(rows, 0.8) == 1
    assert warmup.needed(rows, 0.65) == pytest.approx(2.5)
    assert warmup.needed(rows, 0.25) == pytest.approx(7)
    # Without the longest warm-up the tolerance is not reached.
    assert np.isnan(warmup.needed(rows[1:], 0.1))


@pytest.mark.parametrize("place", placement.PLACES)
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_every_place_has_its_count_and_the_first_step(place, count):
    chosen = placement.synchronous_steps(place, count, 10)
    assert chosen.sum() == count
    assert chosen[0]


def test_places_are_where_they_say():
    found = {
        place: np.flatnonzero(placement.synchronous_steps(place, 4, 12)).tolist()
        for place in placement.PLACES
    }
    assert found == {
        "start": [0, 1, 2, 3],
        "spread": [0, 3, 6, 9],
        "middle": [0, 5, 6, 7],
        "end": [0, 9, 10, 11],
    }


# ---- a complete run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The work directory of a small run of every question."""
    workdir = tmp_path_factory.mktemp("staleness")
    staleness.run(dataclasses.replace(get_config("quick"), **SMALL), workdir)
    return workdir


def of(workdir, question):
    """The rows of one question."""
    return [row for row in records.read(workdir) if row["question"] == question]


@pytest.mark.slow
def test_the_page_holds_every_question_and_the_verdict(run):
    page = pathlib.Path(staleness.make_report(run)[0]).read_text(encoding="utf-8")
    assert staleness.BADGE not in page
    for module in staleness.QUESTIONS:
        section = module.section(of(run, module.QUESTION), "command")
        assert html.escape(section.question) in page
        assert section.answer and section.expected and section.figures
        assert all(picture.title for picture in section.figures), module.QUESTION
    assert len(verdict.lead(records.read(run))) == 7


@pytest.mark.slow
def test_no_table_is_padded_and_no_cell_of_a_table_is_empty(run):
    for module in staleness.QUESTIONS:
        for title, rows in dict(module.section(of(run, module.QUESTION), "").table or {}).items():
            # One network has no other whose choice could be judged.
            if not rows:
                continue
            assert len({tuple(row) for row in rows}) == 1, (module.QUESTION, title)
            assert len(rows[0]) <= 11, (module.QUESTION, title)


@pytest.mark.slow
def test_the_words_of_the_page_are_those_of_the_glossary(run):
    """No private word, in the words that the rows of every question give."""
    text = " ".join(
        f"{section.question} {section.answer} {section.caveat} {section.expected} "
        + " ".join(f"{picture.title} {picture.caption}" for picture in section.figures)
        for section in staleness.chapter(run).sections
    )
    for word in OLD_WORDS:
        assert not re.search(rf"\b{word}\b", text), word


@pytest.mark.slow
def test_one_device_and_a_whole_warm_up_have_no_error(run):
    alone = [row["sync_rms"] for row in of(run, "error") if row["devices"] == 1]
    always = [row["sync_rms"] for row in of(run, "warmup") if row["warmup"] == 6]
    assert len(alone) == 8
    assert len(always) == 4
    assert max(alone) == 0
    assert max(always) < 1e-6  # other sums in another order, in float32
    assert min(row["sync_rms"] for row in of(run, "error") if row["devices"] > 1) > 1e-4


@pytest.mark.slow
def test_every_cell_of_comparison_has_ratio_one(run):
    base = [
        row for row in of(run, "pareto") if (row["forecast"], row["policy"]) == (0, "warm-up 1")
    ]
    base += [row for row in of(run, "precision") if row["bits"] == 32]
    # One subject; and five forecasts, on two and on eight devices.
    assert len(base) == 1 + 5
    assert all(row[name] == 1 for row in base for name in ("rms_ratio", "total_rms_ratio"))


@pytest.mark.slow
def test_a_question_without_rows_is_shown_from_kept_rows(run, tmp_path, monkeypatch):
    # A work directory that has the rows of one question.
    lines = (run / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name in ("config.json", "environment.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    own = "".join(line for line in lines if '"orders"' in line)
    (tmp_path / "rows.jsonl").write_text(own, encoding="utf-8")

    monkeypatch.setattr(staleness, "KEPT", run)
    sections = staleness.chapter(tmp_path).sections
    kept = [section for section in sections if section.badge == staleness.BADGE]
    (own,) = (section for section in sections if not section.badge)
    assert len(kept) == len(sections) - 1
    assert own.question == orders.section(of(run, "orders"), "").question
    # A kept section has the command of the kept rows, and says that it is kept.
    assert all("not measured in this run" in section.caveat for section in kept)


@pytest.mark.slow
def test_a_second_run_measures_nothing(run):
    before = (run / "rows.jsonl").read_bytes()
    # The selection of networks is no part of the recorded configuration.
    selected = {name: value for name, value in SMALL.items() if name in SELECTIONS}
    staleness.run(Config(**records.read_config(run), **selected), run)
    assert (run / "rows.jsonl").read_bytes() == before
