"""(c) Which number, known beforehand or free while sampling, tells whether a higher order will pay?

The bend of a path is made a dial: the width of the ring's modes, the coupling of noise and data, the schedule. A score
is good if cells where the higher order loses have the higher score: the area under its ROC curve (AUC) is the chance
that a losing cell scores above a winning one. 0.5 is a coin, and below 0.5 the score points the wrong way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import flowjax
from experiments import report
from experiments.order import lab
from flowjax import Cosine, Linear, fields, geometry, plans

QUESTION = "curvature"
SEEDS = 5  # at most; the anchors are dear
SCHEDULES = {"linear": Linear(), "cosine": Cosine()}
SOLVERS = {  # one family, so that the orders alone differ; order 1 is DDIM, and Euler on the linear path
    "DPM++ 1": lambda schedule, grid: plans.dpm_solver_pp(schedule, grid, 1),
    "DPM++ 2M": lambda schedule, grid: plans.dpm_solver_pp(schedule, grid, 2),
    "DPM++ 3M exact": lambda schedule, grid: plans.dpm_solver_pp(schedule, grid, 3),
    "DPM++ 3M published": lambda schedule, grid: plans.dpm_solver_pp(
        schedule, grid, 3, third_order="published"
    ),
}
WATCHED = "DPM++ 2M"  # the run whose own evaluations give the free scores
PAIRS = (
    ("DPM++ 2M", "DPM++ 1"),
    ("DPM++ 3M exact", "DPM++ 2M"),
    ("DPM++ 3M published", "DPM++ 2M"),
)
MAIN = PAIRS[1]

SCORES = {  # name: where it comes from. Larger is meant to say that the higher order loses.
    "straightness": "path", "length": "path", "acceleration": "path", "curvature": "path", "torsion": "path",
    "acceleration x step": "path and grid", "curvature x step": "path and grid", "stiffness x step": "path and grid",
    "step": "grid", "typical span": "grid", "largest span": "grid",
    "rho_1": "run", "rho_2": "run", "rho_3": "run", "rho_2 x rho_3": "run", "added by order 3": "run",
    "span where it bends": "run", "jump share": "run",
}  # fmt: skip
DRAWN = ("straightness", "acceleration x step", "stiffness x step", "rho_2", "rho_3")


def cells(config):
    """One cell a dial setting, grid and number of evaluations."""
    dials = [("ring", std, "linear", rho) for std in config.stds for rho in config.couplings]
    dials += [("ring", std, "cosine", 0.0) for std in config.stds]
    for name in config.fields:
        if name != "ring":
            dials += [
                (name, None, "linear", rho)
                for rho in (config.couplings if name.startswith("mixture") else (0.0,))
            ]
    return [
        {
            "question": QUESTION,
            "field": field,
            "std": std,
            "path": path,
            "coupling": rho,
            "grid": grid,
            "nfe": nfe,
        }
        for field, std, path, rho in dials
        for grid in [f"shift {shift:g}" for shift in config.shifts] + ["log-SNR"]
        for nfe in config.dial_nfe
    ]


def measure(config, todo):
    """Yield (key, values): errors of all orders, their comparisons, and every score, dial by dial."""
    most = max(config.dial_nfe)
    for dial in dict.fromkeys(_dial(key) for key in todo):
        name, std, path, rho = dial
        field = lab.make_field(name, SCHEDULES[path], **({} if std is None else {"std": std}))
        if path == "linear" and isinstance(field, fields.GaussianMixture):
            field = fields.couple(field, rho)  # one type whatever the coupling, so one program
        cell = lab.make_cell(
            field, min(config.seeds, SEEDS), config.samples, steps=config.reference_steps
        )
        bent = path_scores(field, cell.noise)
        keys = [key for key in todo if _dial(key) == dial]
        jobs = [(key, solver) for key in keys for solver in SOLVERS]
        made = [SOLVERS[solver](field.schedule, _grid(key, field.schedule)) for key, solver in jobs]
        ends, seen = _run_plans(
            field, cell.noise, made, [solver == WATCHED for _, solver in jobs], most
        )
        errors = cell.errors(ends)
        for key in keys:
            mine = {solver: i for i, (other, solver) in enumerate(jobs) if other is key}
            yield (
                key,
                {
                    "solvers": [
                        {"solver": s, **lab.summary(errors[i], cell.seed)} for s, i in mine.items()
                    ],
                    "pairs": [
                        {"a": a, "b": b, **lab.paired(errors[mine[a]], errors[mine[b]], cell.seed)}
                        for a, b in PAIRS
                    ],
                    "scores": cell_scores(
                        field.schedule, made[mine[WATCHED]].grid, bent, seen[mine[WATCHED]], cell
                    ),
                    "doubling": cell.doubling,
                },
            )


def _dial(row):
    return row["field"], row["std"], row["path"], row["coupling"]


def _grid(key, schedule):
    kind, _, shift = key["grid"].partition(" ")
    return (
        lab.log_snr_with_ends(schedule)(key["nfe"])
        if kind == "log-SNR"
        else lab.shifted(float(shift))(key["nfe"])
    )


# ---- what is measured


@jax.jit
def _run(field, noise, stacked):
    """Endpoints (P, B, *D) and the data predictions (P, rows, B, *D) of the evaluations that each run makes anyway."""

    def run(plan):
        def watched(x, t, carry):
            row, seen = carry
            velocity = field.velocity(x, t)
            p, q = field.schedule.prediction_weights("data", t)
            return velocity, (row + 1, seen.at[row].set(p * x + q * velocity))

        start = (0, jnp.zeros((plan.rows, *noise.shape), noise.dtype))
        solution = flowjax.sample(watched, noise, plan, carry=start)
        return solution.x, solution.carry[1]

    return jax.vmap(run)(stacked)


def _run_plans(field, noise, made, watch, most):
    """Endpoints of many plans, and of those to `watch` the data predictions: one program for long, one for short ones."""
    ends, seen = [None] * len(made), [None] * len(made)
    for low, length in ((0, max(most // 3, 1)), (max(most // 3, 1), most)):
        members = [i for i, plan in enumerate(made) if low < plan.rows <= length]
        for first in range(0, len(members), 8):
            group = members[first : first + 8]
            padded = [plans.pad(made[i], length) for i in group]
            padded += [padded[-1]] * (8 - len(group))
            found = _run(field, noise, jax.tree.map(lambda *columns: np.stack(columns), *padded))
            x, data = (np.asarray(a) for a in found)
            for place, i in enumerate(group):
                ends[i], seen[i] = x[place], data[place, : made[i].rows] if watch[i] else None
    return np.stack(ends), seen


class Bent(NamedTuple):
    """Scores of a field's exact paths: medians of `PathGeometry`, and stiffness at some log-SNR."""

    geometry: dict
    log_snr: np.ndarray
    stiffness: np.ndarray


