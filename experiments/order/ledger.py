"""(e) What keeps order 3 from paying: a ledger of seven causes, mended one by one and in every combination."""

import math

import jax
import numpy as np

import flowjax
from experiments import report
from experiments.order import lab
from flowjax import fields, grids, plans

QUESTION = "ledger"
FACTORS = ("last jump", "first jump", "grid", "start", "weight", "lowering", "labels")
COUPLED = (
    "coupled ring"  # the ring with paths straightened: only for the remainder, not in the averages
)
TIE = 0.02
STARTS = 16  # a seed: all combinations on 16 are worth more than a few on 64
FINE = 12  # RK4 steps of an exact last step


def shapley(values):
    """Shapley values (k, ...) of a game whose worth for each subset of k players is `values` (2^k, ...).

    Bit i of the first index says whether player i takes part. A player's value is its mean gain over all orders of
    joining (Shapley 1953): sum over S without i of |S|! (k-|S|-1)!/k! (v(S with i) - v(S)). They sum to v(all) - v(none).
    """
    values = np.asarray(values, np.float64)
    count = len(values).bit_length() - 1
    if len(values) != 1 << count:
        raise ValueError(
            f"ledger.shapley: {len(values)} worths; wanted one for each subset, a power of two."
        )
    sets = np.arange(len(values))
    size = np.array([int(s).bit_count() for s in sets])
    shares = []
    for player in range(count):
        without = sets[sets >> player & 1 == 0]
        weight = [
            math.factorial(n) * math.factorial(count - n - 1) / math.factorial(count)
            for n in size[without]
        ]
        shares.append(np.tensordot(weight, values[without | 1 << player] - values[without], axes=1))
    return np.array(shares)


def ledger_nfe(config):
    """The config's evaluations nearest to 10, 20 and 50."""
    return sorted(
        {
            min((n for n in config.nfe if n >= 5), key=lambda n: abs(math.log(n / at)))
            for at in (10, 20, 50)
        }
    )


def cells(config):
    """One cell a field, shift and number of steps: all combinations are measured together."""
    chosen = [(name, ledger_nfe(config)) for name in config.cause_fields]
    if "ring" in config.cause_fields:
        chosen.append((COUPLED, ledger_nfe(config)[1:2]))
    return [
        {"question": QUESTION, "field": field, "shift": shift, "nfe": nfe}
        for field, counts in chosen
        for shift in config.shifts
        for nfe in counts
    ]


def exact_plan(schedule, start, end, steps, high=6.0):
    """RK4 with `steps` steps from `start` to `end`, uniform in log-SNR; what lies beyond -7 and `high` is one step."""
    low, high = (np.clip(schedule.log_snr(np.array(t)), -7.0, high) for t in (start, end))
    plan = plans.rk4(lab.fine_grid(schedule, steps + 1, start=start, end=end, low=low, high=high))
    return plans.pad(plan, 4 * steps)


def thousandths(times, cut="floor"):
    """Times as whole thousandths: cut down ("floor"), as diffusers casts its flow timesteps, or to the "nearest"."""
    return np.floor(1000 * times + (1e-6 if cut == "floor" else 0.5)) / 1000


def inner_plan(schedule, shift, steps, order, mended):
    """The steps of DPM++ between the first time and the last jump, some of them mended.

    Args:
      steps: of the whole grid, which has `steps - 1` before the last jump.
      order: 1, 2 or 3; weight and lowering concern 3 alone.
      mended: a set of names of FACTORS. With "first jump" the plan begins at t_1 instead of t = 1.

    Returns:
      A plan of at most `steps` rows.
    """
    times = grids.uniform(steps, shift=shift)
    if "grid" in mended:
        times[1:-1] = grids.log_snr(schedule, steps - 2, start=times[1], end=times[-2])
    times = times[1:-1] if "first jump" in mended else times[:-1]
    if order == 1:
        plan = plans.euler(times)
    else:
        plan = plans.dpm_solver_pp(
            schedule, times, order,
            third_order="exact" if "weight" in mended else "published",
            start="singlestep" if "start" in mended else "cold",
            final="auto" if "lowering" in mended else (2,),  # and the jump that follows has order 1: the rule of SANA
        )  # fmt: skip
    return plan if "labels" in mended else plans.with_labels(plan, thousandths(plan.t))


