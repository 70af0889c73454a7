"""Errors of every combination of mended causes, and the Shapley values of the causes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

import flowjax
from configs.order import Config
from experiments.lab import solvers, subjects
from experiments.lab.truth import fine_grid, make_cell
from flowjax import Plan, fields, grids, plans
from flowjax.schedules import Schedule

QUESTION = "ledger"
FACTORS = ("last jump", "first jump", "grid", "start", "weight", "lowering", "labels")
NONE, ALL = 0, (1 << len(FACTORS)) - 1  # indices of subsets: bit i is factor i
# Causes that order 2 has as well; the others are of order 3 alone.
OF_ORDER_2 = ("last jump", "first jump", "grid", "start", "labels")
# The ring with straightened paths: it serves the remainder only, and is left out of the averages.
COUPLED = "coupled ring"
COUPLING_OF = "ring"
TIE = 0.02
STARTS = 16  # a seed: all combinations on 16 are worth more than a few on 64
FINE = 12  # RK4 steps of an exact last step
AT = (10, 20, 50)  # evaluations, about
LEAST_NFE = 5  # fewer leave no inner steps to mend


# ---- Shapley values


def shapley(values: np.ndarray) -> np.ndarray:
    """Shapley values of a game of k players (Shapley 1953).

    The value of a player is its mean gain over all orders of joining:

        sum over S without i of |S|! (k-|S|-1)!/k! (v(S with i) - v(S)).

    The values sum to v(all) - v(none).

    Args:
      values: (2^k, ...) the worth v of each subset; bit i of the first index says whether player i
        takes part.

    Returns:
      (k, ...).
    """
    values = np.asarray(values, np.float64)
    count = len(values).bit_length() - 1
    if len(values) != 1 << count:
        raise ValueError(
            f"ledger.shapley: {len(values)} worths; wanted one for each subset, a power of two."
        )
    sets = np.arange(len(values))
    # How many players each subset has.
    size = np.array([int(s).bit_count() for s in sets])
    found = []
    for player in range(count):
        without = sets[sets >> player & 1 == 0]
        weight = [
            math.factorial(n) * math.factorial(count - n - 1) / math.factorial(count)
            for n in size[without]
        ]
        # What the player adds to each subset without it.
        gain = values[without | 1 << player] - values[without]
        found.append(np.tensordot(weight, gain, axes=1))
    return np.array(found)


# ---- cells


def check(config: Config) -> None:
    """Refuse a field that is not known, and evaluations that leave nothing to mend."""
    subjects.check_fields("cause_fields", config.cause_fields)
    if not any(n >= LEAST_NFE for n in config.nfe):
        raise ValueError(
            f"--config.nfe: {config.nfe!r}; the ledger wants at least one of them to be "
            f"{LEAST_NFE} or more."
        )


def ledger_nfe(config: Config) -> list[int]:
    """The config's evaluations nearest to 10, 20 and 50 (on a log scale)."""
    # Nearest on a log scale, each number once.
    enough = [n for n in config.nfe if n >= LEAST_NFE]
    return sorted({min(enough, key=lambda n: abs(math.log(n / at))) for at in AT})


