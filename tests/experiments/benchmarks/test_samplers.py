"""The timings of the samplers: the command works in small, and a wrong name is refused."""

import dataclasses

import pytest

from configs import bench
from experiments.benchmarks import samplers


def test_an_unknown_field_is_refused_before_anything_is_written(tmp_path):
    config = dataclasses.replace(bench.get_config("quick"), adaptive_fields=("rnig",))
    with pytest.raises(ValueError, match="adaptive_fields='rnig' is not known.*'ring'"):
        samplers.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    """Every part leaves rows, one program serves all plans, a second run measures nothing."""
    pytest.importorskip("diffrax")
    rows = samplers.run(bench.get_config("quick"), tmp_path)
    assert {row["part"] for row in rows} == set(samplers.PARTS)
    assert all(row["first"] > 0 and row["steady"] > 0 for row in rows)
    assert {row["compilations"] for row in rows if row["part"] == "ablation"} == {1}
    assert samplers.run(bench.get_config("quick"), tmp_path) == rows
    samplers.table(tmp_path)
    assert capsys.readouterr().out.count("\n") == len(rows)
