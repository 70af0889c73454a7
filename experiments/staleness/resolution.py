"""(n) Does a larger picture bear staleness better, at an equal stale share?"""

from experiments import report
from experiments.staleness import draw, lab

QUESTION = "resolution"
DEVICES = 4
GRIDS = ("uniform", "shifted")


def cells(config):
    """One cell a size and grid."""
    return [
        {"question": QUESTION, "subject": f"{pixels} pixels", "grid": grid}
        for grid in GRIDS
        for pixels in config.pixels
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to the smallest size on its grid. A shift of s puts at size s what size 1 had at a time."""
    least = min(config.pixels)

    def setup(key):
        shift = int(key["subject"].split()[0]) / least if key["grid"] == "shifted" else 1.0
        return {"devices": DEVICES, "shift": shift}

    return lab.measured(config, todo, setup, lambda key: key | {"subject": f"{least} pixels"})


def section(rows, command):
    """The section of the page."""
    fig, ax = report.canvas()
    shown = [dict(r, pixels=int(r["subject"].split()[0])) for r in rows]
    draw.lines(ax, shown, x="pixels", y="sync_rms", by="grid")
    places = sorted({r["pixels"] for r in shown})
    ax.set(
        xscale="log",
        xlabel="pixels of a side",
        ylabel="RMS distance to the synchronous run",
        ylim=(0, None),
    )
    draw.ticks(ax, places)
    ax.legend()
    said = []
    for grid in dict.fromkeys(r["grid"] for r in shown):
        own = sorted((r for r in shown if r["grid"] == grid), key=lambda r: r["pixels"])
        told = ", ".join(f"{draw.ratio(r)} at {r['pixels']}" for r in own[1:])
        medians = ", ".join(f"{report.sig(r['median_ratio'])} at {r['pixels']}" for r in own[1:])
        said.append(
            f"On the {grid} grid the error over that of {own[0]['pixels']} pixels is {told} by the RMS (by the median {medians})."
        )
    return report.Section(
        question="Does a larger picture bear staleness better, at an equal stale share?",
        expected="Theory does not say so. A network has more tokens in a larger picture, but the share that is stale is the same. A larger picture decides "
        "earlier, when noise hides less of it; a grid that is shifted by the ratio of sides follows it.",
        answer="\n".join(said),
        figures=(
            report.picture(
                fig,
                "Distance to the synchronous run against pixels of a side, on the uniform and on the shifted grid.",
                f"The exact field of 1906 emoji averaged to each size, the same noise, float64; {rows[0]['solver']}, {rows[0]['steps']} steps, {DEVICES} devices.",
            ),
        ),
        table=draw.columns(rows, ("subject", "grid")),
        caveat="The same pictures and the same starts, but no network: one that was trained at one size is another network at another, and two networks, as "
        "those of digits and emoji in the sections around, differ in more than size. " + draw.converged(rows),
        command=command,
    )  # fmt: skip
