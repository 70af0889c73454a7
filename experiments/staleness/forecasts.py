"""(n) What is a forecast of stale keys and values worth, and its correction by the receiver; and which one is stable?"""

import dataclasses

from experiments import report
from experiments.staleness import draw, lab
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import CORRECTION

QUESTION = "forecasts"
FORECASTS = {0: "hold", 1: "linear", 2: "quadratic", "tuned": "tuned"}
OTHERS = {
    "digits": ("digits-smooth", "digits-ot", "digits-reflow")
}  # told 1 - t; trained on a coupling; and on its own samples
PARTS, FINER = (2, 4, 16), 2  # other numbers of devices, and times as many steps, of one network
WARM, SYNC = (
    "first 4",
    ("first 4", "last 2", "last 4"),
)  # steps that are synchronous beside the first
SHARES = (0.2, 0.6, 0.8, 1.0)  # of the correction, beside none and the usual one
USUAL = None  # the correction of the forecast's own: `CORRECTION` of "tuned", else none


def cells(config):
    """One cell a subject and forecast, and a warm-up; of networks also corrections, and of the first one all that may matter."""
    steps, found = config.one_steps, []

    def cell(
        subject,
        forecast,
        correction=USUAL,
        devices=lab.DEVICES,
        sync="first 1",
        steps=steps,
        network=config.network,
    ):
        network = network if subject == "network" else ""
        found.append(
            {"question": QUESTION, "subject": subject, "network": network, "devices": devices, "steps": steps, "sync": sync,
             "forecast": forecast, "correction": correction}
        )  # fmt: skip

    for subject in config.asked:
        for forecast in FORECASTS:
            cell(subject, forecast)
        if subject != "field":
            for forecast in (0, 1):
                cell(subject, forecast, CORRECTION)
            for share in (0.0, *SHARES):
                cell(subject, "tuned", share)
        if subject != "network":
            for forecast in (0, "tuned"):
                cell(subject, forecast, sync=WARM)
    if "network" in config.asked:
        for forecast in FORECASTS:
            for devices in PARTS:
                cell("network", forecast, devices=devices)
            for network in OTHERS.get(config.network, ()):
                cell("network", forecast, network=network)
        for network in OTHERS.get(config.network, ()):
            cell("network", 1, CORRECTION, network=network)
            cell("network", "tuned", 0.0, network=network)
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
            } | ({} if key["correction"] is USUAL else {"correction": key["correction"]}),
            lambda key: key | {"forecast": 0, "correction": USUAL},
        )  # fmt: skip
        for key, values in found:
            yield key, values | {"total": values["exact_rms"] / values["own_rms"]}


def name_of(row):
    """What was sampled from."""
    return f"the network {row['network']}" if row["network"] else lab.NAMES[row["subject"]]


def kind_of(row):
    """The forecast in words, with its correction where that is not its own."""
    said = {USUAL: "", CORRECTION: ", corrected", 0.0: ", not corrected"}
    return FORECASTS[row["forecast"]] + said.get(
        row["correction"], f", corrected by {row['correction']}"
    )


def how(row, steps):
    """Devices, steps and synchronous steps of a row, as far as they are not the common ones."""
    sync = f", {row['sync']} synchronous" if row["sync"] != "first 1" else ""
    return (
        f"{row['devices']} devices"
        + (f", {row['steps']} steps" if row["steps"] != steps else "")
        + sync
    )


