"""The folder of rows: what goes in comes out, nothing is lost silently, a run goes on."""

import collections
import dataclasses
import enum
import json
import logging
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import records
from flowjax.records import Records


@dataclasses.dataclass
class Inner:
    depth: int = 2


@dataclasses.dataclass
class Config:
    steps: tuple[int, ...] = (4, 8)
    seed: int = 0
    tolerance: float = math.inf
    inner: Inner = dataclasses.field(default_factory=Inner)


Point = collections.namedtuple("Point", "x y")
Colour = enum.Enum("Colour", "RED BLUE")


@pytest.mark.parametrize(
    "value, back",
    [
        # Scalars and arrays of numpy and JAX.
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float64(1e-300), 1e-300),
        (np.int64(2**40), 2**40),
        (np.bool_(True), True),
        (jnp.bfloat16(1.5), 1.5),
        (jnp.arange(3.0), [0.0, 1.0, 2.0]),
        (np.eye(2, dtype=np.int32), [[1, 0], [0, 1]]),
        (np.asarray(["a", "b"]), ["a", "b"]),
        # Containers, enums and paths.
        (Point(1, np.float32(2)), {"x": 1, "y": 2.0}),
        (Inner(), {"depth": 2}),
        (Colour.RED, "RED"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        ((1, (2, "ø")), [1, [2, "ø"]]),
        # What JSON does not have, and what resembles it.
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (np.asarray([1.0, np.inf]), [1.0, math.inf]),
        ("inf", "inf"),
        (None, None),
        (-0.0, -0.0),
    ],
)
def test_value_reads_back(tmp_path, value, back):
    given = Records(tmp_path, Config()).add({"cell": 1}, value=value)
    (row,) = records.read(tmp_path)
    assert row["value"] == back and type(row["value"]) is type(back)
    assert given == row


def test_nan_reads_back(tmp_path):
    Records(tmp_path, Config()).add({"cell": np.nan}, value=[np.float32("nan"), 1])
    (row,) = records.read(tmp_path)
    assert math.isnan(row["cell"]) and math.isnan(row["value"][0])


def test_lines_are_strict_json(tmp_path):
    Records(tmp_path, Config()).add({"cell": 1}, nan=math.nan, inf=np.inf)

    # json.loads calls this for NaN, Infinity and -Infinity.
    def refuse(constant):
        raise AssertionError(constant)

    for name in ("rows.jsonl", "config.json", "environment.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)


@pytest.mark.parametrize("value", [{1, 2}, 1j, object(), b"x", {3: 4}, np.zeros(2, complex), Inner])
def test_what_would_not_read_back_is_refused(tmp_path, value):
    held = Records(tmp_path, Config())
    with pytest.raises(ValueError, match="records: "):
        held.add({"cell": 1}, value=value)
    assert not (tmp_path / "rows.jsonl").exists()


def test_row_names_its_config_and_its_environment(tmp_path):
    row = Records(tmp_path, Config()).add({"cell": 1}, error=0.5)
    found = records.read_environments(tmp_path)[row["environment"]]
    assert found == records.plain(records.environment())
    versions = {"python", "jax", "jaxlib", "numpy"}
    assert versions | {"device_kind", "device_count", "x64", "commit", "dirty"} <= found.keys()
    assert row["config"] == json.loads((tmp_path / "config.json").read_text())["hash"]
    assert records.read_config(tmp_path) == records.plain(Config()) | {"tolerance": math.inf}


def test_another_configuration_is_refused_by_field(tmp_path):
    Records(tmp_path, Config()).add({"cell": 1}, error=0.5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError) as error:
        Records(tmp_path, Config(seed=3, inner=Inner(7)))
    text = str(error.value)
    # The place, the fields that differ, the way out; no field that is the same.
    assert str(tmp_path) in text
    assert "seed: 0 there, 3 now" in text and "inner.depth: 2 there, 7 now" in text
    assert "--workdir" in text and "--overwrite" in text
    assert "steps" not in text and "tolerance" not in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_fields_that_came_and_went_are_named(tmp_path):
    # NaN is the same as NaN here.
    Records(tmp_path, {"old": 1, "same": math.nan}).add({"cell": 1}, error=0.5)
    differ = "old: 1 there, no such field now; new: no such field there, 2 now"
    with pytest.raises(ValueError, match=differ):
        Records(tmp_path, {"new": 2, "same": math.nan})


def test_same_configuration_goes_on(tmp_path):
    first = Records(tmp_path, Config())
    first.add({"solver": "euler", "steps": (4, 4)}, error=0.5)
    # A tuple and a list are one configuration.
    again = Records(tmp_path, Config(steps=[4, 8]))
    assert again.rows == first.rows
    # A key is any part of a row.
    assert again.done({"steps": [4, 4], "solver": "euler"}) and again.done({"solver": "euler"})
    assert not again.done({"solver": "heun"}) and not again.done({"order": 1})
    again.add({"solver": "heun", "steps": (4, 4)}, error=0.1)
    assert again.done({"solver": "heun"})
    assert [row["solver"] for row in records.read(tmp_path)] == ["euler", "heun"]


def test_a_cell_is_measured_once(tmp_path):
    held = Records(tmp_path, Config())
    held.add({"cell": 1}, error=0.5)
    with pytest.raises(ValueError, match="measured already"):
        held.add({"cell": 1}, error=0.6)


@pytest.mark.parametrize(
    "key, values", [({"config": 1}, {}), ({"a": 1}, {"environment": 2}), ({"a": 1}, {"a": 2})]
)
def test_colliding_names_are_refused(tmp_path, key, values):
    with pytest.raises(ValueError, match="rename"):
        Records(tmp_path, Config()).add(key, **values)


def test_overwrite_forgets_the_rows_and_keeps_other_files(tmp_path):
    old = Records(tmp_path, Config())
    old.add({"cell": 1}, error=0.5)
    old.finish()
    (tmp_path / "mine.txt").write_text("keep")
    new = Records(tmp_path, Config(seed=1), overwrite=True)
    assert not new.rows and not new.finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "mine.txt"]
    assert records.read_config(tmp_path)["seed"] == 1


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_torn_last_line_is_dropped_and_measured_again(tmp_path, caplog, cut):
    held = Records(tmp_path, Config())
    for cell in range(3):
        held.add({"cell": cell}, error=0.5)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    # Reading drops the torn row; the next run measures it again.
    with caplog.at_level(logging.WARNING):
        assert [row["cell"] for row in records.read(tmp_path)] == [0, 1]
    assert "dropped" in caplog.text
    again = Records(tmp_path, Config())
    assert again.done({"cell": 1}) and not again.done({"cell": 2})
    again.add({"cell": 2}, error=0.5)
    assert records.read(tmp_path) == held.rows