@jax.jit
def _exact_path(field, noise, plan, stiff_at):
    """Times, states and velocities of an RK4 run, a step each, and the stiffness at the steps `stiff_at`."""
    solution = flowjax.sample(field.velocity, noise, plan, save_path=True)
    times = jnp.concatenate([plan.t[:1], plan.t_next[3::4]])  # a step is four rows
    path = solution.path[: len(times)]
    some = path[stiff_at][:, :16], times[stiff_at]
    key = jax.random.key(0)
    return (
        times,
        path,
        jax.lax.map(lambda at: field.velocity(*at), (path, times)),
        jax.lax.map(
            lambda at: geometry.stiffness(field.velocity, *at, key=key, iterations=12), some
        ),
    )


def path_scores(field, noise, *, steps=120, starts=32):
    """`Bent` of the first `starts` exact paths, on `steps` steps uniform in log-SNR."""
    plan = plans.rk4(lab.fine_grid(field.schedule, steps))
    some = np.linspace(1, steps - 1, 24).astype(int)
    times, path, velocity, stiff = (
        np.asarray(a) for a in _exact_path(field, noise[:starts], plan, some)
    )
    found = geometry.path_geometry(times, path, velocity)
    medians = {name: float(np.median(values)) for name, values in found._asdict().items()}
    return Bent(medians, field.schedule.log_snr(times[some]), np.median(stiff, axis=1))