def cells(config: Config) -> list[dict]:
    """One cell a field, shift and number of steps: all combinations are measured together.

    The combinations of order 2 have cells of their own, with the order in the key.
    """
    counts = ledger_nfe(config)
    chosen = [(name, counts) for name in config.cause_fields]
    if COUPLING_OF in config.cause_fields:
        chosen.append((COUPLED, counts[1:2]))
    keys = [
        {"question": QUESTION, "field": field, "shift": shift, "nfe": nfe}
        for field, counts in chosen
        for shift in config.shifts
        for nfe in counts
    ]
    # Order 3 comes first: a row of order 2 has the items of its keys too.
    return keys + [{**key, "order": 2} for key in keys if key["field"] != COUPLED]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): log mean squared errors by seed of every combination."""
    # Padding all inner plans to one length lets all step counts share a program.
    rows = max(ledger_nfe(config))
    steps = config.reference_steps
    for order, name in dict.fromkeys((key.get("order", 3), key["field"]) for key in todo):
        field = _field(config, name)
        cell = make_cell(field, config.seeds, min(config.samples, STARTS), steps=steps)
        of_seed = [cell.seed == seed for seed in range(config.seeds)]

        def by_seed(x: np.ndarray, cell=cell, of_seed=of_seed) -> list[float]:
            # Three digits of a logarithm: the rows hold 128 of these lists a cell.
            square = cell.errors([x])[0] ** 2
            return [round(float(np.log(np.mean(square[seed]))), 3) for seed in of_seed]

        for key in todo:
            if (key.get("order", 3), key["field"]) != (order, name):
                continue
            times = grids.uniform(key["nfe"], shift=key["shift"])
            ends = endpoints(field, cell.noise, times, rows, steps, order)
            logs = {case: by_seed(x) for case, x in ends.items()}
            values = {"log_squares": [logs[order, s] for s in subsets_of(order)]}
            if order == 3:
                values["lower"] = [
                    {"order": n, "shipped": logs[n, NONE], "mended": logs[n, ALL]} for n in (1, 2)
                ]
            yield key, values


def subsets_of(order: int) -> list[int]:
    """Indices of the combinations of the causes that order 2 or 3 has, in rising order."""
    concerned = FACTORS if order == 3 else OF_ORDER_2
    return [s for s in range(ALL + 1) if subset(s) <= set(concerned)]


def _field(config: Config, name: str) -> Any:
    if name == COUPLED:
        return fields.couple(subjects.make_field(COUPLING_OF), max(config.couplings))
    return subjects.make_field(name)


# ---- plans with some causes mended


def exact_plan(schedule: Schedule, start: float, end: float, steps: int, high: float = 6.0) -> Plan:
    """RK4 with `steps` steps from `start` to `end`, uniform in log-SNR.

    What lies beyond the log-SNR -7 and `high` is one step.
    """
    low, high = (np.clip(schedule.log_snr(np.array(t)), -7.0, high) for t in (start, end))
    # Steps at the ends may merge, so the plan is padded to a fixed length.
    grid = fine_grid(schedule, steps + 1, start=start, end=end, low=low, high=high)
    return plans.pad(plans.rk4(grid), 4 * steps)


def thousandths(times: np.ndarray, cut: str = "floor") -> np.ndarray:
    """Times as whole thousandths.

    They are cut down ("floor"), as diffusers casts its flow timesteps, or cut to the "nearest".
    """
    return np.floor(1000 * times + (1e-6 if cut == "floor" else 0.5)) / 1000


def subset(index: int) -> set[str]:
    """The names of the factors whose bit is set."""
    return {name for i, name in enumerate(FACTORS) if index >> i & 1}


def inner_plan(schedule: Schedule, times: np.ndarray, order: int, mended: set[str]) -> Plan:
    """The steps of DPM++ between the first time and the last jump, with some causes mended.

    Args:
      schedule: of the path.
      times: the complete grid (N+1,), which has N - 1 steps before the last jump.
      order: 1, 2 or 3; "weight" and "lowering" concern 3 alone.
      mended: names of `FACTORS`. With "first jump" the plan begins at t_1 instead of t = 1.

    Returns:
      A plan of at most N rows.
    """
    if "grid" in mended:
        # The same first and last times, the inner ones uniform in log-SNR.
        inner = grids.log_snr(schedule, len(times) - 3, start=times[1], end=times[-2])
        times = np.concatenate([times[:1], inner, times[-1:]])
    times = times[1:-1] if "first jump" in mended else times[:-1]
    if order == 1:
        plan = plans.euler(times)
    else:
        plan = plans.dpm_solver_pp(
            schedule,
            times,
            order,
            third_order="exact" if "weight" in mended else "published",
            start="singlestep" if "start" in mended else "cold",
            # Lowered as in SANA: the last step has order 2, and the jump that follows has order 1.
            final="auto" if "lowering" in mended else (2,),
        )
    return plan if "labels" in mended else plans.with_labels(plan, thousandths(plan.t))


@jax.jit
def _both_ends(
    field: Any, start: jax.Array, inner: Plan, t_last: float, labels: jax.Array, fine: Plan
) -> tuple[jax.Array, jax.Array]:
    """Endpoints of P inner plans, by the first-order jump and by fine steps.

    Args:
      field: has `velocity(x, t)`.
      start: (B, *D).
      inner: P plans that end at `t_last`.
      t_last: where the last jump starts.
      labels: (P,) the label times of the jumps.
      fine: from `t_last` to 0.

    Returns:
      Two arrays (P, B, *D).
    """

    def run(pair: tuple[Plan, jax.Array]) -> tuple[jax.Array, jax.Array]:
        plan, label_time = pair
        before = flowjax.sample(field.velocity, start, plan).x
        # x - t v(x, t) is the data prediction, so this is the first-order jump to t = 0.
        by_jump = before - t_last * field.velocity(before, label_time)
        return by_jump, flowjax.sample(field.velocity, before, fine).x

    return jax.lax.map(run, (inner, labels), batch_size=8)


def endpoints(
    field: Any,
    noise: np.ndarray,
    times: np.ndarray,
    rows: int,
    reference_steps: int,
    highest: int = 3,
) -> dict[tuple[int, int], np.ndarray]:
    """Endpoints of one order with every subset of its causes mended.

    Args:
      field: has `velocity(x, t)` and `schedule`.
      noise: (B, *D).
      times: the grid (N+1,), from 1 to 0.
      rows: to which inner plans are padded, so that all step counts share a program.
      reference_steps: twice the steps of an exact first step.
      highest: 2 or 3, the order whose subsets are run.

    Returns:
      {(order, index of the subset): endpoints (B, *D)}. Beside order 3, orders 1 and 2 have NONE
      and ALL.
    """
    schedule = field.schedule
    t_last = times[-2]
    fine = exact_plan(schedule, t_last, 0.0, FINE)
    first_exact = exact_plan(schedule, 1.0, times[1], reference_steps // 2)
    begun = solvers.solve(field, noise, first_exact)
    last_jump, first_jump = (1 << FACTORS.index(name) for name in ("last jump", "first jump"))

    found = {}
    for start, bit in ((noise, NONE), (begun, first_jump)):
        # Both states of the last jump come out of one run, so it is no choice of the inner plan.
        both = last_jump | first_jump
        cases = [(highest, s | bit) for s in subsets_of(highest) if not s & both]
        if highest == 3:
            cases += [(order, ALL - last_jump if bit else NONE) for order in (1, 2)]
        # One program for all combinations: their plans have one length.
        made = [inner_plan(schedule, times, order, subset(s)) for order, s in cases]
        labels = [t_last if "labels" in subset(s) else thousandths(t_last) for _, s in cases]
        inner = solvers.stacked(made, rows)
        by_jump, exactly = _both_ends(
            field, np.asarray(start), inner, t_last, np.array(labels), fine
        )
        for (order, s), jumped, exact in zip(cases, by_jump, exactly, strict=True):
            found[order, s] = np.asarray(jumped)
            found[order, s | last_jump] = np.asarray(exact)
    return found


# ---- the ledger


def of_order(rows: list[dict], order: int) -> list[dict]:
    """The rows with the combinations of this order, 2 or 3."""
    return [row for row in rows if row.get("order", 3) == order]


def log_errors(squares: Sequence, picks: np.ndarray | None = None) -> np.ndarray:
    """Log RMS error from log mean squares by seed.

    Args:
      squares: (..., S).
      picks: (R, S) seeds of R resamples, or None.

    Returns:
      (...), or (..., R) with picks.
    """
    squares = np.exp(np.asarray(squares))
    return 0.5 * np.log(np.mean(squares if picks is None else squares[..., picks], axis=-1))


def _picks(rows: list[dict], resamples: int = 400) -> np.ndarray:
    """Seeds drawn with return, (R, S); the same at every call, so that cells are drawn together."""
    seeds = len(rows[0]["log_squares"][0])
    return np.random.default_rng(0).integers(seeds, size=(resamples, seeds))


def ledger(rows: list[dict]) -> list[dict]:
    """[{cause, gain, low, high, fraction, its interval, least, most}], a line for each factor.

    `gain` is the log of what mending the factor divides the error by, mean over cells. `fraction`
    is its part of the gain of all factors, with the interval (low, high) over the seeds. `least`
    and `most` are the gains of single cells.
    """
    # Means over cells within each resample: the seeds are drawn for all cells together.
    picks = _picks(rows)
    logs = np.stack([log_errors(row["log_squares"]) for row in rows], axis=1)
    each = -shapley(logs)  # (factors, cells)
    drawn_logs = np.mean([log_errors(row["log_squares"], picks) for row in rows], axis=0)
    drawn = -shapley(drawn_logs)  # (factors, R)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1).tolist()
    fractions = np.quantile(drawn / drawn.sum(0), [0.025, 0.975], axis=1).T.tolist()
    mean = each.mean(1)
    return [
        {
            "cause": name,
            "gain": float(mean[i]),
            "low": low[i],
            "high": high[i],
            "fraction": float(mean[i] / mean.sum()),
            "fraction_interval": tuple(fractions[i]),
            "least": float(each[i].min()),
            "most": float(each[i].max()),
        }
        for i, name in enumerate(FACTORS)
    ]


def over_order_2(rows: list[dict]) -> dict | None:
    """What mending does for order 3 beyond what it does for order 2, cause by cause.

    The worth of a subset of causes is log(error of 3M / error of 2M) with these mended. The causes
    of order 3 alone leave the error of 2M as it is.

    Args:
      rows: of both orders; cells without a row of order 2 are left out.

    Returns:
      {bars, shipped, mended, common, cells}, or None without rows of order 2. `bars` has for each
      cause the gains of both orders and of the ratio, {cause, order 3, order 2, gain, low, high}.
      `shipped` and `mended` are mean ratios of the errors of 3M and 2M, and `common` is the part of
      the gain of 3M in logarithms that 2M has too.
    """
    second = {_cell_of(row): row for row in of_order(rows, 2)}
    both = [(row, second[_cell_of(row)]) for row in of_order(rows, 3) if _cell_of(row) in second]
    if not both:
        return None
    # The subset of order 2 that mends the same causes as a subset of order 3.
    place = {s: i for i, s in enumerate(subsets_of(2))}
    alone = sum(1 << i for i, name in enumerate(FACTORS) if name not in OF_ORDER_2)
    same = [place[s & ~alone] for s in range(ALL + 1)]
    picks = _picks([row for row, _ in both])

    def worth(order: int, picks: np.ndarray | None = None) -> np.ndarray:
        """Log errors by subset of all causes, mean over cells; with picks also by resample."""
        chosen = [pair[0] if order == 3 else pair[1] for pair in both]
        logs = np.mean([log_errors(row["log_squares"], picks) for row in chosen], axis=0)
        return logs if order == 3 else logs[same]

    gains = {order: -shapley(worth(order)) for order in (2, 3)}
    drawn = -shapley(worth(3, picks) - worth(2, picks))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1).tolist()
    ratio = worth(3) - worth(2)
    return {
        "bars": [
            {
                "cause": name,
                "order 3": float(gains[3][i]),
                "order 2": float(gains[2][i]),
                "gain": float(gains[3][i] - gains[2][i]),
                "low": low[i],
                "high": high[i],
            }
            for i, name in enumerate(FACTORS)
        ],
        "shipped": float(np.exp(ratio[NONE])),
        "mended": float(np.exp(ratio[ALL])),
        "common": float(gains[2].sum() / gains[3].sum()),
        "cells": len(both),
    }


def _cell_of(row: dict) -> tuple:
    return row["field"], row["shift"], row["nfe"]


def _against(row: dict, state: str, order: int, other: int) -> tuple[float, str]:
    """(ratio of the errors of two orders, verdict) with nothing ("shipped") or all ("mended")."""

    def squares(n: int) -> list[float]:
        if n == 3:
            return row["log_squares"][NONE if state == "shipped" else ALL]
        return next(lower[state] for lower in row["lower"] if lower["order"] == n)

    picks = _picks([row])
    # Paired: both orders in the same resampled seeds.
    drawn = log_errors(squares(order), picks) - log_errors(squares(other), picks)
    low, high = np.quantile(drawn, [0.025, 0.975])
    if high < -math.log(1 + TIE):
        verdict = "better"
    else:
        verdict = "worse" if low > math.log(1 + TIE) else "tie"
    return math.exp(log_errors(squares(order)) - log_errors(squares(other))), verdict


def by_cell(rows: list[dict]) -> list[dict]:
    """One line a cell: errors of 3M shipped and mended, orders against each other, the ledger."""
    table = []
    for row in rows:
        # By index of the subset: NONE first, ALL last.
        logs = log_errors(row["log_squares"])
        line = {name: row[name] for name in ("field", "shift", "nfe")}
        line |= {"3M shipped": math.exp(logs[NONE]), "3M mended": math.exp(logs[ALL])}
        for a, b in ((3, 2), (2, 1)):
            for state in ("shipped", "mended"):
                name = f"{a} / {b}, {state}"
                line[name], line[f"{name}: verdict"] = _against(row, state, a, b)
        table.append(line | dict(zip(FACTORS, (-shapley(logs)).tolist(), strict=True)))
    return table
