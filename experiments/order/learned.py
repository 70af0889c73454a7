"""(k) Does the answer on exact fields hold on networks?

The shipped networks, and two trained on coupled noise and data (optimal transport, reflow): the same plans as on the exact
fields, each sample's error taken to the network's own ODE, solved finely. Here that ODE is the truth: how good the network
is, is another question (`experiments/quality.py`). Networks run in float32, as users run them, and the rows hold what that
costs in digits.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import flowjax
from experiments import report
from experiments.order import guided, lab, nfe
from experiments.order.curvature import auc
from flowjax import distances, geometry, grids, guidance, models, plans

QUESTION = "learned"
SOLVERS, PAIRS = guided.SOLVERS, guided.PAIRS
SHIFTS = guided.SHIFTS
# Scales at most: coupled networks are a dial by themselves, and an evaluation of the emoji costs four of the digits.
SCALES = {
    "digits-ot": (1.0,),
    "digits-reflow": (1.0,),
    "digits-smooth": (1.0,),
    "emoji": (1.0, 4.0),
}
BENT = (
    "length",
    "straightness",
    "acceleration",
    "curvature",
)  # no torsion: its third derivative is roughness
WATCHED = "DPM++ 2M"  # the run whose own evaluations give rho
FLOOR_ROWS = 10  # evaluations of the run that is made in float64 too

load = functools.cache(models.load)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learned:
    """A network bound to labels and a guidance scale: networks of one size share their programs, and so do scales.

    Attributes:
      params: the tree of parameters.
      label: (B,) integers.
      scale: of classifier-free guidance.
      kind: what a `Card` says of the computation, (config, schedule, prediction, clock).
    """

    params: Any
    label: Any
    scale: Any
    kind: tuple = dataclasses.field(metadata={"static": True})

    def velocity(self, x, t):
        """Guided velocity (B, H, W, C)."""
        card = models.Card("learned", *self.kind)

        def network(x, t, label):
            return card.velocity(self.params, x, t, label)

        return guidance.classifier_free(network, self.label, np.int32(card.null_label), self.scale)(
            x, t
        )

    @property
    def schedule(self):
        """The path it was trained on."""
        return self.kind[1]


def make(name, scale, count):
    """The field of network `name` at a guidance scale, for `count` samples whose labels go round the classes."""
    card = load(name).card
    label = np.arange(count, dtype=np.int32) % card.config.classes
    kind = (card.config, card.schedule, card.prediction, card.clock)
    return Learned(load(name).params, label, np.float64(scale), kind)


def cells(config):
    """One cell a network and scale for its paths, and one a network, scale, shift and number of evaluations.

    Raises:
      ValueError: a network that is not there, or no scale 1.
    """
    for name in config.networks:
        try:
            load(name)
        except FileNotFoundError as error:
            raise ValueError(
                f"experiments.order: networks={config.networks!r} has {name!r}: {error}"
            ) from None
    if 1.0 not in config.network_scales:
        raise ValueError(
            f"experiments.order: network_scales={config.network_scales!r}; wanted 1 among them: the exact fields that networks "
            "stand beside have no guidance."
        )
    outer = [
        (m, s)
        for m in config.networks
        for s in config.network_scales
        if s in SCALES.get(m, config.network_scales)
    ]
    return [
        *({"question": QUESTION, "part": "path", "model": m, "scale": s} for m, s in outer),
        *(
            {
                "question": QUESTION,
                "part": "error",
                "model": m,
                "scale": s,
                "shift": shift,
                "nfe": n,
            }
            for m, s in outer
            for shift in config.shifts
            if shift in SHIFTS
            for n in config.network_nfe
        ),
    ]


@jax.jit
def run(field, noise, plan):
    """Accepted states (rows+1, B, *D), those behind the last repeating it, and velocities (rows, B, *D); a program a length.

    Plans go one by one: a network fills the machine with one batch, and side by side guidance could not leave out the
    null label where the scale is 1.
    """

    def watched(x, t, carry):
        row, seen = carry
        velocity = field.velocity(x, t)
        return velocity, (row + 1, seen.at[row].set(velocity))

    start = (0, jnp.zeros((plan.rows, *noise.shape), noise.dtype))
    solution = flowjax.sample(watched, noise, plan, carry=start, save_path=True)
    return solution.path, solution.carry[1]


def _reference(field, noise, steps):
    """(endpoints, how much doubling the steps moved them, geometry of the paths) by AB2, uniform in t.

    Networks are rough in the time they are told (see `clock`), and what resolves that is the number of distinct times, not the
    order: with 512 evaluations of the digits AB2 comes to 4e-5 of the size of an endpoint, RK4,
    which evaluates each time twice, to 6e-4.
    """
    coarse, fine = (plans.adams_bashforth(grids.uniform(n), 2) for n in (steps // 2, steps))
    half = np.asarray(run(field, noise, coarse)[0][-1], np.float64)
    path, velocity = (np.asarray(a, np.float64) for a in run(field, noise, fine))
    moved = distances.rms(lab.row_norms(half - path[-1])) / lab.scale_of(path[-1])
    bent = geometry.path_geometry(fine.t, path[:-1], velocity)._asdict()
    values = {name: float(np.median(bent[name])) for name in BENT}
    return path[-1], float(moved), {**values, "smoothness": smoothness(velocity)}


def smoothness(velocity, step=1 / 40):
    """The power with which second differences of the velocity along the paths shrink with the spacing, from 2 `step` to `step`.

    2 where a step resolves the field, so that orders 2 and 3 can be had; 0 where it jumps from evaluation to evaluation.

    Args:
      velocity: (M, B, *D) at times 1, 1 - 1/M, ..., 1/M.
    """
    spacing = max(round(step * len(velocity)), 1)

    def size(k):
        return distances.rms(velocity[2 * k :] - 2 * velocity[k:-k] + velocity[: -2 * k])

    return float(np.log2(size(2 * spacing) / size(spacing)))


def _floor(field, noise):
    """What float32 does to endpoints: the relative RMS difference of one run of FLOOR_ROWS evaluations to float64."""
    plan = lab.plan_of(WATCHED, field.schedule, lab.shifted(1.0), FLOOR_ROWS)
    exact = jax.tree.map(
        lambda a: np.asarray(a, np.float64 if a.dtype == np.float32 else a.dtype), field
    )
    ends = [
        np.asarray(run(f, z, plan)[0][-1], np.float64)
        for f, z in ((field, noise), (exact, noise.astype(np.float64)))
    ]
    return float(distances.rms(lab.row_norms(ends[0] - ends[1])) / lab.scale_of(ends[1]))


def _rho(schedule, grid, path, velocity):
    """Median rho_2 and rho_3 of a run of one row a step."""
    p, q = (
        np.asarray(w)[:, None, None, None, None]
        for w in schedule.prediction_weights("data", np.asarray(grid[:-1]))
    )
    added = geometry.order_increments(schedule, grid, p * path[:-1] + q * velocity)
    return {f"rho_{k}": float(np.median(geometry.rho(added, k))) for k in (2, 3)}


def measure(config, todo):
    """Yield (key, values): geometry of each network's paths; errors, comparisons and rho of each cell."""
    for name, scale in dict.fromkeys((key["model"], key["scale"]) for key in todo):
        network, starts = load(name).card.config, np.arange(config.network_starts)
        noise = flowjax.draw_noise(jax.random.key(0), starts, (*network.size, network.channels))
        noise, field = np.asarray(noise, np.float32), make(name, scale, len(starts))
        exact, doubling, bent = _reference(field, noise, config.network_steps)
        cell = lab.Cell(field, noise, exact, starts, doubling)  # every start its own seed
        for key in (key for key in todo if (key["model"], key["scale"]) == (name, scale)):
            if key["part"] == "path":
                some = dataclasses.replace(field, label=field.label[:8])
                floor = _floor(some, noise[:8]) if scale == 1 else None
                size = lab.scale_of(exact)
                yield (
                    key,
                    {
                        **bent,
                        "size": size,
                        "doubling": doubling,
                        "float32": floor,
                        "starts": len(starts),
                    },
                )
            else:
                yield key, _errors(cell, key)