def cell_scores(schedule, grid, bent, data, cell):
    """{name: number} for the names of SCORES; of what a start has, the median over starts.

    Args:
      grid: (N+1,) times; data: (N, B, *D) data predictions that the watched run made on them.
      bent: `Bent` of the exact paths.
      cell: for the scale of its endpoints.
    """
    step, lambdas = 1 / (len(grid) - 1), schedule.log_snr(grid)
    stiff = np.interp(lambdas[1:-1], bent.log_snr, bent.stiffness) * -np.diff(grid)[1:]
    inner = geometry.log_snr_span(schedule, grid[1:-1], 3)[2:]
    added = geometry.order_increments(schedule, grid, data)
    rho = {k: float(np.median(geometry.rho(added, k))) for k in (1, 2, 3)}
    total = np.nansum(added, axis=0)  # (4, B)
    span = geometry.log_snr_span(schedule, grid, 3)
    where = np.where(np.isfinite(span), np.nan_to_num(np.mean(added[:, 1], axis=1)), 0.0)
    last = lab.row_norms(data[-1] - data[-2])
    plane = data[0, 0].size < 3
    return {
        **(
            bent.geometry | ({"torsion": np.nan} if plane else {})
        ),  # a plane curve cannot twist: no score, not a low one
        **{f"{name} x step": bent.geometry[name] * step for name in ("acceleration", "curvature")},
        "stiffness x step": float(np.max(stiff)),
        "step": step,
        "typical span": float(np.median(inner) / (np.pi / 2)),
        "largest span": float(np.max(inner) / (np.pi / 2)),
        **{f"rho_{k}": value for k, value in rho.items()},
        "rho_2 x rho_3": rho[2] * rho[3],
        "added by order 3": float(np.median(total[2]) / lab.scale_of(cell.exact)),
        "span where it bends": float(
            np.sum(where * np.where(where > 0, span, 0.0)) / np.sum(where) / (np.pi / 2)
        ),
        "jump share": float(np.median(last / total[1])),
    }


# ---- what is said


def auc(scores, truths, groups=None, strata=None, resamples=1000):
    """Area under the ROC curve with its 95 % interval: the chance that a true row scores above a false one.

    Args:
      scores, truths: (n,) numbers and booleans; equal scores count half.
      groups: (n,) labels; the bootstrap draws whole groups, since the cells of one field share its noise. None: each row.
      strata: (n,) labels; only pairs within a stratum are compared. None: all pairs.

    Returns:
      (auc, low, high), NaN without a pair of a true and a false row.
    """
    scores, truths = np.asarray(scores, np.float64), np.asarray(truths, bool)
    if np.isnan(scores).any():
        raise ValueError(
            "curvature.auc: a score is NaN, which ranks nowhere; leave those rows out."
        )
    strata = np.zeros(len(scores)) if strata is None else np.asarray(strata)
    names, group = np.unique(
        np.arange(len(scores)) if groups is None else np.asarray(groups), return_inverse=True
    )
    true, false = np.flatnonzero(truths), np.flatnonzero(~truths)
    comparable = (strata[true][:, None] == strata[false][None]).astype(float)
    above = comparable * (np.sign(scores[true][:, None] - scores[false][None]) + 1) / 2
    # Sums over pairs of groups, so that a resample is a product with its counts.
    pick_true, pick_false = np.eye(len(names))[group[true]], np.eye(len(names))[group[false]]
    won, pairs = (pick_true.T @ matrix @ pick_false for matrix in (above, comparable))
    if pairs.sum() == 0:
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(0)
    counts = rng.multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    ).astype(float)
    drawn = [
        np.einsum("rf,fg,rg->r", counts, matrix, counts, optimize=True) for matrix in (won, pairs)
    ]
    kept = drawn[1] > 0
    low, high = np.quantile(drawn[0][kept] / drawn[1][kept], [0.025, 0.975])
    return float(won.sum() / pairs.sum()), float(low), float(high)


def kind_of(row):
    """The two kinds of grid, which behave differently: uniform in t and shifted, or uniform in log-SNR."""
    return "log-SNR" if row["grid"] == "log-SNR" else "uniform t"


def compared(rows, pair, statistic):
    """The rows with `verdict` and `ratio` of a pair of solvers, by "rms" or "median"."""
    found = []
    for row in rows:
        own = next(p for p in row["pairs"] if (p["a"], p["b"]) == tuple(pair))
        found.append(
            {**row, "verdict": own[f"{statistic}_verdict"], "ratio": own[f"{statistic}_ratio"]}
        )
    return found


def ranking(rows):
    """[{grid, pair, score, from, auc, low, high, within NFE, by median, cells, lost, ties, undefined}]: every score, every case."""
    table = []
    for kind in dict.fromkeys(kind_of(r) for r in rows):
        for pair in PAIRS:
            own, medians = (
                compared([r for r in rows if kind_of(r) == kind], pair, s)
                for s in ("rms", "median")
            )
            for score, source in SCORES.items():
                clear, plain = (_decided(some, score) for some in (own, medians))
                value, low, high = auc(*clear)
                table.append({
                    "grid": kind, "pair": f"{pair[0]} loses to {pair[1]}", "score": score, "from": source, "auc": value,
                    "low": low, "high": high, "within NFE": auc(*clear, _nfe(own, score))[0],
                    "by median": auc(*plain)[0], "cells": len(clear[0]), "lost": int(np.sum(clear[1])),
                    "ties": sum(r["verdict"] == "tie" for r in own),
                    "undefined": sum(not np.isfinite(r["scores"][score]) for r in own),
                })  # fmt: skip
    return table


