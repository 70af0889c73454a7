"""(k) How few bits do keys and values need on their way, plainly sent and as what a forecast missed?"""

from experiments import report
from experiments.staleness import draw, lab

QUESTION = "precision"
FORMS = {"plain": False, "residual": True}
FORECASTS = {
    2: (0, 1, "tuned"),
    8: (0, "tuned"),
}  # devices: forecasts; the linear one is not stable on 8
FULL = 32  # bits of a number that is sent as it is


def cells(config):
    """One cell a subject, number of devices, forecast, form and number of bits."""
    return [
        {
            "question": QUESTION,
            "subject": subject,
            "devices": devices,
            "forecast": forecast,
            "form": form,
            "bits": bits,
        }
        for subject in config.sent
        for devices, forecasts in FORECASTS.items()
        for forecast in forecasts
        for form in FORMS
        for bits in config.bits
        if bits != FULL or form == "plain"
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to full precision with the same forecast."""

    def setup(key):
        bits = None if key["bits"] == FULL else key["bits"]
        return {
            "devices": key["devices"],
            "forecast": key["forecast"],
            "comm_dtype": bits,
            "residual": FORMS[key["form"]],
        }

    return lab.measured(config, todo, setup, lambda key: key | {"bits": FULL, "form": "plain"})


def named(forecast):
    """A forecast in words."""
    return {0: "held", 1: "linear", 2: "quadratic"}.get(forecast, forecast)


def section(rows, command):
    """The section of the page."""
    pairs = list(dict.fromkeys((r["subject"], r["devices"]) for r in rows))
    fig, axes = report.canvas(len(pairs), 1, height=3.2 * len(pairs))
    for ax, pair in zip(axes if len(pairs) > 1 else [axes], pairs, strict=True):
        own = [r for r in rows if (r["subject"], r["devices"]) == pair]
        full = [dict(r, form=form) for r in own if r["bits"] == FULL for form in FORMS]
        shown = [
            dict(r, line=f"{named(r['forecast'])}, {r['form']}")
            for r in [*full, *(r for r in own if r["bits"] != FULL)]
        ]
        draw.lines(ax, shown, x="bits", y="sync_rms", by="line", band=False)
        places = sorted({r["bits"] for r in own})
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="bits of a number",
            ylabel="RMS distance to the synchronous run",
        )
        draw.ticks(ax, places)
        ax.set_title(f"{lab.NAMES[pair[0]]}, {pair[1]} devices")
        ax.legend(fontsize=7)
    return report.Section(
        question="How few bits do keys and values need on their way?",
        expected="8 are free. Rounding is a noise that a forecast multiplies, so plainly sent in 4 bits it costs a forecast its advantage; what the forecast "
        "missed is small, and sent with error feedback it needs 3 or 4 bits.",
        answer="\n".join(_said(rows, *pair) for pair in pairs),
        figures=(
            report.picture(
                fig,
                "Distance to the synchronous run against bits of a number, plain and residual, for each forecast.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous, whose messages are whole. {FULL} bits are sent as they are; 16 are "
                "bfloat16, the others integers with one scale a head and token.",
            ),
        ),
        table=draw.columns(rows, ("subject", "devices", "forecast", "form", "bits")),
        caveat="The residual wants that both sides keep what was told, everyone's keys and values. " + draw.converged(rows),
        command=command,
    )  # fmt: skip


def _said(rows, subject, devices):
    """What one subject's bits cost: 8, 4 and 2, plain and residual, of each forecast."""
    own = [r for r in rows if (r["subject"], r["devices"]) == (subject, devices)]
    parts = []
    for forecast in dict.fromkeys(r["forecast"] for r in own):
        at = {(r["form"], r["bits"]): r for r in own if r["forecast"] == forecast}
        told = ", ".join(
            f"{bits} bits {form} {draw.ratio(at[form, bits])}"
            for bits in (8, 4, 2)
            for form in FORMS
            if (form, bits) in at
        )
        parts.append(f"{named(forecast)}: {told}")
    return f"On {lab.NAMES[subject]} with {devices} devices, error over that of full precision, {'; '.join(parts)}."
