"""(d) From how many evaluations on does the next order win, and does one law of scale say it?

On the ring a mode of width std is resolved at log-SNR -log(std). If order k needs its k steps to span less than pi/2
there, a grid uniform in t with a shift needs

    N*_k = (2 k/pi) / (u (1 - u)) = (2 k/pi) (r + 2 + 1/r),   u = 1/(1 + r),   r = shift/std,

which is (2 k/pi) shift/std when the modes are narrow. The law knows one event and nothing of the end of the grid, so it
is read twice: at the end of the run as it is, and with everything after the event solved accurately. Where "after"
begins is a choice, so it is also moved.
"""

import functools

import numpy as np
from scipy import optimize, special

from experiments import report
from experiments.order import lab
from experiments.order.curvature import plain_ticks
from flowjax import Linear, fields, grids, plans

QUESTION = "crossover"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "DPM++ 3M published")
PAIRS = (
    ("DPM++ 2M", "Euler", 2),
    ("DPM++ 3M exact", "DPM++ 2M", 3),
    ("DPM++ 3M published", "DPM++ 2M", 3),
)
ENDS = {
    "own": None,
    "solved": 1.0,
    "solved sooner": 0.0,
    "solved later": 2.0,
}  # from the last node at most so far past the event
DRAWN = {"own": "the run as it is", "solved": "the end solved accurately"}
STATISTICS = ("rms", "median")
BAND = 0.02


def cells(config):
    """One cell a width, shift, reading of the end and number of evaluations."""
    return [
        {"question": QUESTION, "std": std, "shift": shift, "end": end, "nfe": nfe}
        for std in config.stds
        for end in ENDS
        for shift in config.shifts
        for nfe in config.crossover_nfe
    ]