def test_broken_line_within_is_an_error(tmp_path):
    held = Records(tmp_path, Config())
    held.add({"cell": 1}, error=0.5)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"cell":\n' + path.read_bytes())
    with pytest.raises(ValueError, match="line 1 of"):
        records.read(tmp_path)


def test_finished_until_a_row_is_missing(tmp_path):
    held = Records(tmp_path, Config())
    held.add({"cell": 1}, error=0.5)
    assert not held.finished
    held.finish({"seconds": np.float32(2)})
    # The rows may be lost afterwards, with the mark of success still there.
    assert Records(tmp_path, Config()).finished and records.read_summary(tmp_path)["seconds"] == 2
    (tmp_path / "rows.jsonl").write_bytes(b"")
    assert not Records(tmp_path, Config()).finished


def test_environment_of_a_resumed_run_is_added(tmp_path, monkeypatch):
    Records(tmp_path, Config()).add({"cell": 1}, error=0.5)
    monkeypatch.setattr(records, "environment", lambda: {"python": "other"})
    row = Records(tmp_path, Config()).add({"cell": 2}, error=0.5)
    found = records.read_environments(tmp_path)
    assert len(found) == 2 and found[row["environment"]] == {"python": "other"}


def test_rows_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="no config.json"):
        Records(tmp_path, Config())


def test_workdir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        Records(path, Config())


def test_bad_configuration_makes_no_directory(tmp_path):
    with pytest.raises(ValueError, match="set"):
        Records(tmp_path / "new", {"a": {1}})
    assert not (tmp_path / "new").exists()


def test_read_without_rows_names_the_directory(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        records.read(tmp_path)


def test_unrecorded_fields_are_no_part_of_the_configuration(tmp_path):
    @dataclasses.dataclass
    class Grown(Config):
        chosen: tuple[str, ...] = records.unrecorded(())

    # One that had no such field, one that leaves it empty, and one that chooses: one directory.
    Records(tmp_path, Config()).add({"cell": 1}, error=0.5)
    before = (tmp_path / "config.json").read_bytes()
    for config in (Grown(), Grown(chosen=("a", "b"))):
        assert Records(tmp_path, config).done({"cell": 1})
    assert (tmp_path / "config.json").read_bytes() == before


def test_table_gathers_in_order():
    rows = [{"s": "a", "n": n % 2, "e": n} for n in range(4)]
    assert records.table(rows, "s", "e") == {"a": [0, 1, 2, 3]}
    assert records.table(rows, ("s", "n"), "e") == {("a", 0): [0, 2], ("a", 1): [1, 3]}


def test_configuration_that_gained_fields_goes_on(tmp_path):
    first = Records(tmp_path, {"a": 1})
    first.add({"n": 1}, error=0.5)
    first.finish()
    Records(tmp_path, {"a": 1, "b": 2}).add({"n": 2}, error=0.25)
    grown = Records(tmp_path, {"a": 1, "b": 2, "c": 3})
    assert grown.done({"n": 1}) and not grown.finished

    # The fields that each earlier configuration lacked are written beside its hash.
    earlier = json.loads((tmp_path / "config.json").read_text())["earlier"]
    assert {row["config"] for row in grown.rows} == set(earlier)
    assert earlier[first.config_hash] == ["b", "c"]

    # A changed field and a lost field are another configuration.
    for other in ({"a": 2, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2}):
        with pytest.raises(ValueError, match="rows of another configuration"):
            Records(tmp_path, other)


# ---- files that are damaged

DAMAGED = ["", "<html>", "3", "[]", "{}", '{"hash": "0", "config": 3}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_configuration_is_refused_in_a_sentence(tmp_path, content):
    records.Records(tmp_path, {"steps": 3}).add({"seed": 0}, error=1.0)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="was not written by this program|no configuration"):
        records.Records(tmp_path, {"steps": 3})


@pytest.mark.parametrize("name", ["done.json", "environment.json"])
@pytest.mark.parametrize("content", ["", "<html>", "3"])
def test_another_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    read = {"done.json": records.read_summary, "environment.json": records.read_environments}[name]
    with pytest.raises(ValueError, match=f"records: .*{name} was not written by this program"):
        read(tmp_path)


@pytest.mark.parametrize("line", ["3", "[1]", "null", '"a"'])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(f'{{"seed": 0}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2 of .* is no row"):
        records.read(tmp_path)
