"""A plan as a file: the same bits, and a sentence for a file that is no complete plan."""

import json
import types

import numpy as np
import pytest

from flowjax import grids, plans, tune
from flowjax.schedules import Cosine, Linear

GRID = grids.uniform(6, shift=3.0)
PLANS = {
    "multistep": plans.dpm_solver_pp(Linear(), GRID, 2),
    "with a corrector": plans.unipc(Cosine(), grids.uniform(5, start=0.9), 3),
    "with substeps": plans.heun(GRID),
    "stochastic": plans.ddim(Linear(), GRID, eta=1.0),
    "padded": plans.pad(plans.euler(GRID), 9),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_comes_back_to_the_last_bit(kind, tmp_path):
    plan = PLANS[kind]
    plans.save(tmp_path / "plan.json", plan)
    for name, before, after in zip(plan._fields, plan, plans.load(tmp_path / "plan.json")):
        assert after.dtype == before.dtype and after.shape == before.shape, name
        assert after.tobytes() == np.ascontiguousarray(before).tobytes(), name  # -0.0 is not 0.0


def test_extreme_numbers_come_back_to_the_last_bit(tmp_path):
    numbers = np.array([-0.0, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3, -np.pi])
    plan = PLANS["multistep"]._replace(a=numbers)
    plans.save(tmp_path / "plan.json", plan)
    assert plans.load(tmp_path / "plan.json").a.tobytes() == numbers.tobytes()


def test_facts_come_back(tmp_path):
    facts = {"network": "digits", "guidance": 1.5, "errors": [0.1, 0.2], "name": "Größe"}
    plans.save(tmp_path / "plan.json", PLANS["multistep"], **facts)
    _, found = plans.load_with_facts(tmp_path / "plan.json")
    assert found == facts


def test_a_file_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    path = tmp_path / "plan.json"
    plan = PLANS["multistep"]
    plans.save(path, plan)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="facts cannot be written as JSON"):
        plans.save(path, plan, network=object())
    with pytest.raises(ValueError, match="facts cannot be written as JSON"):
        plans.save(path, plan, error=float("nan"))
    with pytest.raises(ValueError, match="plans.save: coefficient a of row 1.* is not finite"):
        plans.save(path, plan._replace(a=np.full(plan.rows, np.inf)))
    with pytest.raises(ValueError, match=r"column b has shape \(5, 4\); wanted \(6, 4\)"):
        plans.save(path, plan._replace(b=plan.b[1:]))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept, tmp_path):
    path = tmp_path / "plan.json"
    plans.save(path, PLANS["multistep"])
    written = path.read_bytes()
    path.write_bytes(written[: int(kept * len(written))])
    with pytest.raises(ValueError, match="plan.json is no complete JSON file"):
        plans.load(path)


def edited(content, *place, value=None):
    """The content with the entry at `place` replaced, or removed without a value."""
    at = content
    for key in place[:-1]:
        at = at[key]
    if value is None:
        del at[place[-1]]
    else:
        at[place[-1]] = value


MISTAKES = {
    "another kind of file": (("format",), "weights", 'wanted "format": "flowjax plan"'),
    "another version": (("version",), 2, "has version 2 .* reads version 1"),
    "no columns": (("columns",), None, "has no columns"),
    "a column is missing": (("columns", "q"), None, r"lacks the columns \['q'\]"),
    "a column is unknown": (("columns", "e"), [1.0], r"unknown columns \['e'\]"),
    "a row is missing": (("columns", "q"), [1.0] * 5, r"column q has shape \(5,\)"),
    "a lag is missing": (("columns", "b"), [[1.0] * 3] * 6, r"column b has shape \(6, 3\)"),
    "rows of unequal length": (("columns", "b"), [[1.0], [1.0, 2.0]], "is not an array of float"),
    "no rows": (("columns", "t"), [], r"column t has shape \(0,\)"),
    "text for a number": (("columns", "q", 0), "1.0", "column q is not an array of float"),
    "a number for a flag": (("columns", "counted", 0), 1, "column counted is not an array of bool"),
    "not finite": (("columns", "q", 0), float("nan"), "row 1.* is not finite; save the plan again"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_is_no_plan_is_refused_in_a_sentence(mistake, tmp_path):
    path = tmp_path / "plan.json"
    plans.save(path, PLANS["multistep"])
    place, value, sentence = MISTAKES[mistake]
    content = json.loads(path.read_text())
    edited(content, *place, value=value)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^plans.load: .*plan.json.*{sentence}"):
        plans.load(path)


@pytest.mark.parametrize("facts", [None, [], "digits"])
def test_facts_that_are_no_dict_are_refused_in_a_sentence(facts, tmp_path):
    path = tmp_path / "plan.json"
    plans.save(path, PLANS["multistep"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": facts}))
    with pytest.raises(ValueError, match="plan.json has the facts .*; wanted a JSON object"):
        plans.load_with_facts(path)


@pytest.mark.parametrize("guidance", [None, "1.5", [1.5]])
def test_a_guidance_that_is_no_number_is_refused_in_a_sentence(guidance):
    config = types.SimpleNamespace(channels=1)
    card = types.SimpleNamespace(name="toy", schedule=Linear(), clock_name="t", config=config)
    facts = tune.facts_of(card, 1.5) | {"guidance": guidance}
    with pytest.raises(ValueError, match="here: the plan was made for guidance=.*is no number"):
        tune.check_fits(facts, card, 1.5, "here")
