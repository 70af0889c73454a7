"""The numbers of docs/warm-up.md are those of the kept rows."""

import pathlib
import re

import pytest

from experiments import staleness
from flowjax import records

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "warm-up.md"
# {words of the page: the policy's name in the rows}
POLICIES = {
    "the first": "warm-up 1",
    **{f"the first {count}": f"warm-up {count}" for count in (4, 8, 12)},
    **{f"the first and the last {count}": f"cool-down {count}" for count in (3, 7, 11)},
    "every fifth (4)": "every 5",
    "every second (10)": "every 2",
    **{f"by tolerance {bound}": f"tolerance {bound}" for bound in ("0.1", "0.08", "0.06")},
}
COLUMNS = [(subject, forecast) for subject in ("network", "emoji") for forecast in (0, "tuned")]


def lines(first):
    """The cells of the table whose heading begins with `first`, {first cell: the others}."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: values for name, *values in cells}


def rows_of(question):
    """The kept rows of a question."""
    return [row for row in records.read(staleness.KEPT) if row["question"] == question]


@pytest.mark.parametrize("name", POLICIES)
def test_the_errors_of_policies_are_kept_rows(name):
    found = {(row["subject"], row["forecast"], row["policy"]): row for row in rows_of("pareto")}
    for cell, column in zip(lines("synchronous steps")[name], COLUMNS, strict=True):
        row = found[(*column, POLICIES[name])]
        steps = re.search(r"\((\d+) steps\)", cell)
        assert cell.split()[0] == f"{row['sync_rms']:.3f}"
        assert not steps or int(steps[1]) == row["synced"]


def test_what_warm_ups_leave_on_devices_is_kept_rows():
    found = {
        (row["devices"], row["warmup"]): row["sync_rms"]
        for row in rows_of("warmup")
        if row["subject"] == "network"
    }
    heading, *table = lines("devices").items()
    warmups = [int(re.search(r"\d+", cell)[0]) for cell in heading[1]]
    for devices, cells in table[1:]:
        wanted = [found[int(devices), w] / found[int(devices), 1] for w in warmups]
        assert cells == [f"{value:.2f}" for value in wanted]