@jax.jit
def _both_ends(field, start, inner, t_last, labels, fine):
    """Endpoints (P, B, *D) by the first-order jump from `t_last`, told `labels` (P,), and by the fine steps, of P inner plans."""

    def run(pair):
        before = flowjax.sample(field.velocity, start, pair[0]).x
        return before - t_last * field.velocity(before, pair[1]), flowjax.sample(
            field.velocity, before, fine
        ).x

    return jax.lax.map(run, (inner, labels), batch_size=8)


def subset(index):
    """The names whose bit is set."""
    return {name for i, name in enumerate(FACTORS) if index >> i & 1}


def endpoints(field, noise, shift, steps, rows, reference_steps):
    """{(order, subset's index): endpoints (B, *D)} of order 3 with every subset mended, and of 1 and 2 with none and all.

    Args:
      rows: to which inner plans are padded, so that all step counts share a program.
    """
    schedule, everything = field.schedule, (1 << len(FACTORS)) - 1
    times = grids.uniform(steps, shift=shift)
    fine = exact_plan(schedule, times[-2], 0.0, FINE)
    begun = lab.solve(field, noise, exact_plan(schedule, 1.0, times[1], reference_steps // 2))
    jump, first = 1 << FACTORS.index("last jump"), 1 << FACTORS.index("first jump")
    found = {}
    for start, bit in ((noise, 0), (begun, first)):
        todo = [(3, s | bit) for s in range(everything + 1) if not s & (jump | first)]
        todo += [(order, everything - jump if bit else 0) for order in (1, 2)]
        made = [inner_plan(schedule, shift, steps, order, subset(s)) for order, s in todo]
        labels = [times[-2] if "labels" in subset(s) else thousandths(times[-2]) for _, s in todo]
        stacked = jax.tree.map(
            lambda *columns: np.stack(columns), *(plans.pad(p, rows) for p in made)
        )
        by_jump, exactly = _both_ends(
            field, np.asarray(start), stacked, times[-2], np.array(labels), fine
        )
        found |= {key: np.asarray(x) for key, x in zip(todo, by_jump, strict=True)}
        found |= {
            (order, s | jump): np.asarray(x) for (order, s), x in zip(todo, exactly, strict=True)
        }
    return found


def _field(config, name):
    if name == COUPLED:
        return fields.couple(lab.make_field("ring"), max(config.couplings))
    return lab.make_field(name)


def measure(config, todo):
    """Yield (key, values): log mean squared errors by seed of every combination."""
    for name in dict.fromkeys(key["field"] for key in todo):
        cell = lab.make_cell(
            _field(config, name),
            config.seeds,
            min(config.samples, STARTS),
            steps=config.reference_steps,
        )
        for key in [key for key in todo if key["field"] == name]:
            found = endpoints(
                cell.field,
                cell.noise,
                key["shift"],
                key["nfe"],
                max(ledger_nfe(config)),
                config.reference_steps,
            )
            square = {k: cell.errors([x])[0] ** 2 for k, x in found.items()}
            by_seed = {
                k: [
                    round(float(np.log(np.mean(e[cell.seed == s]))), 3) for s in range(config.seeds)
                ]
                for k, e in square.items()
            }
            full = (1 << len(FACTORS)) - 1
            yield (
                key,
                {
                    "log_squares": [by_seed[3, s] for s in range(full + 1)],
                    "lower": [
                        {"order": n, "shipped": by_seed[n, 0], "mended": by_seed[n, full]}
                        for n in (1, 2)
                    ],
                },
            )


# ---- what the rows say


def log_errors(squares, picks=None):
    """Log RMS error, (...,) from log mean squares by seed (..., S); with picks (R, S) that of the resamples, (..., R)."""
    squares = np.exp(np.asarray(squares))
    return 0.5 * np.log(np.mean(squares if picks is None else squares[..., picks], axis=-1))


def _picks(rows, resamples=400):
    """Seeds drawn with return, (R, S); the same at every call, so that all cells and solvers are resampled together."""
    seeds = len(rows[0]["log_squares"][0])
    return np.random.default_rng(0).integers(seeds, size=(resamples, seeds))


def ledger(rows):
    """[{cause, gain, low, high, ...}]: the log of what mending each factor divides the error by, mean over cells."""
    picks = _picks(rows)
    each = -shapley(
        np.stack([log_errors(r["log_squares"]) for r in rows], axis=1)
    )  # (factors, cells)
    drawn = -shapley(np.mean([log_errors(r["log_squares"], picks) for r in rows], axis=0))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1).tolist()
    mean = each.mean(1)
    return [
        {"cause": name, "gain": float(mean[i]), "low": low[i], "high": high[i], "share": float(mean[i] / mean.sum()),
         "least": float(each[i].min()), "most": float(each[i].max())}
        for i, name in enumerate(FACTORS)
    ]  # fmt: skip


def _against(row, state, order, other):
    """(ratio of the errors of two orders, verdict) with nothing ("shipped") or everything ("mended") mended."""

    def logs(n, picks=None):
        if n == 3:
            return log_errors(row["log_squares"][0 if state == "shipped" else -1], picks)
        return log_errors(next(o[state] for o in row["lower"] if o["order"] == n), picks)

    picks = _picks([row])
    low, high = np.quantile(logs(order, picks) - logs(other, picks), [0.025, 0.975])
    verdict = (
        "better" if high < -math.log(1 + TIE) else "worse" if low > math.log(1 + TIE) else "tie"
    )
    return math.exp(logs(order) - logs(other)), verdict


def by_cell(rows):
    """One line a cell: the error of 3M shipped and mended, orders against each other in both states, the ledger."""
    table = []
    for r in rows:
        logs = log_errors(r["log_squares"])
        line = {k: r[k] for k in ("field", "shift", "nfe")}
        line |= {"3M shipped": math.exp(logs[0]), "3M mended": math.exp(logs[-1])}
        for a, b in ((3, 2), (2, 1)):
            for state in ("shipped", "mended"):
                line[f"{a} / {b}, {state}"], line[f"{a} / {b}, {state}: verdict"] = _against(
                    r, state, a, b
                )
        table.append(line | dict(zip(FACTORS, (-shapley(logs)).tolist(), strict=True)))
    return table


def _mean(values):
    return math.exp(np.mean(np.log(list(values))))


def _orders(table, state):
    """How order 3 does against 2 in these cells, as words."""
    verdicts = [t[f"3 / 2, {state}: verdict"] for t in table]
    return (
        f"{report.sig(_mean(t[f'3 / 2, {state}'] for t in table))} {state} (better in {verdicts.count('better')}, "
        f"worse in {verdicts.count('worse')} of {len(table)})"
    )


def _grouped(table, name):
    return [
        (value, [t for t in table if t[name] == value])
        for value in sorted({t[name] for t in table})
    ]


def section(rows, command):
    """The section of the page."""
    plain = [r for r in rows if r["field"] != COUPLED]
    table = by_cell(plain)
    ranked = sorted(ledger(plain), key=lambda b: -b["gain"])
    harmful = [b["cause"] for b in ranked if b["high"] < 0]
    unclear = [b["cause"] for b in ranked if b["low"] <= 0 <= b["high"]]
    largest = [b["cause"] for b in ranked[:2]]
    shares = ", ".join(f"{b['cause']} {b['share']:.0%}" for b in ranked)
    by_shift = "; ".join(
        f"shift {shift:g}: " + " and ".join(
            f"{name} {np.mean([t[name] for t in own]) / np.mean([sum(t[f] for f in FACTORS) for t in own]):.0%}" for name in largest
        )
        for shift, own in _grouped(table, "shift")
    )  # fmt: skip
    by_nfe = "; ".join(
        f"{n} steps: {_orders(own, 'shipped')}, {_orders(own, 'mended')}"
        for n, own in _grouped(table, "nfe")
    )
    fig, ax = report.canvas(height=2.9)
    report.bar_ledger(
        ax, ranked, label="cause", value="gain", low="low", high="high",
        xlabel="log of what mending divides the error by",
    )  # fmt: skip
    return report.Section(
        question="What keeps order 3 from paying, and which cause carries how much?",
        expected="The last first-order jump carries most, then the t-uniform grid; the half weight of 3M costs the order by the book, "
        "but little at these steps, where it damps; labels cost nothing below 50 steps. Mended, order 3 beats order 2 from about 20 steps on.",
        answer=f"Mending all {len(FACTORS)} causes divides the error of DPM++ 3M by **{report.sig(math.exp(sum(b['gain'] for b in ranked)))}** (geometric mean over "
        f"{len(plain)} cells). Shares of that gap, in log error: **{shares}**. "
        + (f"Mending {' and '.join(harmful)} raises the error on average. " if harmful else "")
        + (f"Not told from nothing: {', '.join(unclear)}. " if unclear else "")
        + f"Error of 3M over that of 2M in the same state, {by_nfe}.",
        figures=(
            report.picture(
                fig,
                "One bar a cause: "
                + "; ".join(f"{b['cause']} {report.sig(b['gain'])}" for b in ranked)
                + ".",
                f"Shapley values over all {1 << len(FACTORS)} combinations on the same noise, mean over fields "
                f"({', '.join(dict.fromkeys(t['field'] for t in table))}), shifts and steps; lines: 95 % intervals over "
                f"{len(rows[0]['log_squares'][0])} seeds. 0.69 is a factor of 2. "
                + _extremes(ranked),
            ),
        ),
        table=by_cell(rows),
        caveat=f"The two largest by shift: {by_shift}. In {sum(t['3M mended'] > t['3M shipped'] for t in table)} of {len(table)} cells 3M is "
        f"worse when all is mended. {_curvature(rows)} {_caveat(plain, table)}",
        command=command,
    )


def _extremes(ranked):
    """How far single cells are from the mean."""
    return "Single cells reach from " + ", ".join(
        f"{report.sig(b['least'])} to {report.sig(b['most'])} ({b['cause']})" for b in ranked[:2]
    ) + "."  # fmt: skip


def _curvature(rows):
    """What is left when all is mended, against the same ring with straightened paths."""
    table = by_cell(rows)
    straight = {(t["shift"], t["nfe"]): t for t in table if t["field"] == COUPLED}
    pairs = [
        (t, straight[key])
        for t in table
        if t["field"] == "ring" and (key := (t["shift"], t["nfe"])) in straight
    ]
    if not pairs:
        return ""
    shipped, left = (
        _mean(a[name] / b[name] for a, b in pairs) for name in ("3M shipped", "3M mended")
    )
    verdict = (
        "curvature is a part of what is left"
        if left > 1 + TIE
        else "what is left is not the paths' curvature"
    )
    return (
        f"Tying noise to data on the ring, which straightens paths, divides what is left of the error of 3M when all is mended by {report.sig(left)}, "
        f"and the shipped one by {report.sig(shipped)} (at {pairs[0][0]['nfe']} steps): {verdict}."
    )


def _caveat(plain, table):
    worst = max(table, key=lambda t: t["3 / 2, mended"])
    shipped = [grids.uniform(t["nfe"], shift=t["shift"]) for t in table]
    whole = sum(np.allclose(thousandths(times), times, atol=1e-9) for times in shipped)
    late = _mean(
        t["3M mended"] / t["3M shipped"]
        for t in table
        if t["shift"] == min(t["shift"] for t in table)
    )
    return (
        "Exact first and last steps and the singlestep start cost evaluations that are not counted: this divides a loss among causes, it "
        f"is no contest. The grid is mended between the same first and last times. In {whole} of {len(table)} cells the shipped times are whole "
        "thousandths, so that labels differ only once the grid is mended. "
        f"At the smallest shift alone mending divides the error by {report.sig(1 / late)}. Mended 3M does "
        f"worst against 2M on {worst['field']}, shift {worst['shift']:g}, {worst['nfe']} steps: ratio {report.sig(worst['3 / 2, mended'])}. "
        f"Better and worse are beyond {TIE:.0%} with the whole interval."
    )
