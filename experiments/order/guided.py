"""(h) Does guidance move the number of evaluations from which a higher order pays?

The guided field is conditional + (scale - 1)(conditional - all) of one mixture, the conditional being some of its modes.
It has no closed form and no distribution of its own to hit: its reference is its own ODE, solved finely.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments import report
from experiments.order import lab
from experiments.order.crossover import crossover
from experiments.order.curvature import plain_ticks
from flowjax import geometry, guidance, plans

QUESTION = "guided"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published", "DPM++ 3M exact", "AB2", "AB3", "UniPC2")
PAIRS = (
    ("DPM++ 3M exact", "DPM++ 2M"),
    ("DPM++ 3M published", "DPM++ 2M"),
    ("DPM++ 2M", "Euler"),
    ("AB3", "AB2"),
)
FIELDS = ("ring", "mixture-16", "mixture-2")  # those of them the config has
SHIFTS = (1.0, 3.0)
CLASS = slice(0, 2)  # modes of the condition
STARTS = 32  # a seed
WATCHED = 64  # starts on which rho and the paths are read
LONG_STEP = 10  # evaluations at which the log-SNR grid is known to break order 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guided:
    """The guided field; its scale is a leaf like the arrays, so that all scales share a program."""

    conditional: Any
    field: Any
    scale: Any

    def velocity(self, x, t):
        """Guided velocity (B, *D)."""
        return guidance.combine(self.conditional.velocity, self.field.velocity, self.scale)(x, t)

    def data(self, x, t):
        """Guided data prediction (B, *D)."""
        p, q = self.schedule.prediction_weights("data", t)
        return p * x + q * self.velocity(x, t)

    def nearest(self, x):
        """Mode of the whole mixture that x is in: (B,)."""
        return self.field.nearest(x)

    @property
    def schedule(self):
        """The path of both."""
        return self.field.schedule

    @property
    def means(self):
        """(K, *D), of the whole mixture."""
        return self.field.means


def make(name, scale):
    """The guided field of a mixture by its name."""
    field = lab.make_field(name)
    return Guided(field.subset(CLASS), field, np.float64(scale))


def grids_of(config):
    """{name: steps -> grid}."""
    shifted = {f"shift {s:g}": lab.shifted(s) for s in config.shifts if s in SHIFTS}
    return shifted | {"log-SNR": lab.log_snr_with_ends()}


def cells(config):
    """One cell a field, scale, grid and number of evaluations, and one a field and scale for its paths."""
    outer = [(f, s) for f in FIELDS if f in config.fields for s in config.scales]
    return [
        *({"question": QUESTION, "part": "path", "field": f, "scale": s} for f, s in outer),
        *(
            {
                "question": QUESTION,
                "part": "error",
                "field": f,
                "scale": s,
                "grid": grid,
                "nfe": nfe,
            }
            for f, s in outer
            for grid in grids_of(config)
            for nfe in config.nfe
        ),
    ]


@jax.jit
def _predictions(field, noise, stacked):
    """Data predictions (P, rows, B, *D) at the states of plans of one row a step."""

    def run(plan):
        path = flowjax.sample(field.velocity, noise, plan, save_path=True).path
        return jax.lax.map(lambda at: field.data(*at), (path[:-1], plan.t))

    return jax.vmap(run)(stacked)


@jax.jit
def _path(field, noise, plan):
    """Times (M,), states and velocities (M, B, *D) of an RK4 run, a step each."""
    solution = flowjax.sample(field.velocity, noise, plan, save_path=True)
    times = jnp.concatenate([plan.t[:1], plan.t_next[3::4]])  # a step is four rows
    path = solution.path[: len(times)]
    return times, path, jax.lax.map(lambda at: field.velocity(*at), (path, times))


def _bend(field, noise):
    """Median acceleration and curvature of the exact guided paths."""
    found = geometry.path_geometry(
        *_path(field, noise, plans.rk4(lab.fine_grid(field.schedule, 120)))
    )
    return {name: float(np.median(getattr(found, name))) for name in ("acceleration", "curvature")}


def _rho(field, noise, made, rows):
    """Median rho_2 of the runs of plans `made`, NaN where a run is too short."""
    stacked = jax.tree.map(lambda *columns: np.stack(columns), *(plans.pad(p, rows) for p in made))
    found = []
    for plan, data in zip(made, np.asarray(_predictions(field, noise, stacked)), strict=True):
        added = geometry.order_increments(field.schedule, plan.grid, data[: plan.rows])
        found.append(float(np.median(geometry.rho(added, 2))))
    return found


def measure(config, todo):
    """Yield (key, values): errors, comparisons and rho_2 of each cell; geometry and size of the exact guided paths."""
    for name, scale in dict.fromkeys((key["field"], key["scale"]) for key in todo):
        field = make(name, scale)
        cell = lab.make_cell(
            field, config.seeds, min(config.samples, STARTS), steps=config.reference_steps
        )
        keys = [key for key in todo if (key["field"], key["scale"]) == (name, scale)]
        for key in (key for key in keys if key["part"] == "path"):
            true = np.asarray(field.nearest(jnp.asarray(cell.exact)))
            yield key, {
                **_bend(field, cell.noise[:WATCHED]), "size": lab.scale_of(cell.exact), "doubling": cell.doubling,
                "in class": float(np.mean(np.isin(true, np.arange(len(field.means))[CLASS]))),
            }  # fmt: skip
        keys = [key for key in keys if key["part"] == "error"]
        if not keys:
            continue
        grids = grids_of(config)
        jobs = [(i, solver) for i in range(len(keys)) for solver in SOLVERS]
        made = [
            lab.plan_of(s, field.schedule, grids[keys[i]["grid"]], keys[i]["nfe"]) for i, s in jobs
        ]
        jobs, made = zip(
            *((job, plan) for job, plan in zip(jobs, made, strict=True) if plan is not None),
            strict=True,
        )
        # Two lengths, so two programs: these fields are cheap and compiling is not.
        longest = max(config.nfe)
        padded = [
            plans.pad(plan, longest if 3 * plan.rows > longest else longest // 3) for plan in made
        ]
        errors = cell.errors(lab.run_plans(field, cell.noise, padded))
        runs = [plan for (_, solver), plan in zip(jobs, made, strict=True) if solver == "DPM++ 2M"]
        rho = _rho(field, cell.noise[:WATCHED], runs, longest)
        for i, key in enumerate(keys):
            own = {solver: e for (j, solver), e in zip(jobs, errors, strict=True) if j == i}
            yield (
                key,
                {
                    "solvers": [{"solver": s, **lab.summary(e, cell.seed)} for s, e in own.items()],
                    "pairs": [
                        {"a": a, "b": b, **lab.paired(own[a], own[b], cell.seed)}
                        for a, b in PAIRS
                        if a in own and b in own
                    ],
                    "rho_2": rho[i],
                    "doubling": cell.doubling,
                },
            )


# ---- what the rows say


def _errors(row):
    return {s["solver"]: s["rms"] for s in row["solvers"]}


def crossovers(rows):
    """[{field, grid, scale, pair, N*, side}]: the NFE from which a is at most 2 % worse than b for good, within the range."""
    table = []
    groups = {}
    for r in (r for r in rows if r["part"] == "error"):
        groups.setdefault((r["field"], r["grid"], r["scale"]), []).append(r)
    for (field, grid, scale), own in groups.items():
        for a, b in PAIRS:
            pairs = [(r["nfe"], _errors(r)) for r in own]
            pairs = [(n, e[a] / e[b]) for n, e in pairs if a in e and b in e]
            if len(pairs) > 1:
                found, side = crossover(*zip(*pairs, strict=True))
                table.append(
                    {
                        "field": field,
                        "grid": grid,
                        "scale": scale,
                        "pair": f"{a} below {b}",
                        "N*": found,
                        "side": side,
                    }
                )
    return table


def middle(found):
    """(median of [{N*, side}] with bounds in their place, its side): for an even count the lower middle."""
    ranked = sorted(found, key=lambda r: (("below", "", "above").index(r["side"]), r["N*"]))
    own = ranked[(len(ranked) - 1) // 2]
    return own["N*"], own["side"]


def moved(found, scale, pair):
    """(later, earlier, same or open) of the N* of `pair` at `scale` against those at the least scale, cell by cell.

    Bounds count as what they say: N* "above" the range is later than one within; two bounds of one kind are open.
    """
    least = min(r["scale"] for r in found)
    keyed = {(r["field"], r["grid"], r["scale"]): r for r in found if r["pair"] == pair}
    counts = [0, 0, 0]
    for (field, grid, s), row in keyed.items():
        if s != scale or (field, grid, least) not in keyed:
            continue
        places = [
            (("below", "", "above").index(r["side"]), r["N*"])
            for r in (keyed[field, grid, least], row)
        ]
        counts[0 if places[1] > places[0] else 1 if places[1] < places[0] else 2] += 1
    return tuple(counts)


def _marked(found):
    number, side = found
    return {"": "", "below": "<= ", "above": "> "}[side] + f"{number:.3g}"


def wide(found):
    """One line a field, grid and scale with the crossovers of all pairs, those outside the range as "<= 4" or "> 80"."""
    result = {}
    for r in found:
        key = {name: r[name] for name in ("field", "grid", "scale")}
        result.setdefault(tuple(key.values()), key)[f"N*: {r['pair']}"] = _marked(
            (r["N*"], r["side"])
        )
    return list(result.values())


def by_scale(rows):
    """One line a scale: verdicts and crossovers of every pair, rho_2, the bend of the paths, the log-SNR grid at few steps."""
    found, table = crossovers(rows), []
    for scale in sorted({r["scale"] for r in rows}):
        own = [r for r in rows if r["scale"] == scale]
        cells = [r for r in own if r["part"] == "error"]
        line = {"scale": scale}
        for a, b in PAIRS:
            verdicts = [
                p["rms_verdict"] for r in cells for p in r["pairs"] if (p["a"], p["b"]) == (a, b)
            ]
            line[f"{a} against {b}"] = (
                f"{verdicts.count('better')} better, {verdicts.count('tie')} ties, {verdicts.count('worse')} worse"
            )
            line[f"N*: {a} below {b}"] = _marked(
                middle([f for f in found if (f["scale"], f["pair"]) == (scale, f"{a} below {b}")])
            )
        line["rho_2"] = float(np.nanmedian([r["rho_2"] for r in cells]))
        for name in ("acceleration", "curvature", "size"):
            line[name] = _mean(r[name] for r in own if r["part"] == "path")
        table.append(line)
    return table


def long_steps(rows):
    """[{field, scale, nfe, Euler, 2M, 3M, ...}] on the log-SNR grid with as many evaluations as are nearest to LONG_STEP."""
    own = [r for r in rows if r["part"] == "error" and r["grid"] == "log-SNR"]
    nfe = min((r["nfe"] for r in own), key=lambda n: abs(n - LONG_STEP))
    return [
        {"field": r["field"], "scale": r["scale"], "nfe": nfe, **_errors(r), "rho_2": r["rho_2"]}
        for r in own
        if r["nfe"] == nfe
    ]


def _mean(values):
    return float(np.exp(np.mean(np.log(list(values)))))


def _colour(scales, scale):
    return (report.BLUE, report.GREEN, report.AMBER, report.RED, report.PINK, report.SKY)[
        scales.index(scale) % 6
    ]


def _draw_ratios(rows):
    own = [r for r in rows if r["part"] == "error"]
    shown, scales = list(dict.fromkeys(r["grid"] for r in own)), sorted({r["scale"] for r in own})
    pairs = (PAIRS[2], PAIRS[0])
    fig, axes = report.canvas(len(shown), len(pairs), width=6.2, height=2.5 * len(shown) + 0.5)
    for line, grid in zip(np.atleast_2d(axes), shown, strict=True):
        for ax, (a, b) in zip(line, pairs, strict=True):
            seen = []
            for scale in scales:
                cells = [r for r in own if (r["grid"], r["scale"]) == (grid, scale)]
                points = []
                for nfe in sorted({r["nfe"] for r in cells}):
                    ratios = [
                        e[a] / e[b]
                        for r in cells
                        if r["nfe"] == nfe and a in (e := _errors(r)) and b in e
                    ]
                    points.append((nfe, _mean(ratios)))
                seen += points
                ax.plot(
                    *zip(*points, strict=True),
                    "o-",
                    color=_colour(scales, scale),
                    markersize=3.5,
                    label=f"scale {scale:g}",
                )
            ax.axhline(1, color=report.INK, linewidth=0.8)
            ax.set(xscale="log", yscale="log", xlabel="NFE", ylabel="ratio of RMS errors")
            plain_ticks(ax.xaxis, [n for n, _ in seen])
            plain_ticks(ax.yaxis, [r for _, r in seen])
            ax.set_title(f"{a.removeprefix('DPM++ ')} / {b.removeprefix('DPM++ ')}, {grid}")
    fig.legend(
        *np.atleast_2d(axes)[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    return report.picture(
        fig,
        "Ratio of the errors of 2M and Euler, and of 3M exact and 2M, against NFE; a line a scale, a row a grid.",
        "Below the line the higher order wins. Geometric mean over the fields.",
    )


def _draw_errors(rows):
    own = [r for r in rows if r["part"] == "error"]
    name, grid = own[0]["field"], own[0]["grid"]
    scales = sorted({r["scale"] for r in own})
    picked = [scales[0], scales[-1]]
    fig, axes = report.canvas(1, 2, width=6.6, height=3.8)
    for ax, scale in zip(axes, picked, strict=True):
        cells = [r for r in own if (r["field"], r["grid"], r["scale"]) == (name, grid, scale)]
        flat = [
            {"nfe": r["nfe"], **s} for r in cells for s in r["solvers"] if s["solver"] != "UniPC2"
        ]
        report.log_log(ax, flat, x="nfe", y="rms", ylabel="relative RMS error", xlabel="NFE")
        ax.set_title(f"{name}, {grid}, scale {scale:g}")
    return report.picture(
        fig,
        f"Error against NFE on the {name} at scales {picked[0]:g} and {picked[1]:g}.",
        "Relative to the size of the guided field's own endpoints.",
    )


def direction(counts):
    """What (later, earlier, open) say together: "later", "earlier" or "either way"; one side must have more than twice the other."""
    later, earlier, _ = counts
    return "later" if later > 2 * earlier else "earlier" if earlier > 2 * later else "either way"


def _says(rows, pair):
    """How a pair fares from the least to the greatest scale, as a clause."""
    found, name = crossovers(rows), f"{pair[0]} below {pair[1]}"
    scales = sorted({f["scale"] for f in found})
    least, most = scales[0], scales[-1]
    numbers = [
        _marked(middle([f for f in found if (f["scale"], f["pair"]) == (s, name)])) for s in scales
    ]
    later, earlier, same = moved(found, most, name)
    keyed = {
        (f["field"], f["grid"], f["scale"]): f["N*"]
        for f in found
        if f["pair"] == name and not f["side"]
    }
    factors = [
        n / keyed[f, g, least]
        for (f, g, s), n in keyed.items()
        if s == most and (f, g, least) in keyed
    ]
    by = (
        f", {report.sig(_mean(factors))} times in the {len(factors)} with both in range"
        if factors
        else ""
    )
    worse = [
        [p["rms_verdict"] for r in rows if r["part"] == "error" and r["scale"] == s for p in r["pairs"] if (p["a"], p["b"]) == pair]
        for s in (least, most)
    ]  # fmt: skip
    return (
        f"{name} for good from {', '.join(numbers)} (later in {later} of {later + earlier + same} cells, earlier in {earlier}{by}; worse at a fixed NFE in "
        f"{worse[0].count('worse')} of {len(worse[0])} cells at scale {least:g}, in {worse[1].count('worse')} at {most:g})"
    )


def _by_grid(rows, pair):
    """Which way the crossover of a pair moves on each grid, as a clause."""
    found, name = crossovers(rows), f"{pair[0]} below {pair[1]}"
    most = max(f["scale"] for f in found)
    parts = []
    for grid in dict.fromkeys(f["grid"] for f in found):
        later, earlier, _ = counts = moved([f for f in found if f["grid"] == grid], most, name)
        parts.append(f"{grid} {direction(counts)} ({later} later, {earlier} earlier)")
    return f"{name}: {', '.join(parts)}"


def section(rows, command):
    """The section of the page."""
    table, few = by_scale(rows), long_steps(rows)
    least, most = table[0], table[-1]
    scales = ", ".join(f"{t['scale']:g}" for t in table)
    asked = (PAIRS[2], PAIRS[0], PAIRS[3])
    found = crossovers(rows)
    ways = {
        pair: direction(moved(found, most["scale"], f"{pair[0]} below {pair[1]}")) for pair in asked
    }
    verdict = ", ".join(f"{a} against {b} **{way}**" for (a, b), way in ways.items())
    pairs = "; ".join(_says(rows, pair) for pair in asked)
    steps = "; ".join(
        f"{field}: " + ", ".join(
            f"{report.sig(f['DPM++ 2M'])} and {report.sig(f['DPM++ 3M exact'])} at {f['scale']:g}"
            for f in few if f["field"] == field and f["scale"] in (least["scale"], most["scale"])
        )
        for field in dict.fromkeys(f["field"] for f in few)
    )  # fmt: skip
    worst = max(few, key=lambda f: f["DPM++ 3M exact"] / f["DPM++ 2M"])
    paths = [r for r in rows if r["part"] == "path"]
    bends = "; ".join(
        f"{name} {', '.join(report.sig(t[name]) for t in table)}"
        for name in ("acceleration", "curvature", "rho_2")
    )
    return report.Section(
        question="Does guidance move the evaluations from which a higher order pays?",
        expected="Guidance bends paths, so orders 2 and 3 pay later at larger scales. With long steps in log-SNR order 3 blows up: "
        "a pilot had 4.3 at scale 4.5 and 41 at 7.5 with 10 evaluations, where order 2 had 0.8 and 1.8. On a shifted grid at 20 evaluations it is not order specific.",
        answer=f"From scale {least['scale']:g} to {most['scale']:g} the NFE from which the higher order pays moves: {verdict}. At scales {scales}, median over fields "
        f"and grids: {pairs}. The guided paths, same scales: {bends}. On the log-SNR grid with "
        f"{few[0]['nfe']} evaluations the errors of 2M and 3M exact are {steps}; 3M does worst against 2M on {worst['field']} at scale "
        f"{worst['scale']:g}: **{report.sig(worst['DPM++ 3M exact'] / worst['DPM++ 2M'])} times**.",
        figures=(_draw_ratios(rows), _draw_errors(rows)),
        table=table + wide(crossovers(rows)) + few,
        caveat=f"By grid, {'; '.join(_by_grid(rows, pair) for pair in asked)}. An evaluation is one of the guided field, two of a network. The condition is two of a mixture's "
        f"eight modes; an exact field is guided, no learnt one. Guided endpoints are {', '.join(report.sig(t['size'] / least['size']) for t in table)} times as large as the first, and errors "
        f"are relative to them; at least {min(r['in class'] for r in paths):.0%} of them end in the class. Each scale has its own reference, which doubling its "
        f"steps moved by at most {report.sig(max(r['doubling'] for r in paths))}. A crossover is the last time the ratio of RMS errors comes through 1.02, within the "
        "evaluations tried.",
        command=command,
    )