def _kept(rows, score):
    return [r for r in rows if r["verdict"] != "tie" and np.isfinite(r["scores"][score])]


def _decided(rows, score):
    """(scores, truths, groups) of the rows that are no tie."""
    kept = _kept(rows, score)
    return (
        [r["scores"][score] for r in kept],
        [r["verdict"] == "worse" for r in kept],
        [str(_dial(r)) for r in kept],
    )


def _nfe(rows, score):
    return [r["nfe"] for r in _kept(rows, score)]


def _says(table, kind, pair, most=4):
    """Sentences on one kind of grid and pair: how often the higher order loses, which score tells it, which mislead."""
    own = _rows_of(table, kind, pair)
    first = own[0]
    counts = (
        f"{pair[0]} loses to {pair[1]} in {first['lost']} of {first['cells'] + first['ties']} cells, wins in "
        f"{first['cells'] - first['lost']} and ties in {first['ties']}"
    )
    ranked = sorted((r for r in own if np.isfinite(r["auc"])), key=lambda r: -r["auc"])
    if not ranked:
        return f"{counts}; all that is decided is decided one way, so there is nothing to predict."
    best = ranked[0]
    wrong = [f"{r['score']} {report.sig(r['auc'])}" for r in reversed(ranked) if r["high"] < 0.5]
    more = f" and {len(wrong) - most} more" if len(wrong) > most else ""
    within = (
        f", {report.sig(best['within NFE'])} among cells of equal NFE"
        if np.isfinite(best["within NFE"])
        else ""
    )
    return (
        f"{counts}. Best score: **{best['score']}**, AUC **{report.sig(best['auc'])}** [{report.sig(best['low'])}, "
        f"{report.sig(best['high'])}]{within}"
        + (
            f". The wrong way round, with their whole interval: {', '.join(wrong[:most])}{more}."
            if wrong
            else "."
        )
    )


def _rows_of(table, kind, pair):
    return [r for r in table if r["grid"] == kind and r["pair"] == f"{pair[0]} loses to {pair[1]}"]


def _verdict(table, kind, score):
    """Whether a score fixed beforehand tells the loss of order 3, on one kind of grid, as a clause."""
    row = next(r for r in _rows_of(table, kind, MAIN) if r["score"] == score)
    if not np.isfinite(row["auc"]):
        return f"**cannot be judged** where grids are {_in_words(kind)}"
    says = (
        "tells it"
        if row["low"] > 0.5
        else "points the wrong way"
        if row["high"] < 0.5
        else "does not tell it"
    )
    interval = f"AUC {report.sig(row['auc'])} [{report.sig(row['low'])}, {report.sig(row['high'])}]"
    return f"**{says}** where grids are {_in_words(kind)} ({interval})"


def _family(row):
    base = row["field"].partition("-")[0]
    tail = ", cosine" if row["path"] == "cosine" else ", coupled" if row["coupling"] > 0 else ""
    return base + tail if base in ("ring", "mixture") else "other"


FAMILIES = {
    "ring": (report.BLUE, "o"), "ring, coupled": (report.SKY, "s"), "ring, cosine": (report.GREEN, "^"),
    "mixture": (report.RED, "o"), "mixture, coupled": (report.AMBER, "s"), "other": (report.GREY, "x"),
}  # fmt: skip


def plain_ticks(axis, values):
    """Ticks 0.2, 0.5, 1, 2, ... on a logarithmic axis that spans `values`, instead of powers of ten."""
    low, high = np.log10(min(values)), np.log10(max(values))
    steps = (1, 2, 5) if high - low < 2 else (1, 3) if high - low < 3 else (1,)
    ticks = [m * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in steps]
    ticks = [tick for tick in ticks if low - 0.05 <= np.log10(tick) <= high + 0.05]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _draw_roc(rows):
    kinds = list(dict.fromkeys(kind_of(r) for r in rows))
    fig, axes = report.canvas(len(kinds), 1, width=4.6, height=4.4 * len(kinds))
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        own = [r for r in compared(rows, MAIN, "rms") if kind_of(r) == kind]
        points = [
            {"score": name, "value": r["scores"][name], "lost": r["verdict"] == "worse"}
            for name in DRAWN
            for r in _kept(own, name)
        ]
        report.roc(ax, points, score="value", truth="lost", by="score")
        ax.legend(
            *ax.get_legend_handles_labels(),
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            fontsize=7,
            ncols=2,
        )
        ax.set_title(f"grids: {_in_words(kind)}")
    return report.picture(
        fig,
        f"ROC curves of {', '.join(DRAWN)} for whether {MAIN[0]} loses to {MAIN[1]}, one panel a kind of grid.",
        f"Telling the cells where {MAIN[0]} loses to {MAIN[1]} (RMS error) from those where it wins; ties are left out.",
    )