def _errors(cell, key):
    """The values of an error cell."""
    found, rho = {}, None
    for solver in SOLVERS:
        plan = lab.plan_of(solver, cell.field.schedule, lab.shifted(key["shift"]), key["nfe"])
        if plan is None:
            continue
        path, velocity = (np.asarray(a, np.float64) for a in run(cell.field, cell.noise, plan))
        found[solver] = cell.errors(path[-1:])[0]
        if solver == WATCHED:
            rho = _rho(cell.field.schedule, plan.grid, path, velocity)
    return {
        "solvers": [{"solver": s, **lab.summary(e, cell.seed)} for s, e in found.items()],
        "pairs": [
            {"a": a, "b": b, **lab.paired(found[a], found[b], cell.seed)}
            for a, b in PAIRS
            if a in found and b in found
        ],
        **rho,
        "doubling": cell.doubling,
    }


# ---- what the rows say


def _matched(rows):
    """{(where, scale): cells} of exact fields and of networks, on the shifts and evaluations that the networks have.

    Exact fields without guidance are those of the question `nfe`, with guidance those of `guided`.
    """
    own = [r for r in rows if r["question"] == QUESTION and r["part"] == "error"]
    seen = {(r["shift"], r["nfe"]) for r in own}
    groups = {
        ("networks", s): [r for r in own if r["scale"] == s]
        for s in sorted({r["scale"] for r in own})
    }
    plain = [r for r in rows if r["question"] == nfe.QUESTION and (r["shift"], r["nfe"]) in seen]
    names = {f"shift {shift:g}": shift for shift in SHIFTS}
    bent = [
        r
        for r in rows
        if r["question"] == guided.QUESTION and r["part"] == "error" and r["grid"] in names
    ]
    for scale in [s for where, s in list(groups) if where == "networks"]:
        groups["exact fields", scale] = plain if scale == 1 else [
            r for r in bent if r["scale"] == scale and (names[r["grid"]], r["nfe"]) in seen
        ]  # fmt: skip
    return groups


