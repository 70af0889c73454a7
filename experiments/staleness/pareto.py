"""(j) Which policy buys most for its synchronous steps: fixed ones, rules, or a tolerance?"""

import numpy as np

from configs.latency import DEVICES
from experiments import report
from experiments.staleness import draw, lab
from flowjax.models import dit
from flowjax.parallel.analysis import latency
from flowjax.parallel.stale import policies

QUESTION = "pareto"
FORECASTS = (0, "tuned")
MACHINE, NETWORK, SHAPE = (
    "A100 PCIe",
    "DiT-XL/2",
    (1, 128, 128, 4),
)  # of the modelled seconds: an image of 1024 x 1024
KINDS = {"warm-up": report.BLUE, "sqrt rule": report.SKY, "cool-down": report.GREEN, "window": report.PINK,
         "every": report.AMBER, "tolerance": report.RED}  # fmt: skip


def policy(name, plan):
    """The policy called `name`: its kind and its number; of a window the first and the last of its steps."""
    kind, number = name.rsplit(" ", 1)
    steps = plan.steps
    if kind == "window":
        first, last = map(int, number.split("-"))
        return policies.window(plan, plan.t[first], plan.t[last])
    if kind == "sqrt rule":
        return policies.sqrt_rule(steps, float(number), lab.DEVICES)
    if kind == "tolerance":
        return policies.tolerance(steps, float(number))
    make = {"warm-up": policies.warm_up, "cool-down": policies.cool_down, "every": policies.every}[
        kind
    ]
    return make(steps, int(number))


def names(config):
    """The policies of a plan with `config.one_steps` steps; those of one length in every quarter of it are named by its steps."""
    steps = config.one_steps
    quarter = steps // 4
    spans = [(i, i + max(quarter - 2, 0)) for i in range(quarter, steps - quarter + 1, quarter)]
    spans += [(quarter, 3 * quarter - 2), (2 * quarter, steps - 2)]
    found = (
        *(f"warm-up {max(round(steps * part), 1)}" for part in (0, 0.2, 0.4, 0.6)),
        *(f"sqrt rule {base}" for base in (1, 2)),
        *(f"cool-down {round(steps * part) - 1}" for part in (0.2, 0.4, 0.6)),
        *(f"window {first}-{last}" for first, last in spans),
        *(f"every {period}" for period in (2, 3, 5)),
        *(f"tolerance {tol:g}" for tol in config.tolerances),
    )
    return list(dict.fromkeys(found))