def _draw_scatter(rows):
    kinds = list(dict.fromkeys(kind_of(r) for r in rows))
    fig, axes = report.canvas(len(kinds), 1, width=4.6, height=2.9 * len(kinds) + 0.6)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        own = [
            r
            for r in compared(rows, MAIN, "rms")
            if kind_of(r) == kind and np.isfinite(r["scores"]["rho_3"])
        ]
        for family, (colour, marker) in FAMILIES.items():
            mine = [r for r in own if _family(r) == family]
            at, ratio = [r["scores"]["rho_3"] for r in mine], [r["ratio"] for r in mine]
            ax.plot(at, ratio, marker, color=colour, markersize=3.5, alpha=0.8, label=family)
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.axvline(1, color=report.INK, linewidth=0.8, linestyle=":")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="rho_3 of the 2M run",
            ylabel="error of 3M exact / of 2M",
        )
        plain_ticks(ax.xaxis, [r["scores"]["rho_3"] for r in own])
        plain_ticks(ax.yaxis, [r["ratio"] for r in own])
        ax.set_title(f"grids: {_in_words(kind)}")
    lines = np.atleast_1d(axes)[0].get_legend_handles_labels()
    fig.legend(*lines, loc="outside lower center", ncols=3)
    return report.picture(
        fig,
        "Ratio of the errors of orders 3 and 2 against rho_3, a point a cell, coloured by the family of its field.",
        "Above the line order 3 loses. If rho_3 were a law, all points would lie lower left and upper right.",
    )


def section(rows, command):
    """The section of the page."""
    table = ranking(rows)
    kinds = list(dict.fromkeys(r["grid"] for r in table))
    shown, second = (
        " ".join(f"Where they are {_in_words(kind)}, {_says(table, kind, pair)}" for kind in kinds)
        for pair in (MAIN, PAIRS[0])
    )
    bent, free = (
        "; it ".join(_verdict(table, kind, score) for kind in kinds)
        for score in ("acceleration", "rho_3")
    )
    return report.Section(
        question="Is it the curvature of the path that makes a higher order lose?",
        expected="Straightness holds first derivatives only and cannot rank orders 2 and 3; acceleration and torsion are closer, "
        "but know nothing of the steps; the ratios of successive orders (rho), free in any run, predict best. The log-SNR grid was added after the first results on the others were seen.",
        answer=f"Will order 3 lose to order 2? The acceleration of the exact path {bent}. The free rho_3 {free}. "
        f"{shown}",
        figures=(_draw_roc(rows), _draw_scatter(rows)),
        table=sorted(table, key=lambda r: (r["pair"], r["grid"], -np.nan_to_num(r["auc"]))),
        caveat=f"Order 2 against 1: {second} {_versus_median(table)} The ring lies in a plane, so torsion is judged on the other fields alone. "
        f"Intervals draw whole fields ({len({_dial(r) for r in rows})} of them). The best of {len(SCORES)} scores looks better "
        "than it is; a score fixed beforehand does not. Steps of a grid uniform in t that ends at 0 are, in log-SNR, log 2, log 3/2, "
        "... before the jump, however many there are: there the end can decide, and no score of the path sees it.",
        command=command,
    )


def _in_words(kind):
    return {"uniform t": "uniform in t and shifted", "log-SNR": "uniform in log-SNR"}[kind]


def _versus_median(table):
    """How rho_3 does when the median error decides, as a sentence."""
    own = [
        r for kind in dict.fromkeys(r["grid"] for r in table) for r in _rows_of(table, kind, MAIN)
    ]
    own = [r for r in own if r["score"] == "rho_3"]
    parts = [
        f"{report.sig(r['auc'])} by RMS and {report.sig(r['by median'])} by the median ({r['grid']})"
        for r in own
    ]
    return f"The verdict depends on the statistic: rho_3 has an AUC of {'; '.join(parts)}."