def tally(rows, pair):
    """{better, tie, worse, ratio} of pair (a, b) over cells: counts by RMS error, and the geometric mean of the ratios."""
    own = [p for r in rows for p in r["pairs"] if (p["a"], p["b"]) == tuple(pair)]
    counts = {v: sum(p["rms_verdict"] == v for p in own) for v in ("better", "tie", "worse")}
    return {
        **counts,
        "ratio": float(np.exp(np.mean([np.log(p["rms_ratio"]) for p in own]))) if own else np.nan,
    }


def beside(rows):
    """[{pair, scale, evaluations, exact fields, ratio, networks, ratio}]: both answers, a line a pair, scale and range."""
    groups, table = _matched(rows), []
    for pair in PAIRS:
        for scale in sorted({s for _, s in groups}):
            for span, inside in (
                (f"<= {nfe.FEW}", lambda n: n <= nfe.FEW),
                (f"> {nfe.FEW}", lambda n: n > nfe.FEW),
            ):
                line = {"pair": f"{pair[0]} against {pair[1]}", "scale": scale, "NFE": span}
                for where in ("exact fields", "networks"):
                    found = tally([r for r in groups[where, scale] if inside(r["nfe"])], pair)
                    line[where] = (
                        f"{found['better']} better, {found['tie']} ties, {found['worse']} worse"
                    )
                    line[f"ratio, {where}"] = found["ratio"]
                if np.isfinite(line["ratio, networks"]):
                    table.append(line)
    return table


def agreement(table, margin=1.02):
    """(same, opposite, open): lines of `beside` by the direction of the two mean ratios, open within `margin` of 1 or alone."""

    def way(ratio):
        return (
            0
            if not np.isfinite(ratio)
            else 1
            if ratio > margin
            else -1
            if ratio < 1 / margin
            else 0
        )

    products = [way(line["ratio, exact fields"]) * way(line["ratio, networks"]) for line in table]
    return products.count(1), products.count(-1), products.count(0)


def slopes(rows):
    """[{solver, NFE, order on exact fields, on networks}]: how steep errors fall between the two largest numbers of evaluations."""
    groups = _matched(rows)
    last = sorted({r["nfe"] for r in groups["networks", 1.0]})[-2:]
    if len(last) < 2:
        return []

    def slope(cells, solver):
        logs = [
            [
                np.log(s["rms"])
                for r in cells
                if r["nfe"] == n
                for s in r["solvers"]
                if s["solver"] == solver
            ]
            for n in last
        ]
        return (
            float((np.mean(logs[0]) - np.mean(logs[1])) / np.log(last[1] / last[0]))
            if all(logs)
            else np.nan
        )

    return [
        {
            "solver": solver, "NFE": f"{last[0]} to {last[1]}",
            **{f"order on {where}": slope(groups[where, 1.0], solver) for where in ("exact fields", "networks")},
        }
        for solver in SOLVERS
    ]  # fmt: skip


