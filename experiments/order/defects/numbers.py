"""Errors with each defect and without it, on the same noise."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from configs.order import Config
from experiments.lab import solvers, statistics, subjects
from experiments.lab.statistics import geometric_mean
from experiments.lab.truth import Cell, make_cell
from experiments.order.defects.cases import CASES, HALF
from experiments.order.ledger import exact_plan
from flowjax import Plan, distances
from flowjax.schedules import Schedule

QUESTION = "defects"
ROUNDING = "data formed through the noise"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def check(config: Config) -> None:
    """Refuse a field that is not known."""
    subjects.check_fields("cause_fields", config.cause_fields)


def cells(config: Config) -> list[dict]:
    """One cell a defect, field, solver and number of evaluations."""
    keys = [
        {
            "question": QUESTION,
            "defect": case.defect,
            "whose": case.whose,
            "field": field,
            "solver": case.solver,
            "nfe": case.nfe,
        }
        for field in config.cause_fields
        for case in CASES
    ]
    # The arithmetic needs no run: one field is enough.
    keys += [
        {
            "question": QUESTION,
            "defect": ROUNDING,
            "whose": "NVlabs/Sana",
            "field": field,
            "solver": f"{dtype}, t = {t:g}",
        }
        for field in config.cause_fields[-1:]
        for dtype in DTYPES
        for t in (0.9, 0.99, 0.9997)
    ]
    return keys


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors before and after with the interval of their ratio.

    Where our plans refuse the defect, the values are the sentence that refuses it.
    """
    steps = config.reference_steps
    for name in dict.fromkeys(key["field"] for key in todo):
        field = subjects.make_field(name)
        cell = make_cell(field, config.seeds, config.samples, steps=steps)
        keys = [key for key in todo if key["field"] == name]
        # Refusals are results too: they stand in the rows with their sentence.
        built, refused = _build(field.schedule, keys)
        errors = _errors(cell, built, steps // 2)
        for i, key in enumerate(keys):
            if key["defect"] == ROUNDING:
                # The place of the solver holds "dtype, t = ..." here.
                dtype, _, t = key["solver"].partition(", t = ")
                yield key, _through_noise(cell, float(t), DTYPES[dtype])
            elif i in refused:
                after = float(distances.rms(errors[i, "after"]))
                yield key, {"after": after, "refused": refused[i]}
            else:
                yield key, _compared(errors[i, "before"], errors[i, "after"], cell.seed)


def _build(
    schedule: Schedule, keys: list[dict]
) -> tuple[dict[tuple[int, str], Plan], dict[int, str]]:
    """Build the plans of the cases of `keys`.

    Returns:
      ({(number of the key, "before" or "after"): plan}, {number of the key: refusal}).
    """
    built, refused = {}, {}
    for i, key in enumerate(keys):
        # The case of this key; its rounding cells have none.
        for case in CASES:
            if (key["defect"], key["solver"], key.get("nfe")) != (
                case.defect,
                case.solver,
                case.nfe,
            ):
                continue
            for when, option in (("before", case.before), ("after", case.after)):
                try:
                    built[i, when] = case.build(schedule, case.nfe, option)
                except ValueError as error:
                    refused[i] = str(error)
    return built, refused


def _errors(cell: Cell, built: dict[Any, Plan], steps: int) -> dict[Any, np.ndarray]:
    """{key: errors (B,)} of the plans; those that begin at HALF start from the exact state."""
    half = exact_plan(cell.field.schedule, 1.0, HALF, steps)
    halfway = np.asarray(solvers.solve(cell.field, cell.noise, half))
    errors = {}
    for from_half, start in ((False, cell.noise), (True, halfway)):
        own = {at: plan for at, plan in built.items() if (plan.t[0] == HALF) == from_half}
        if own:
            ends = solvers.run_plans(cell.field, start, list(own.values()))
            errors |= dict(zip(own, cell.errors(ends), strict=True))
    return errors


def _compared(before: np.ndarray, after: np.ndarray, seed: np.ndarray) -> dict:
    # Same noise before and after, so the ratio is paired.
    found = statistics.paired(before, after, seed)
    by_rms = {k.removeprefix("rms_"): v for k, v in found.items() if k.startswith("rms_")}
    return {
        "before": float(distances.rms(before)),
        "after": float(distances.rms(after)),
        **by_rms,
    }


def _through_noise(cell: Cell, t: float, dtype: Any) -> dict[str, float]:
    """RMS errors of a data prediction that is formed through the noise, and of a direct one.

        before: (x - t noise)/(1 - t) with noise = (1 - t) v + x,     after: x - t v.

    Each operation is rounded to `dtype`.
    """
    # At any t the exact field is defined on these points.
    x, v = jnp.asarray(cell.noise), cell.field.velocity(jnp.asarray(cell.noise), t)
    # In float64; what follows is rounded.
    exact = np.asarray(x - t * v)
    x, v = x.astype(dtype), v.astype(dtype)
    sigma, alpha = (jnp.asarray(c, jnp.float32).astype(dtype) for c in (t, 1 - t))
    # The noise prediction on the linear path.
    noise = alpha * v + x
    formed = {"before": (x - sigma * noise) / alpha, "after": x - sigma * v}
    scale = statistics.scale_of(cell.exact)
    return {
        when: float(distances.rms(statistics.row_norms(np.asarray(made, np.float64) - exact)))
        / scale
        for when, made in formed.items()
    }


# ---- the effect of each defect over the fields


def by_case(rows: list[dict]) -> list[dict]:
    """One line a defect, solver and number of evaluations: its effect over the fields."""
    table = []
    # A line a case, in the order of the rows.
    cases = dict.fromkeys((r["defect"], r["whose"], r["solver"], r.get("nfe")) for r in rows)
    for case in cases:
        own = [r for r in rows if (r["defect"], r["whose"], r["solver"], r.get("nfe")) == case]
        line = dict(zip(("defect", "in", "solver", "nfe"), case, strict=True))
        line["fields"] = len(own)
        after = geometric_mean(r["after"] for r in own)
        if "refused" in own[0]:
            table.append(line | {"effect": "refused", "after": after})
            continue
        # Above 1 the defect costs accuracy, below 1 it happens to help.
        ratios = [r["before"] / r["after"] for r in own]
        verdicts = [r.get("verdict", "arithmetic") for r in own]
        line |= {
            "before": geometric_mean(r["before"] for r in own),
            "after": after,
            "ratio": geometric_mean(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "worse": verdicts.count("worse"),
            "better": verdicts.count("better"),
            "effect": verdicts[0] if len(set(verdicts)) == 1 else "depends on the field",
        }
        table.append(line)
    return table
