"""(n) What is a forecast of stale keys and values worth, and which one is stable?"""

import dataclasses

from experiments import report
from experiments.staleness import draw, lab
from flowjax.parallel import policies

QUESTION = "forecasts"
FORECASTS = {0: "hold", 1: "linear", 2: "quadratic", "tuned": "tuned"}
OTHERS = {"digits": ("digits-smooth", "digits-ot")}  # networks of the same size: told 1 - t, trained on a coupling
FEWER, FINER = (2, 4), 2  # devices, and times as many steps, of one network
WARM, SYNC = "first 4", ("first 4", "last 2", "last 4")  # steps that are synchronous beside the first


def cells(config):
    """One cell a subject and forecast, and with a warm-up; of the network also fewer devices, a cool-down, and twice the steps."""
    steps, found = config.one_steps, []

    def cell(subject, forecast, devices=lab.DEVICES, sync="first 1", steps=steps, network=config.network):
        network = network if subject == "network" else ""
        found.append(
            {"question": QUESTION, "subject": subject, "network": network, "devices": devices, "steps": steps, "sync": sync,
             "forecast": forecast}
        )  # fmt: skip

    for subject in config.asked:
        for forecast in FORECASTS:
            cell(subject, forecast)
        if subject != "network":
            for forecast in (0, "tuned"):
                cell(subject, forecast, sync=WARM)
    if "network" in config.asked:
        for forecast in FORECASTS:
            for devices in FEWER:
                cell("network", forecast, devices)
            for network in OTHERS.get(config.network, ()):
                cell("network", forecast, network=network)
        for forecast in (0, "tuned"):
            for sync in SYNC:
                cell("network", forecast, sync=sync)
            cell("network", forecast, steps=FINER * steps)
    return found


def policy(sync, steps):
    """The first or the last so many steps."""
    where, count = sync.split()
    return {"first": policies.warm_up, "last": policies.cool_down}[where](steps, int(count))


def measure(config, todo):
    """Yield (key, values); ratios are to held keys and values, all else equal. `total` is the error over the own run's."""
    for network in dict.fromkeys(key["network"] for key in todo):
        own = dataclasses.replace(config, network=network or config.network)
        found = lab.measured(
            own,
            [key for key in todo if key["network"] == network],
            lambda key: {
                "forecast": key["forecast"], "devices": key["devices"], "steps": key["steps"],
                "policy": policy(key["sync"], key["steps"]),
            },
            lambda key: key | {"forecast": 0},
        )  # fmt: skip
        for key, values in found:
            yield key, values | {"total": values["exact_rms"] / values["own_rms"]}


def name_of(row):
    """What was sampled from."""
    return f"the network {row['network']}" if row["network"] else lab.NAMES[row["subject"]]


def how(row, steps):
    """Devices, steps and synchronous steps of a row, as far as they are not the common ones."""
    sync = f", {row['sync']} synchronous" if row["sync"] != "first 1" else ""
    return f"{row['devices']} devices" + (f", {row['steps']} steps" if row["steps"] != steps else "") + sync


def section(rows, command):
    """The section of the page."""
    steps = min(r["steps"] for r in rows)
    rows = sorted(rows, key=lambda r: (name_of(r), r["steps"], r["sync"], r["devices"]))
    shown = [dict(r, run=f"{name_of(r).removeprefix('the ')}, {how(r, steps)}") for r in rows if r["forecast"] != 0]
    names = list(dict.fromkeys(r["run"] for r in shown))
    fig, ax = report.canvas(1, 1, height=0.25 * len(names) + 0.8, width=5.6)
    for kind in dict.fromkeys(r["forecast"] for r in shown):
        own = [(names.index(r["run"]), r) for r in shown if r["forecast"] == kind]
        places, at = [place for place, _ in own], [r["rms_ratio"] for _, r in own]
        (dots,) = ax.plot(at, places, "o", label=FORECASTS[kind])
        ax.hlines(places, [r["rms_low"] for _, r in own], [r["rms_high"] for _, r in own], color=dots.get_color())
    ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", xlabel="RMS distance to the synchronous run, over that of holding")
    ax.invert_yaxis()
    ax.legend()
    said = []
    for row in rows:
        if row["forecast"] == "tuned":
            held = next(r for r in rows if r["forecast"] == 0 and how(r, 0) + name_of(r) == how(row, 0) + name_of(row))
            said.append(
                f"{name_of(row)}, {how(row, steps)}: {draw.ratio(row)} of hold's distance; error in all {report.sig(row['total'], 3)} times the synchronous "
                f"run's, held {report.sig(held['total'], 3)}"
            )
    plain = [r for r in rows if r["forecast"] in (1, 2)]
    worse = [r for r in plain if r["rms_ratio"] > 1]
    return report.Section(
        question="What is a forecast of stale keys and values worth?",
        expected="Second order in the place of first, where it is stable. Plain extrapolation is not on many devices; the slope over two steps, with a gain "
        "fitted to the row before, should be: the aim on 8 devices is a quarter of hold's distance, and an error in all within 5 % of the synchronous run's.",
        answer=_aims(rows) + " Tuned, on " + "; ".join(said) + f". Plain extrapolation, linear or quadratic, is worse than holding in {len(worse)} of {len(plain)} cells.",
        figures=(
            report.picture(
                fig,
                "Points with intervals: the distance to the synchronous run with a forecast, over that of held keys and values, for each subject, number of devices "
                "and forecast.",
                f"{rows[0]['solver']}, {steps} steps unless said; the first step is always synchronous.",
            ),
        ),
        table=[
            {"of": name_of(r), "devices": r["devices"], "steps": r["steps"], "sync": r["sync"], "forecast": FORECASTS[r["forecast"]],
             "total": r["total"]} | draw.columns([r], ())[0]
            for r in rows
        ],
        caveat="A sender forecasts before it sends, so no byte more is moved. " + draw.converged(rows),
        command=command,
    )  # fmt: skip


def _aims(rows):
    """Where the aims on `lab.DEVICES` devices with one synchronous step are met."""
    at = [r for r in rows if (r["forecast"], r["devices"], r["sync"]) == ("tuned", lab.DEVICES, "first 1")]
    at = [r for r in at if r["steps"] == min(row["steps"] for row in rows)]
    near, whole = ([name_of(r) for r in at if r[name] <= most] for name, most in (("rms_ratio", 0.25), ("total", 1.05)))
    said = lambda names: f"on {', '.join(names)}" if names else "nowhere"
    return f"Of {len(at)} subjects a quarter of hold's distance is reached {said(near)}, an error in all within 5 % {said(whole)}."