def dial(rows):
    """[{model, scale, straightness ... ratios}]: how bent each network's paths are, and what the orders are worth on them."""
    table = []
    for r in (r for r in rows if r["part"] == "path"):
        cells = [
            c
            for c in rows
            if c["part"] == "error" and (c["model"], c["scale"]) == (r["model"], r["scale"])
        ]
        line = {name: r[name] for name in ("model", "scale", *BENT, "smoothness")}
        for a, b in PAIRS:
            found = tally(cells, (a, b))
            line[f"{a} over {b}"] = found["ratio"]
            line[f"worse: {a}"] = found["worse"]
        table.append(
            {
                **line,
                "cells": len(cells),
                "size": r["size"],
                "doubling": r["doubling"],
                "float32": r["float32"],
            }
        )
    return table


def rho_tells(rows, score="rho_3", pair=PAIRS[0]):
    """(auc, low, high, lost, won) of a free score for "a loses to b" over the decided cells."""
    kept = []
    for r in (r for r in rows if r["part"] == "error" and np.isfinite(r[score])):
        verdict = next(
            (p["rms_verdict"] for p in r["pairs"] if (p["a"], p["b"]) == tuple(pair)), "tie"
        )
        if verdict != "tie":
            kept.append((r[score], verdict == "worse", f"{r['model']} {r['scale']}"))
    lost = sum(k[1] for k in kept)
    found = auc(*zip(*kept, strict=True)) if 0 < lost < len(kept) else (np.nan,) * 3
    return *found, lost, len(kept) - lost


def _draw_errors(rows, exact):
    """Error against evaluations: the exact field of the digits beside the network that learned them."""
    first = rows[0]["model"]
    shift = max(r["shift"] for r in rows)
    panels = {
        f"{first}, network": [
            r for r in rows if (r["model"], r["scale"], r["shift"]) == (first, 1.0, shift)
        ]
    }
    seen = {r["nfe"] for r in rows}
    twin = [r for r in exact if (r["field"], r["shift"]) == (first, shift) and r["nfe"] in seen]
    panels = ({f"{first}, exact field": twin} if twin else {}) | panels
    fig, axes = report.canvas(1, len(panels), width=3.3 * len(panels) + 0.6, height=3.8)
    axes = np.atleast_1d(axes)
    shown = {s["solver"] for r in rows for s in r["solvers"]} - {"UniPC2"}
    for ax, (title, own) in zip(axes, panels.items(), strict=True):
        flat = [{"nfe": r["nfe"], **s} for r in own for s in r["solvers"] if s["solver"] in shown]
        report.log_log(ax, flat, x="nfe", y="rms", ylabel="relative RMS error", xlabel="NFE")
        ax.set_title(f"{title}, shift {shift:g}")
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
    return report.picture(
        fig, f"Relative RMS error against NFE: {' and '.join(panels)}.", "Both without guidance."
    )


def _draw_ratios(rows):
    """Ratios of successive orders against NFE, a line a network at scale 1 and a line a scale of the first network."""
    first, pairs = rows[0]["model"], (PAIRS[2], PAIRS[0])
    names, scales = (
        list(dict.fromkeys(r["model"] for r in rows)),
        sorted({r["scale"] for r in rows}),
    )
    lines = [{n: [r for r in rows if (r["model"], r["scale"]) == (n, 1.0)] for n in names}]
    if len(scales) > 1:
        lines.append(
            {
                f"{first}, scale {s:g}": [r for r in rows if (r["model"], r["scale"]) == (first, s)]
                for s in scales
            }
        )
    fig, axes = report.canvas(len(lines), len(pairs), width=6.2, height=2.7 * len(lines) + 0.4)
    for row, group in zip(np.atleast_2d(axes), lines, strict=True):
        for ax, (a, b) in zip(row, pairs, strict=True):
            seen = sorted({r["nfe"] for r in rows})
            for label, own in group.items():
                points = [
                    (n, tally([r for r in own if r["nfe"] == n], (a, b))["ratio"]) for n in seen
                ]
                points = [(n, ratio) for n, ratio in points if np.isfinite(ratio)]
                ax.plot(*zip(*points, strict=True), "o-", markersize=3.5, label=label)
            ax.axhline(1, color=report.INK, linewidth=0.8)
            ax.set(xscale="log", xlabel="NFE", ylabel="ratio of RMS errors", ylim=(0, None))
            ax.set_xticks(seen, [str(n) for n in seen])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_title(f"{a.removeprefix('DPM++ ')} / {b.removeprefix('DPM++ ')}")
        row[0].legend(fontsize=7)
    return report.picture(
        fig,
        "Ratio of the errors of 2M and Euler, and of 3M exact and 2M, against NFE, a line a network and a line a scale.",
        "Below the line the higher order wins. Geometric mean over the shifts.",
    )