def section(rows, command):
    """The section of the page."""
    steps = min(r["steps"] for r in rows)
    rows = sorted(rows, key=lambda r: (name_of(r), r["steps"], r["sync"], r["devices"]))
    swept = {name_of(r) for r in rows if r["correction"] in SHARES}
    swept = [
        r for r in rows if r["forecast"] == "tuned" and common(r, steps) and name_of(r) in swept
    ]
    main = [r for r in rows if r["forecast"] == "tuned" and r["correction"] is USUAL]
    plain = [r for r in rows if r["forecast"] in (1, 2) and r["correction"] is USUAL]
    worse = [r for r in plain if r["rms_ratio"] > 1]
    helped = [r for r in rows if r["forecast"] == 1 and r["correction"] == CORRECTION]
    figures = [
        report.picture(
            _forecasts(rows, steps),
            "Points with intervals: the distance to the synchronous run with a forecast, over that of held keys and values, for each subject, number of devices "
            "and forecast.",
            f"{rows[0]['solver']}, {steps} steps unless said; the first step is always synchronous. Tuned forecasts of networks are corrected by {CORRECTION}.",
        )
    ]
    if swept:
        figures.append(
            report.picture(
                _sweep(swept),
                "The distance to the synchronous run of tuned forecasts, over that of held keys and values, against the share of the correction: least "
                "in the middle.",
                f'{lab.DEVICES} devices, {steps} steps, the first synchronous. Corrections by 0.4 are what "tuned" takes by itself.',
            )
        )
    return report.Section(
        question="What is a forecast of stale keys and values worth, and its correction by the receiver?",
        expected="Second order in the place of first, where it is stable. Plain extrapolation is not on many devices; a slope with a gain fitted to the row before, "
        "less what one's own forecasts are seen to miss, should be: the aim on 8 devices is a quarter of hold's distance, and an error in all within 5 % of the "
        "synchronous run's.",
        answer="\n".join(
            [
                _aims(main, steps),
                "Tuned and corrected: " + "; ".join(f"{name_of(r)}, {how(r, steps)}: {draw.ratio(r)} of hold's distance" for r in main) + ".",
                *_corrections(rows, steps),
                f"Plain extrapolation, linear or quadratic, is worse than holding in {len(worse)} of {len(plain)} cells"
                + (f"; linear and corrected: {'; '.join(f'{name_of(r)} {draw.ratio(r)}' for r in helped)}." if helped else "."),
            ]
        ),
        figures=tuple(figures),
        table=[
            {"of": name_of(r), "devices": r["devices"], "steps": r["steps"], "sync": r["sync"], "forecast": kind_of(r),
             "total": r["total"]} | draw.columns([r], ())[0]
            for r in rows
        ],
        caveat="A sender forecasts before it sends, and a receiver corrects by what it has, so no byte more is moved. The shape of the tuned forecast and its correction "
        "were chosen on digits, digits-smooth, digits-ot and emoji, on 8 devices in 20 steps, from other starts; digits-reflow, other numbers of devices and 40 steps had no part in it. A field "
        "has no attention to correct. " + draw.converged(rows),
        command=command,
    )  # fmt: skip


def common(row, steps):
    """Whether a row is of the common number of devices, steps and synchronous steps."""
    return (row["devices"], row["steps"], row["sync"]) == (lab.DEVICES, steps, "first 1")


def _forecasts(rows, steps):
    """The figure of all forecasts, but for the sweep of shares."""
    rows = [r for r in rows if r["forecast"] != 0 or r["correction"] is not USUAL]
    rows = [r for r in rows if r["correction"] in (USUAL, CORRECTION, 0.0)]
    shown = [dict(r, run=f"{name_of(r).removeprefix('the ')}, {how(r, steps)}") for r in rows]
    names = list(dict.fromkeys(r["run"] for r in shown))
    fig, ax = report.canvas(1, 1, height=0.25 * len(names) + 1.1, width=5.6)
    for kind in dict.fromkeys(kind_of(r) for r in shown):
        own = [(names.index(r["run"]), r) for r in shown if kind_of(r) == kind]
        places, at = [place for place, _ in own], [r["rms_ratio"] for _, r in own]
        (dots,) = ax.plot(at, places, "o", label=kind)
        ax.hlines(
            places,
            [r["rms_low"] for _, r in own],
            [r["rms_high"] for _, r in own],
            color=dots.get_color(),
        )
    ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", xlabel="distance over that of holding")
    ax.invert_yaxis()
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def _sweep(rows):
    """The figure of the share of the correction."""
    fig, ax = report.canvas(1, 1)
    shares = [
        dict(r, of=name_of(r), share=CORRECTION if r["correction"] is USUAL else r["correction"])
        for r in rows
    ]
    draw.lines(ax, shares, x="share", y="rms_ratio", by="of", band=False)
    ax.set(xlabel="share of the correction", ylabel="distance over that of holding", ylim=(0, None))
    ax.legend()
    return fig


def _aims(rows, steps):
    """Where the aims on `lab.DEVICES` devices with one synchronous step are met, among the tuned rows."""
    at = [r for r in rows if common(r, steps)]
    near, whole = (
        [name_of(r) for r in at if r[name] <= most]
        for name, most in (("rms_ratio", 0.25), ("total", 1.05))
    )
    said = lambda names: f"on {', '.join(names)}" if names else "nowhere"
    totals = ", ".join(f"{report.sig(r['total'], 3)} on {name_of(r)}" for r in at)
    return (
        f"Of {len(at)} subjects a quarter of hold's distance is reached {said(near)}, an error in all within 5 % {said(whole)} "
        f"(error over the synchronous run's: {totals})."
    )


def _corrections(rows, steps):
    """What tuned forecasts are without their correction, as sentences."""
    bare = [r for r in rows if r["forecast"] == "tuned" and r["correction"] == 0.0]
    if bare:
        yield f"Without its correction tuned has {'; '.join(f'{draw.ratio(r)} on {name_of(r)}' for r in bare)}."