def cells(config):
    """One cell a subject, forecast and policy."""
    return [
        {"question": QUESTION, "subject": subject, "forecast": forecast, "policy": name}
        for forecast in FORECASTS
        for subject in config.asked
        for name in names(config)
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to one synchronous step and held keys and values."""
    plan = lab.plan_of(config.one_solver, config.one_steps)
    return lab.measured(
        config,
        todo,
        lambda key: {"forecast": key["forecast"], "policy": policy(key["policy"], plan)},
        lambda key: key | {"forecast": 0, "policy": "warm-up 1"},
    )


def seconds(synced, steps, devices):
    """Modelled seconds of a guided image by `NETWORK` on `MACHINE`, by how many of its steps are synchronous."""
    network = dit.preset(NETWORK, size=SHAPE[1:3])
    found = latency.of_run(
        network, SHAPE, steps, synced, "stale", devices, DEVICES[MACHINE], guidance=4.0
    )
    return found.total


def kind(row):
    """The kind of a row's policy."""
    return row["policy"].rsplit(" ", 1)[0]


def front(rows):
    """The rows that no other row beats in synchronous steps and error alike, by their steps; not where every step is."""
    best, found = np.inf, []
    rows = [row for row in rows if row["synced"] < row["steps"]]
    for row in sorted(rows, key=lambda r: (r["synced"], r["sync_rms"])):
        if row["sync_rms"] < best:
            best = row["sync_rms"]
            found.append(row)
    return found


def duels(rows):
    """[{policy, synced, error, of tolerance, ratio}]: each fixed policy against the tolerances on as many steps or fewer.

    Between two tolerances the error is interpolated, its logarithm linear in the number of steps, as a tolerance between
    would do; beyond them nothing is said.
    """
    own = front([r for r in rows if kind(r) == "tolerance"])
    at, error = np.array([r["synced"] for r in own], float), np.log([r["sync_rms"] for r in own])
    table = []
    for row in rows:
        if kind(row) != "tolerance" and len(own) and at[0] <= row["synced"] <= at[-1]:
            reached = float(np.exp(np.interp(row["synced"], at, error)))
            table.append(
                {name: row[name] for name in ("subject", "forecast", "policy", "synced")}
                | {
                    "error": row["sync_rms"],
                    "by tolerance": reached,
                    "ratio": reached / row["sync_rms"],
                }
            )
    return table


def regrets(rows):
    """[{forecast, policy, worst on, and its regret on each subject}]: error over the best of all policies on as many steps.

    The regret of a kind on a subject is the geometric mean over its rows; the rule of sqrt(n) is a warm-up.
    """
    table = {}
    for (subject, forecast), own in groups(rows).items():
        own = [r for r in own if 1 < r["synced"] < r["steps"]]
        for name in [name for name in KINDS if name != "sqrt rule"]:
            logs = [
                np.log(
                    r["sync_rms"] / min(o["sync_rms"] for o in own if o["synced"] <= r["synced"])
                )
                for r in own
                if kind(r).replace("sqrt rule", "warm-up") == name
            ]
            if logs:
                found = table.setdefault((forecast, name), {"forecast": forecast, "policy": name})
                found[subject] = float(np.exp(np.mean(logs)))
    subjects = dict.fromkeys(row["subject"] for row in rows)
    return [
        found | {"worst on": max((s for s in subjects if s in found), key=found.get)}
        for found in table.values()
    ]


def groups(rows):
    """{(subject, forecast): its rows}."""
    found = {}
    for row in rows:
        found.setdefault((row["subject"], row["forecast"]), []).append(row)
    return found


def section(rows, command):
    """The section of the page."""
    fought = [duel for own in groups(rows).values() for duel in duels(own)]
    fig, shown = draw.panels(rows, height=3.6)
    for ax, _, own in shown:
        _draw(ax, own)
    first = rows[0]
    dear = [seconds(count, first["steps"], first["devices"]) for count in (1, first["steps"])]
    said = "\n".join([*(_said(fought, *key) for key in groups(rows)), *_safest(rows)])
    return report.Section(
        question="Which policy buys most for its synchronous steps?",
        expected="A tolerance, which sees when keys and values change; a fixed place can only guess. It cannot know which changes matter to the "
        "sample, so a window that was chosen with the errors known may beat it.",
        answer=said,
        figures=(
            report.picture(
                fig,
                "Distance to the synchronous run against the number of synchronous steps, a mark for each policy; a line joins the tolerances.",
                f"{first['solver']}, {first['steps']} steps, {first['devices']} devices. Filled: keys and values held; hollow: forecast, tuned. From 1 to "
                f"{first['steps']} synchronous steps are {report.sig(dear[0])} to {report.sig(dear[1])} modelled seconds of a guided image of 1024 x 1024 by "
                f"{NETWORK} on as many {MACHINE}, a straight line between.",
            ),
        ),
        table=[*regrets(rows), *fought, *draw.columns(rows, ("subject", "forecast", "policy", "synced"))],
        caveat="A tolerance decides for the whole batch by its worst sample; alone, a sample would take fewer synchronous steps. Ratios of tolerances to fixed "
        "policies interpolate between the tolerances measured. " + draw.converged(rows),
        command=command,
    )  # fmt: skip


def _safest(rows):
    """For each forecast, how far each kind of policy is from the best at worst, as a sentence."""
    for forecast in dict.fromkeys(row["forecast"] for row in rows):
        own = sorted(
            (r for r in regrets(rows) if r["forecast"] == forecast), key=lambda r: r[r["worst on"]]
        )
        told = ", ".join(
            f"{r['policy']} {report.sig(r[r['worst on']])} ({lab.NAMES[r['worst on']]})"
            for r in own
        )
        how = "Held" if forecast == 0 else "Forecast"
        yield f"{how}, the mean error over that of the best policy with as many synchronous steps is, on the subject where it is largest: {told}."


def _draw(ax, own):
    own = [r for r in own if r["synced"] < r["steps"]]
    for forecast in FORECASTS:
        for name, colour in KINDS.items():
            rows = sorted(
                (r for r in own if (r["forecast"], kind(r)) == (forecast, name)),
                key=lambda r: (r["synced"], r["policy"]),
            )
            joined = (
                ("-" if forecast == 0 else "--")
                if name in ("tolerance", "warm-up", "cool-down")
                else "none"
            )
            ax.plot(
                [r["synced"] for r in rows], [r["sync_rms"] for r in rows], linestyle=joined, marker="o", color=colour, linewidth=0.9,
                markerfacecolor=colour if forecast == 0 else "none", label=name if forecast == 0 else None,
            )  # fmt: skip
    ax.set(
        yscale="log",
        xlabel=f"synchronous steps, of {own[0]['steps']}",
        ylabel="RMS distance to the synchronous run",
    )
    ax.axhline(own[0]["own_rms"], color=report.GREY, linestyle=(0, (1, 3)))
    ax.annotate(
        "the solver's own error",
        (1, own[0]["own_rms"]),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7,
    )
    ax.legend(fontsize=7, ncols=2)


def _said(fought, subject, forecast):
    duels_here = [d for d in fought if (d["subject"], d["forecast"]) == (subject, forecast)]
    how = "held" if forecast == 0 else "forecast"
    if not duels_here:
        return f"On {lab.NAMES[subject]}, {how}, no fixed policy lies between the tolerances."
    won = sum(d["ratio"] < 1 for d in duels_here)
    lost = sorted((d for d in duels_here if d["ratio"] >= 1), key=lambda d: -d["ratio"])
    told = ", ".join(f"{d['policy']} ({report.sig(d['ratio'])} times its error)" for d in lost[:3])
    ratio = float(np.exp(np.mean(np.log([d["ratio"] for d in duels_here]))))
    return (
        f"On {lab.NAMES[subject]}, {how}, the tolerance beats **{won} of {len(duels_here)}** fixed policies at as many synchronous steps, with "
        f"{report.sig(ratio)} times their error on the mean"
        + (f"; it loses to {told}." if lost else ".")
    )
