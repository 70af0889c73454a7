"""The order experiment runs from configuration to page, and its page says what its rows say."""

import dataclasses
import html
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

from configs.order import Config, get_config
from experiments import book, order
from experiments.cli import images
from experiments.cli.run import cells_of, main
from experiments.order import convergence, nfe
from flowjax import records

CONFIG = str(pathlib.Path(order.__file__).parents[2] / "configs" / "order.py")


@pytest.fixture(scope="session")
def page(small_order_run):
    return pathlib.Path(order.make_report(small_order_run)[0]).read_text(encoding="utf-8")


# ---- a run of all questions, half a minute of compilation


# Other label times have tests of their own: the small run does not measure them.
MEASURED = [module for module in order.QUESTIONS if module is not order.label_times]


@pytest.mark.slow
@pytest.mark.parametrize("module", MEASURED, ids=lambda module: module.QUESTION)
def test_every_question_has_its_rows_and_its_section(module, small_order_run, page):
    rows = [row for row in records.read(small_order_run) if row["question"] == module.QUESTION]
    assert rows
    section = module.section(rows, "command")
    assert html.escape(section.question) in page
    assert section.answer and section.expected and section.figures


@pytest.mark.slow
def test_a_second_run_measures_nothing(small_order_run):
    before = (small_order_run / "rows.jsonl").read_bytes()
    config = Config(**records.read_config(small_order_run), label_networks=())
    order.run(config, small_order_run)
    assert (small_order_run / "rows.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_slopes_on_the_page_are_those_of_the_rows(small_order_run, page):
    rows = records.read(small_order_run)
    rows = [row for row in rows if row["question"] == convergence.QUESTION]
    key = {"path": "linear", "solver": "DPM++ 2M"}
    errors = {row["steps"]: row["error"] for row in rows if key.items() <= row.items()}
    by_hand = np.log2(errors[16] / errors[32])
    found = next(line for line in convergence.slopes(rows) if key.items() <= line.items())
    assert found["measured"] == pytest.approx(by_hand)
    assert f"{by_hand:.3g}"[:4] in re.sub(r"<[^>]+>", " ", page)


@pytest.mark.slow
def test_book_holds_the_chapter_and_the_samples(small_order_run, tmp_path):
    run = shutil.copytree(small_order_run, tmp_path / "run")
    command = "python -m experiments.order --config=c"
    records.Records(run, records.read_config(run)).finish({"command": command})
    settings = {
        "config": {"model": "digits", "solver": "dpm_solver_pp", "guidance": 1.5},
        "labels": [[3, "three"]],
        "nfe": 20,
        "seconds": {"first": 1.25},
        "command": "python -m experiments.sample",
    }
    images.save_png(tmp_path / "samples.png", images.grid([[[[0.0]]]]), settings)
    path = tmp_path / "book.html"
    book.main([str(path), "--samples", str(tmp_path), "--chapters", str(run)])
    page = path.read_text(encoding="utf-8")
    assert "How much is a solver&#x27;s order worth?" in page
    # Links lead to the sections of the full page.
    assert 'href="run/report.html#s1"' in page or 'href="run/report.html#s2"' in page
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


# ---- names are checked before anything is measured


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "solvers=('Euler','Eulr')",
            "--config.solvers: 'Eulr' is not known; did you mean 'Euler'",
        ),
        ("fields=('ring','rung')", "fields: 'rung' is not known; did you mean 'ring'"),
        ("cause_fields=('rung',)", "cause_fields: 'rung' is not known"),
        ("networks=('digits','nonesuch')", "networks: 'nonesuch'"),
        ("smooth=('nonesuch',)", "smooth: 'nonesuch'"),
        ("solvers=('no_such_module:plan',)", "there is no module 'no_such_module'"),
    ],
)
def test_a_misspelt_name_ends_in_a_sentence_before_any_row(option, message, tmp_path, capsys):
    argv = ["order", f"--config={CONFIG}:quick", f"--workdir={tmp_path}", f"--config.{option}"]
    with pytest.raises(SystemExit) as ended:
        main(order.run, argv=argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("variant", ["", "quick"])
def test_every_name_of_the_shipped_configurations_is_known(variant):
    assert cells_of(get_config(variant), order.QUESTIONS)


# ---- a plan and a field of one's own

MINE = """
from flowjax import fields, plans

def plan(grid):
    return plans.euler(grid)

def field(schedule):
    return fields.ring(schedule)
"""


def test_what_is_ones_own_is_measured_beside_the_others_under_the_name_given(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(
        get_config("quick"),
        seeds=2,
        samples=4,
        fields=("ring", "mine:field"),
        shifts=(1.0,),
        nfe=(8,),
        solvers=("Euler", "mine:plan"),
        added_solvers=("mine:plan", "Heun"),
        reference_steps=40,
    )
    nfe.check(config)
    rows = [{**key, **values} for key, values in nfe.measure(config, nfe.cells(config))]
    sys.modules.pop("mine")

    # What is added is measured beside DPM++ 2M alone, unless the matrix has it already.
    ring, own_field, *added = rows
    assert [row["added"] for row in added] == ["Heun", "Heun"]
    assert [line["solver"] for line in added[0]["solvers"]] == ["Heun"]
    assert [(pair["a"], pair["b"]) for pair in added[0]["pairs"]] == [("Heun", "DPM++ 2M")]
    assert own_field["field"] == "mine:field"
    assert own_field["solvers"] == ring["solvers"]
    # The plan is Euler's method by another name, so its numbers are those of Euler's method.
    lines = {line["solver"]: line for line in ring["solvers"]}
    assert lines["mine:plan"] == lines["Euler"] | {"solver": "mine:plan"}
    # DPM++ 2M was not asked for; it is the solver that a plan of one's own is compared with.
    assert set(lines) == {"Euler", "mine:plan", "DPM++ 2M"}
    section = nfe.section(rows, "a command")
    pairs = section.table["All pairs, by number of evaluations"]
    assert "mine:plan against DPM++ 2M" in {line["pair"] for line in pairs}
    # The first figure is of families of solvers, then there is one for each field.
    assert "mine:plan" in section.figures[1].markup
    assert "mine:field" in section.figures[2].caption