def measure(config, todo):
    """Yield (key, values): RMS and median error of each solver."""
    for std in dict.fromkeys(key["std"] for key in todo):
        field = fields.ring(Linear(), std=std)
        cell = lab.make_cell(field, config.seeds, config.samples, steps=config.reference_steps)
        for end in ENDS:
            keys = [key for key in todo if (key["std"], key["end"]) == (std, end)]
            if not keys:
                continue
            made = [_plan(solver, key) for key in keys for solver in SOLVERS]
            # Two lengths, so two programs: these fields are cheap and compiling is not.
            longest = max(plan.rows for plan in made)
            made = [
                plans.pad(plan, longest if 3 * plan.rows > longest else longest // 3)
                for plan in made
            ]
            errors = cell.errors(lab.run_plans(field, cell.noise, made)).reshape(
                len(keys), len(SOLVERS), -1
            )
            for key, own in zip(keys, errors, strict=True):
                found = {"rms": np.sqrt(np.mean(own**2, axis=1)), "median": np.median(own, axis=1)}
                values = {
                    name: dict(zip(SOLVERS, column.tolist(), strict=True))
                    for name, column in found.items()
                }
                yield key, {**values, "doubling": cell.doubling}


def _plan(solver, key):
    """The solver on the key's grid; unless the end is its own, only past the event, then fine RK4 steps to the data."""
    schedule, grid, past = Linear(), grids.uniform(key["nfe"], shift=key["shift"]), ENDS[key["end"]]
    head = lab.SOLVERS[solver]
    if past is None:
        return head.build(schedule, grid)
    lambdas = schedule.log_snr(grid)
    cut = max(int(np.sum(lambdas <= -np.log(key["std"]) + past)) - 1, 1)
    head = (
        head.build(schedule, grid[: cut + 1]) if cut >= head.order else plans.euler(grid[: cut + 1])
    )
    return plans.concat(head, _fine_end(float(grid[cut])))


@functools.lru_cache(maxsize=1000)  # the same for all solvers of a cell
def _fine_end(start):
    """RK4 from `start` to 0, in steps fine enough that what is left is the head's error."""
    schedule = Linear()
    low = float(schedule.log_snr(start))
    fine = schedule.time_of_log_snr(np.linspace(low, max(9.0, low + 2), 26)[1:])
    return plans.rk4(np.concatenate([[start], fine, [0.0]]))


def law(std, shift, order):
    """The predicted N*_k of the module's docstring."""
    ratio = shift / std
    return 2 * order / np.pi * (ratio + 2 + 1 / ratio)


def crossover(nfe, ratios, band=BAND):
    """(N, side): the smallest N from which the ratio of errors stays at or below 1 + band, between the N tried.

    Interpolated in log N against log ratio. `side` is "" where it lies within range; "below" where the ratio is never
    above the band (N is the least tried: N* is there or lower), "above" where it still is at the end (N is the largest).
    """
    order = np.argsort(nfe)
    nfe, excess = (
        np.asarray(nfe, float)[order],
        np.log(np.asarray(ratios, float)[order]) - np.log1p(band),
    )
    bad = np.flatnonzero(~(excess <= 0))  # NaN counts as above
    if not len(bad):
        return float(nfe[0]), "below"
    i = bad[-1]
    if i == len(nfe) - 1:
        return float(nfe[-1]), "above"
    share = excess[i] / (excess[i] - excess[i + 1]) if np.isfinite(excess[i]) else 1.0
    return float(nfe[i] * (nfe[i + 1] / nfe[i]) ** share), ""


def observed(rows):
    """[{end, statistic, pair, order, std, shift, law, judged, N*, side}]: every crossover, censored ones included.

    `judged`: the law lies within the range tried. Where it lies beyond, the range ends before the event that the law
    speaks of is met, and a ratio that happens to be below 1 at its end is no crossover.
    """
    table = []
    reach = min(r["nfe"] for r in rows), max(r["nfe"] for r in rows)
    groups = {}
    for row in rows:
        groups.setdefault((row["end"], row["std"], row["shift"]), []).append(row)
    for (end, std, shift), own in sorted(groups.items()):
        for statistic in STATISTICS:
            for a, b, order in PAIRS:
                ratios = [r[statistic][a] / r[statistic][b] for r in own]
                found, side = crossover([r["nfe"] for r in own], ratios)
                predicted = float(law(std, shift, order))
                table.append({
                    "end": end, "statistic": statistic, "pair": f"{a} below {b}", "order": order, "std": std, "shift": shift,
                    "law": predicted, "judged": reach[0] <= predicted <= reach[1], "N*": found, "side": side,
                })  # fmt: skip
    return table


def censored_line(x, y, side):
    """(height at the mean of x, slope, low, high) of a line through points of which some are only bounds.

    Maximum likelihood with normal scatter: a point counts with its density, a bound with the chance of lying beyond it
    (Tobin 1958). The 95 % interval of the slope is that of the likelihood ratio. Leaving bounds out flattens the line.

    Args:
      x, y: (n,) numbers; side: (n,) "" for a point, "above" or "below" for a bound. Three points at least.
    """
    x, y, side = np.asarray(x, float), np.asarray(y, float), np.asarray(side)
    x = x - x.mean()

    def loss(height, slope, log_scatter):
        log_scatter = max(
            log_scatter, -5.0
        )  # points exactly on a line have no scatter, and an infinite likelihood
        z = (y - height - slope * x) / np.exp(log_scatter)
        parts = (
            -(z**2) / 2 - 0.5 * np.log(2 * np.pi) - log_scatter,
            special.log_ndtr(-z),
            special.log_ndtr(z),
        )
        return -np.sum(np.select([side == "", side == "above", side == "below"], parts))

    def profile(slope):
        start = [np.mean(y), np.log(np.std(y - slope * x) + 1e-3)]
        return optimize.minimize(lambda p: loss(p[0], slope, p[1]), start, method="BFGS")

    slope = optimize.minimize_scalar(lambda b: profile(b).fun, bounds=(-10, 10), method="bounded").x
    best = profile(slope)

    def end(far):
        excess = lambda b: profile(b).fun - best.fun - 1.92  # half of the 95 % point of chi squared
        return (
            optimize.brentq(excess, slope, far, xtol=1e-3)
            if excess(far) > 0
            else np.sign(far) * np.inf
        )

    return float(best.x[0]), float(slope), float(end(slope - 20)), float(end(slope + 20))


def fits(table):
    """[{end, statistic, pair, seen, below, above, beyond, slope, low, high, factor}]: log N* against log law where judged."""
    result = []
    for end, statistic, pair in dict.fromkeys((r["end"], r["statistic"], r["pair"]) for r in table):
        every = [
            r for r in table if (r["end"], r["statistic"], r["pair"]) == (end, statistic, pair)
        ]
        own = [r for r in every if r["judged"]]
        sides = [r["side"] for r in own]
        fit = {"slope": None, "low": None, "high": None, "factor": None}
        if len({r["law"] for r in own if not r["side"]}) > 2:
            laws, found = (np.log([r[name] for r in own]) for name in ("law", "N*"))
            height, slope, low, high = censored_line(laws, found, sides)
            fit = {
                "slope": slope,
                "low": low,
                "high": high,
                "factor": float(np.exp(height - laws.mean())),
            }
        counts = {
            "seen": sides.count(""),
            "below": sides.count("below"),
            "above": sides.count("above"),
        }
        beyond = len(every) - len(own)
        result.append(
            {"end": end, "statistic": statistic, "pair": pair, **counts, "beyond": beyond, **fit}
        )
    return result


def ranks(table, third="DPM++ 3M exact"):
    """(holds, fails, open): whether N*_3 > N*_2 at each width and shift, a censored N* counting as its bound."""

    def bounds(row):
        return (0.0 if row["side"] == "below" else row["N*"]), (
            np.inf if row["side"] == "above" else row["N*"]
        )

    counts = [0, 0, 0]
    keyed = {(r["end"], r["statistic"], r["pair"], r["std"], r["shift"]): r for r in table}
    for (end, statistic, pair, std, shift), row in keyed.items():
        if row["order"] != 3 or not pair.startswith(third):
            continue
        other = keyed[end, statistic, "DPM++ 2M below Euler", std, shift]
        (low3, high3), (low2, high2) = bounds(row), bounds(other)
        judged = row["judged"] and other["judged"]
        holds, fails = low3 >= high2 and high3 > high2, high3 <= low2 and low3 < low2
        counts[2 if not judged else 0 if holds else 1 if fails else 2] += 1
    return tuple(counts)


def _says(fit, reach):
    """One fit as a clause: how many crossovers, their slope and factor, and what that says of the law."""
    text = (
        f"{fit['pair']} for good within the range tried in **{fit['seen']} of {fit['seen'] + fit['below'] + fit['above']}** cells (from "
        f"the start in {fit['below']}, not by {reach[1]} evaluations in {fit['above']})"
    )
    return f"{text}, {_slope(fit) or 'too few for a slope'}"


def _slope(fit):
    """The slope of a fit and what it says of the law, or None."""
    if fit["slope"] is None:
        return None
    text = f"log-log slope **{report.sig(fit['slope'])}** [{report.sig(fit['low'])}, {report.sig(fit['high'])}]"
    if not fit["low"] <= 1 <= fit["high"]:
        return f"{text}, which contradicts the law's 1"
    if fit["high"] - fit["low"] > 2:
        return f"{text}, too wide to judge the law's 1"
    return f"{text}, which agrees with the law's 1, at {report.sig(fit['factor'])} times the law"


def wide(table):
    """One row a reading, width and shift: the law and every crossover, those outside the range as "<= 4" or "> 80"."""
    marks = {"": "", "below": "<= ", "above": "> "}
    result = {}
    for r in table:
        row = result.setdefault(
            (r["end"], r["std"], r["shift"]),
            {"end": r["end"], "std": r["std"], "shift": r["shift"]},
        )
        row[f"law {r['order']}"] = r["law"]
        row[f"{r['pair']}, {r['statistic']}"] = f"{marks[r['side']]}{report.sig(r['N*'], 3)}"
    return list(result.values())


MARKS = {
    "DPM++ 2M below Euler": (report.BLUE, "s"),
    "DPM++ 3M exact below DPM++ 2M": (report.RED, "^"),
    "DPM++ 3M published below DPM++ 2M": (report.AMBER, "v"),
}


def _draw_law(table, reach):
    fig, axes = report.canvas(len(DRAWN), 1, width=4.6, height=6.8)
    for ax, end in zip(axes, DRAWN, strict=True):
        own = [r for r in table if r["end"] == end and r["statistic"] == "median"]
        for pair, (colour, marker) in MARKS.items():
            mine = [r for r in own if r["pair"] == pair]
            for fill, kept in (
                (colour, [r for r in mine if not r["side"]]),
                ("none", [r for r in mine if r["side"]]),
            ):
                label = {"label": pair} if fill == colour else {}
                ax.plot(
                    [r["law"] for r in kept],
                    [r["N*"] for r in kept],
                    marker,
                    color=colour,
                    markerfacecolor=fill,
                    **label,
                )
        ends = [min(r["law"] for r in own), max(r["law"] for r in own)]
        ax.plot(ends, ends, color=report.GREY, linewidth=0.8)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="N* by the law",
            ylabel="N* observed",
            ylim=(reach[0] / 1.3, reach[1] * 1.3),
        )
        plain_ticks(ax.xaxis, ends)
        plain_ticks(ax.yaxis, reach)
        ax.set_title(DRAWN[end])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return report.picture(
        fig,
        "Observed crossovers against the law, log-log, with the diagonal; one panel a reading of the end.",
        "Median errors; a point a width and shift. Hollow marks are bounds: the crossover lies outside the range tried.",
    )