def _sig(value):
    return (
        report.sig(value) if np.isfinite(value) else "–"
    )  # nothing to set beside, as where only networks are asked


def _clause(line):
    exact, found = (
        f"{line[w]} ({_sig(line[f'ratio, {w}'])})" for w in ("exact fields", "networks")
    )
    return f"{line['pair']} at {line['NFE']}: **{found}**, exact fields {exact}"


def steep(rows):
    """How steep errors fall late, as a sentence; empty where there is one number of evaluations."""
    found = [
        line
        for line in slopes(rows)
        if line["solver"] in ("Euler", "DPM++ 2M", "DPM++ 3M exact", "AB3")
    ]
    if not found:
        return ""
    each = ", ".join(f"{line['solver']} **{_sig(line['order on networks'])}**" for line in found)
    exact = ", ".join(_sig(line["order on exact fields"]) for line in found)
    return f"From {found[0]['NFE']} evaluations errors on networks fall with order {each}; on exact fields with {exact}."


def verdict(rows):
    """What networks say and what exact fields say: how steep errors fall, counts without guidance, directions in all."""
    table = beside(rows)
    asked = [f"{a} against {b}" for a, b in (PAIRS[2], PAIRS[0])]
    clauses = [
        _clause(line)
        for name in asked
        for line in table
        if (line["pair"], line["scale"]) == (name, 1)
    ]
    same, opposite, _ = agreement(table)
    return (
        f"{steep(rows)} Cells without guidance by RMS error, with the mean ratio: {'; '.join(clauses)}. Over all pairs, guidance scales and ranges of "
        f"evaluations the ratios point the same way in {same} of {len(table)} and opposite ways in {opposite}; in the rest one is a draw within 2 %, or missing."
    ).strip()


def section(rows, command):
    """The section of the page, from this question's rows and, to set beside them, those of `nfe` and `guided`."""
    own = [r for r in rows if r["question"] == QUESTION]
    errors = [r for r in own if r["part"] == "error"]
    bends = dial(own)
    least = [line for line in bends if line["scale"] == 1]
    bent = "; ".join(
        f"{line['model']} {report.sig(line['straightness'])}, {report.sig(line['acceleration'])} and {report.sig(line['smoothness'])}; 2M over Euler "
        f"{report.sig(line['DPM++ 2M over Euler'])}, 3M over 2M {report.sig(line['DPM++ 3M exact over DPM++ 2M'])}"
        for line in least
    )
    value, low, high, lost, won = rho_tells(own)
    told = (
        f"AUC **{report.sig(value)}** [{report.sig(low)}, {report.sig(high)}]"
        if np.isfinite(value)
        else "nothing to tell"
    )
    best = [min(r["solvers"], key=lambda s: s["rms"])["solver"] for r in errors]
    winners = ", ".join(
        f"{n} {best.count(n)}" for n in sorted(set(best), key=best.count, reverse=True)[:4]
    )
    smallest = min(s["rms"] for r in errors for s in r["solvers"])
    floor = max(line["float32"] for line in bends if line["float32"] is not None)
    return report.Section(
        question="Does the answer on exact fields hold on networks?",
        expected="The orders rank as on exact fields, with the crossovers shifted by guidance; straighter paths (optimal transport, reflow) leave less to "
        "gain from order. A network's field is smoother than the exact field of its data, so higher orders pay earlier.",
        answer=f"{verdict(rows)} The lowest error of a cell is reached by: {winners}. Straightness, acceleration and smoothness (2 where a step of 1/40 resolves the "
        f"velocity) without guidance: {bent}. "
        f"The free rho_3 on whether 3M exact loses to 2M ({lost} lost, {won} won): {told}.",
        figures=(_draw_errors(errors, [r for r in rows if r["question"] == nfe.QUESTION]), _draw_ratios(errors)),
        table=beside(rows) + slopes(rows) + bends,
        caveat=f"{own[0]['starts']} starts a cell on networks and more on exact fields, so that more cells of networks are ties: the ratios do not depend on that. The fields differ: "
        "without guidance they are all of the exact matrix, with it three mixtures. A guided evaluation is two of a network. The truth is each network's own ODE, which doubling "
        f"the steps of its reference moved by at most {report.sig(max(line['doubling'] for line in bends))}; float32 moves endpoints by at most {report.sig(floor)}; the smallest error in "
        f"these cells is {report.sig(smallest)}.",
        command=command,
    )  # fmt: skip
