"""The order experiment runs from configuration to page, and its page says what its rows say."""

import html
import pathlib
import re
import shutil

import numpy as np
import pytest

from configs.order import Config
from experiments import book, order
from experiments.cli import images
from experiments.order import claims, lab
from flowjax import Linear, plans, records

pytestmark = pytest.mark.slow  # all questions, on small sizes: half a minute of compilation


@pytest.fixture(scope="session")
def page(small_order_run):
    return pathlib.Path(order.make_report(small_order_run)[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", order.QUESTIONS, ids=lambda module: module.QUESTION)
def test_every_question_has_its_rows_and_its_section(module, small_order_run, page):
    rows = [row for row in records.read(small_order_run) if row["question"] == module.QUESTION]
    assert rows
    section = module.section(rows, "command")
    assert html.escape(section.question) in page
    assert section.answer and section.expected and section.figures


def test_a_second_run_measures_nothing(small_order_run):
    before = (small_order_run / "rows.jsonl").read_bytes()
    order.run(Config(**records.read_config(small_order_run)), small_order_run)
    assert (small_order_run / "rows.jsonl").read_bytes() == before


def test_the_slopes_on_the_page_are_those_of_the_rows(small_order_run, page):
    rows = [row for row in records.read(small_order_run) if row["question"] == claims.QUESTION]
    own = [r for r in rows if (r["path"], r["solver"]) == ("linear", "DPM++ 2M")]
    errors = {r["steps"]: r["error"] for r in own}
    by_hand = np.log2(errors[16] / errors[32])
    found = next(
        r for r in claims.slopes(rows) if (r["path"], r["solver"]) == ("linear", "DPM++ 2M")
    )
    assert found["measured"] == pytest.approx(by_hand)
    assert f"{by_hand:.3g}"[:4] in re.sub(r"<[^>]+>", " ", page)


@pytest.mark.parametrize("name", lab.SOLVERS)
@pytest.mark.parametrize("nfe", [4, 7, 20])
def test_plan_of_takes_all_the_evaluations_it_may(name, nfe):
    solver = lab.SOLVERS[name]
    plan = lab.plan_of(name, Linear(), lab.shifted(3.0), nfe)
    if plan is None:  # too few for the order in its name
        assert solver.rows(solver.order) > nfe
        return
    assert plan.nfe == solver.rows(plan.steps) <= nfe < solver.rows(plan.steps + 1)


def test_padded_and_grouped_plans_end_where_single_ones_do():
    field = lab.make_field("ring")
    noise = np.random.default_rng(0).standard_normal((3, 2))
    many = [plans.euler(np.linspace(1, 0, n + 1)) for n in (3, 9, 4, 20, 8, 9, 9, 5, 6, 7, 8, 3)]
    together = lab.run_plans(field, noise, many)
    alone = np.stack([lab.run_plans(field, noise, [plan])[0] for plan in many])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_the_reference_is_the_closed_form_of_one_gaussian():
    field = lab.make_field("power law")
    noise = np.random.default_rng(0).standard_normal((4, 64))
    found = lab.reference(field, noise, 200)
    exact = np.asarray(field.flow(noise, 1.0, 0.0))
    assert lab.row_norms(found.x - exact).max() < 20 * max(found.doubling, 1e-12) * lab.scale_of(
        exact
    )
    assert found.doubling < 1e-4


def test_book_holds_the_chapter_and_the_samples(small_order_run, tmp_path):
    run = shutil.copytree(small_order_run, tmp_path / "run")
    records.Records(run, records.read_config(run)).finish(
        {"command": "python -m experiments.order --config=c"}
    )
    settings = {
        "config": {"model": "digits", "solver": "dpm_solver_pp", "guidance": 1.5},
        "labels": [[3, "three"]], "nfe": 20, "seconds": {"first": 1.25}, "command": "python -m experiments.sample",
    }  # fmt: skip
    images.save_png(tmp_path / "samples.png", images.grid([[[[0.0]]]]), settings)
    path = tmp_path / "book.html"
    book.main([str(path), "--samples", str(tmp_path), "--chapters", str(run)])
    page = path.read_text(encoding="utf-8")
    assert "How much is a solver&#x27;s order worth?" in page
    assert "20 evaluations of dpm_solver_pp" in page and "A row a label: three" in page


def test_what_is_no_run_has_no_book(tmp_path, capsys):
    for given in (
        ["--chapters", str(tmp_path)],
        ["--samples", str(tmp_path), "--chapters", str(tmp_path)],
    ):
        with pytest.raises(SystemExit) as ended:
            book.main([str(tmp_path / "book.html"), *given])
        assert ended.value.code == 2 and "first." in capsys.readouterr().err
    assert not (tmp_path / "book.html").exists()