def _draw_collapse(rows):
    fig, axes = report.canvas(len(DRAWN), 1, width=4.6, height=6.2)
    shifts = sorted({r["shift"] for r in rows})
    colours = [report.BLUE, report.RED, report.GREEN, report.AMBER, report.PINK, report.SKY]
    for ax, end in zip(axes, DRAWN, strict=True):
        for std in sorted({r["std"] for r in rows}):
            for shift, colour in zip(shifts, colours, strict=False):
                own = sorted(
                    (r for r in rows if (r["end"], r["std"], r["shift"]) == (end, std, shift)),
                    key=lambda r: r["nfe"],
                )
                at = [r["nfe"] / law(std, shift, 3) for r in own]
                ratio = [r["rms"]["DPM++ 3M exact"] / r["rms"]["DPM++ 2M"] for r in own]
                label = f"shift {shift:g}" if std == min(r["std"] for r in rows) else None
                ax.plot(at, ratio, color=colour, linewidth=1, marker=".", markersize=3, label=label)
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.axvline(1, color=report.INK, linewidth=0.8, linestyle=":")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="NFE / N* by the law",
            ylabel="error of 3M exact / of 2M",
        )
        plain_ticks(ax.xaxis, [r["nfe"] / law(r["std"], r["shift"], 3) for r in rows])
        plain_ticks(
            ax.yaxis,
            [r["rms"]["DPM++ 3M exact"] / r["rms"]["DPM++ 2M"] for r in rows if r["end"] == end],
        )
        ax.set_title(DRAWN[end])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return report.picture(
        fig,
        "Ratio of RMS errors of orders 3 and 2 against NFE over the law, a line a width and shift.",
        "If the law gives the scale, the lines fall on one another and cross 1 at the dotted line. RMS errors.",
    )


