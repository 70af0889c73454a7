"""Our solvers give the originals' numbers, and the harness that says so counts honestly."""

import json

import numpy as np
import pytest

from tests.golden import solver_cases as golden

QUIET = {"show": lambda line: None}


def misses(folder, every, family):
    lines = []
    golden.run_folder(folder, every, family, show=lines.append)
    return lines[:-2]  # without the family's line and the sum


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_some_cases_have_the_original_numbers(family):
    # A case of the adaptive family is a solution of its own, so fewer of them are quick.
    every = 16 if family == "adaptive" else 4
    assert misses(golden.HERE, every, family) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_all_cases_have_the_original_numbers(family):
    assert misses(golden.HERE, 1, family) == []


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Another folder of the same layout.

    It has a part of the cases, one field under a new name, and five samples of each. The adaptive
    family is left out: there the peers' steps depend on the whole batch, so a part of it ends
    elsewhere.
    """
    path = tmp_path_factory.mktemp("variant")
    manifest = json.loads((golden.HERE / "manifest.json").read_text(encoding="utf-8"))
    source = golden.Folder(golden.HERE)
    # The cases: every eleventh of one field, and two that draw noise
    known = set(golden.FAMILIES) - {"adaptive"}
    cases = [
        case
        for case in manifest["cases"]
        if case.get("field") == "gmm16" and case["family"] in known
    ]
    stochastic = [case for case in cases if case["family"] == "sde_multistep_vp"]
    cases = cases[::11] + stochastic[:2]
    # The field: its arrays that have a batch axis are cut to five samples.
    fields = {}
    batch_axis = {"sde_noise": 1, "xT": 0, "x0_data": 0, "noise": 0}
    for name, array in source.file("fields").items():
        if name.startswith("gmm16__"):
            part = name.removeprefix("gmm16__")
            if part in batch_axis:
                array = array.take(range(5), batch_axis[part])
            fields[f"renamed__{part}"] = array
    # The outputs: paths have the batch as their second axis.
    outputs = {}
    for i, case in enumerate(cases):
        array = source.array(case["file"], case["id"])
        is_path = case["family"] == "multistep_trajectory"
        outputs[f"case{i}"] = array[:, :5] if is_path else array[:5]
        case |= {"id": f"case{i}", "file": "all", "field": "renamed"}
    np.savez(path / "fields.npz", **fields)
    np.savez(path / "all.npz", **outputs)
    (path / "manifest.json").write_text(json.dumps(manifest | {"cases": cases}), encoding="utf-8")
    return path


def test_another_folder_of_the_layout_passes(variant):
    passed, failed = golden.run_folder(variant, **QUIET)
    assert failed == 0 and passed > 30


def spoilt(variant, tmp_path, change):
    """(passed, failed) of the folder `variant` with one case, which `change` has altered."""
    manifest = json.loads((variant / "manifest.json").read_text(encoding="utf-8"))
    case = manifest["cases"][0]
    output = change(case, golden.Folder(variant).array("all", case["id"]))
    np.savez(tmp_path / "all.npz", **{case["id"]: output})
    (tmp_path / "fields.npz").write_bytes((variant / "fields.npz").read_bytes())
    (tmp_path / "manifest.json").write_text(
        json.dumps(manifest | {"cases": [case]}), encoding="utf-8"
    )
    return golden.run_folder(tmp_path, **QUIET)


def test_a_wrong_number_fails(variant, tmp_path):
    def change(case, output):
        output.flat[3] += 2 * case["tol_abs"]
        return output

    assert spoilt(variant, tmp_path, change) == (0, 1)


def test_an_output_that_is_not_finite_fails(variant, tmp_path):
    assert spoilt(variant, tmp_path, lambda case, output: output * np.nan) == (0, 1)


def test_an_unknown_family_fails(variant, tmp_path):
    def change(case, output):
        case["family"] = "astrology"
        return output

    assert spoilt(variant, tmp_path, change) == (0, 1)


def test_an_unknown_option_fails(variant, tmp_path):
    def change(case, output):
        case["options"]["zeal"] = 3
        return output

    assert spoilt(variant, tmp_path, change) == (0, 1)


def test_a_wrong_count_of_evaluations_fails(variant, tmp_path):
    def change(case, output):
        case["nfe"] += 1
        return output

    assert spoilt(variant, tmp_path, change) == (0, 1)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ValueError, match="manifest.json, fields.npz"):
        golden.run_folder(tmp_path, **QUIET)


def test_a_family_without_cases_is_refused(variant):
    with pytest.raises(ValueError, match="family='nothing'"):
        golden.run_folder(variant, family="nothing", **QUIET)


def test_last_line_and_exit_code_of_the_command(variant, tmp_path, capsys):
    assert golden.main([str(variant), "--every", "9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")
    assert golden.main([str(tmp_path)]) == 1
    assert "no " in capsys.readouterr().err
