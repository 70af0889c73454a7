"""(n) What is a forecast of stale keys and values worth, and which one is stable?"""

import dataclasses

from experiments import report
from experiments.staleness import draw, lab
from flowjax.parallel import policies

QUESTION = "forecasts"
FORECASTS = {0: "hold", 1: "linear", 2: "quadratic", "tuned": "tuned"}
OTHERS = {"digits": ("digits-smooth", "digits-ot")}  # networks of the same size: told 1 - t, trained on a coupling
FEWER, COOL, FINER = (2, 4), (2, 4), 2  # devices, last synchronous steps, times as many steps: of one network


def cells(config):
    """One cell a subject and forecast; of the network also fewer devices, a cool-down, and twice the steps."""
    steps, found = config.one_steps, []

    def cell(subject, forecast, devices=lab.DEVICES, cool=0, steps=steps, network=config.network):
        network = network if subject == "network" else ""
        found.append(
            {"question": QUESTION, "subject": subject, "network": network, "devices": devices, "steps": steps, "cool": cool,
             "forecast": forecast}
        )  # fmt: skip

    for subject in config.asked:
        for forecast in FORECASTS:
            cell(subject, forecast)
    if "network" in config.asked:
        for forecast in FORECASTS:
            for devices in FEWER:
                cell("network", forecast, devices)
            for network in OTHERS.get(config.network, ()):
                cell("network", forecast, network=network)
        for forecast in (0, "tuned"):
            for cool in COOL:
                cell("network", forecast, cool=cool)
            cell("network", forecast, steps=FINER * steps)
    return found


def measure(config, todo):
    """Yield (key, values); ratios are to held keys and values, all else equal. `total` is the error over the own run's."""
    for network in dict.fromkeys(key["network"] for key in todo):
        own = dataclasses.replace(config, network=network or config.network)
        found = lab.measured(
            own,
            [key for key in todo if key["network"] == network],
            lambda key: {
                "forecast": key["forecast"], "devices": key["devices"], "steps": key["steps"],
                "policy": policies.cool_down(key["steps"], key["cool"]),
            },
            lambda key: key | {"forecast": 0},
        )  # fmt: skip
        for key, values in found:
            yield key, values | {"total": values["exact_rms"] / values["own_rms"]}


def name_of(row):
    """What was sampled from."""
    return f"the network {row['network']}" if row["network"] else lab.NAMES[row["subject"]]


def how(row, steps):
    """Devices, steps and cool-down of a row, as far as they are not the common ones."""
    cool = f", the last {row['cool']} synchronous" if row["cool"] else ""
    return f"{row['devices']} devices" + (f", {row['steps']} steps" if row["steps"] != steps else "") + cool


def section(rows, command):
    """The section of the page."""
    steps = min(r["steps"] for r in rows)
    rows = sorted(rows, key=lambda r: (name_of(r), r["steps"], r["cool"], r["devices"]))
    shown = [dict(r, run=f"{name_of(r).removeprefix('the ')}, {how(r, steps)}") for r in rows if r["forecast"] != 0]
    fig, ax = report.canvas(1, 1, height=0.2 * len(shown) + 0.8, width=5.6)
    for kind in dict.fromkeys(r["forecast"] for r in shown):
        own = [(place, r) for place, r in enumerate(shown) if r["forecast"] == kind]
        places, at = [place for place, _ in own], [r["rms_ratio"] for _, r in own]
        (dots,) = ax.plot(at, places, "o", label=FORECASTS[kind])
        ax.hlines(places, [r["rms_low"] for _, r in own], [r["rms_high"] for _, r in own], color=dots.get_color())
    ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    ax.set_yticks(range(len(shown)), [r["run"] for r in shown])
    ax.set(xscale="log", xlabel="RMS distance to the synchronous run, over that of held keys and values")
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
        answer="Tuned, on " + "; ".join(said) + f". Plain extrapolation, linear or quadratic, is worse than holding in {len(worse)} of {len(plain)} cells.",
        figures=(
            report.picture(
                fig,
                "Points with intervals: the distance to the synchronous run with a forecast, over that of held keys and values, for each subject, number of devices "
                "and forecast.",
                f"{rows[0]['solver']}, {steps} steps unless said; the first step is always synchronous.",
            ),
        ),
        table=[
            {"of": name_of(r), "devices": r["devices"], "steps": r["steps"], "cool": r["cool"], "forecast": FORECASTS[r["forecast"]],
             "total": r["total"]} | draw.columns([r], ())[0]
            for r in rows
        ],
        caveat="A sender forecasts before it sends, so no byte more is moved. " + draw.converged(rows),
        command=command,
    )  # fmt: skip