def section(rows, command):
    """The section of the page."""
    table = observed(rows)
    reach = min(r["nfe"] for r in rows), max(r["nfe"] for r in rows)
    found = {(f["end"], f["statistic"], f["pair"]): f for f in fits(table)}

    def said(end, statistic, some=PAIRS[:2]):
        return "; ".join(_says(found[end, statistic, f"{a} below {b}"], reach) for a, b, _ in some)

    first, second = (f"{a} below {b}" for a, b, _ in PAIRS[:2])
    early = {end: found[end, "median", first]["below"] for end in DRAWN}
    third = {
        end: found[end, "median", second]["seen"] + found[end, "median", second]["below"]
        for end in DRAWN
    }
    sides = ("seen", "below", "above")
    moved = [(end, found[end, "median", second]) for end in ENDS if end not in DRAWN]
    moved = "; ".join(
        f"{end} (at {ENDS[end]:g}): {_slope(fit) or 'too few crossovers'}" for end, fit in moved
    )
    judged, judged3 = (
        sum(found["own", "median", pair][side] for side in sides) for pair in (first, second)
    )

    holds, fails, unknown = ranks([r for r in table if r["end"] == "own"])
    solved = ranks([r for r in table if r["end"] == "solved"])
    return report.Section(
        question="How many evaluations does an order need, and does one law say it?",
        expected="The next order wins for good from N* = (2k/pi) (r + 2 + 1/r) on, r = shift/std: a log-log slope of 1, a factor "
        "within 2, and N* of order 3 above that of order 2. A pilot had found the opposite ranking once. The second reading, "
        "with the end solved, was added after the first results were seen.",
        answer=f"By median error order 2 is ahead of Euler from the fewest evaluations on in {early['own']} of {judged} cells (width x shift) as the run "
        f"is, and in **{early['solved']}** with the end solved accurately"
        f"{': much of what order 2 loses to Euler it loses at the end' if early['solved'] > early['own'] else ''}. Order 3 is below order 2 for good "
        f"by {reach[1]} evaluations in {third['own']} of {judged3} cells as the run is and in **{third['solved']}** with the end solved. "
        f"The law for order 3: as the run is, {_slope(found['own', 'median', second]) or 'too few crossovers for a slope'}; with the end solved, "
        f"{_slope(found['solved', 'median', second]) or 'too few crossovers for a slope'}. That order 3 needs more evaluations than order 2 holds "
        f"in {holds + solved[0]} comparisons, fails in {fails + solved[1]}, and is open in {unknown + solved[2]}.",
        figures=(_draw_law(table, reach), _draw_collapse(rows)),
        table=wide(table),
        caveat=f"In full, by median error, the run as it is: {said('own', 'median')}; with the end solved: {said('solved', 'median')}. By RMS error, the run as it is: {said('own', 'rms')}; with the end solved: {said('solved', 'rms')}. "
        f"The end is solved from the last node at most {ENDS['solved']:g} past the event in log-SNR; moving that changes what order 3 (median) "
        f"says of the law: {moved}. An N* is the last time the ratio comes down through {1 + BAND:g}, so one late bump moves it far. Slopes count crossovers outside "
        f"the range as bounds, and leave out the cells whose law lies outside it ({sum(not r['judged'] for r in table)} of {len(table)} "
        f"rows): there the range ends before the event. The published third order, as the run is: {said('own', 'median', PAIRS[2:])}; with "
        f"the end solved: {said('solved', 'median', PAIRS[2:])}.",
        command=command,
    )
