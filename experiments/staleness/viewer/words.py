"""The viewer: the section of the page."""

from experiments import report
from experiments.staleness import draw
from experiments.staleness.viewer.figures import figure
from experiments.staleness.viewer.numbers import LITTLE, SYNCHRONOUS, is_seen, stale


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def lost(row: dict) -> str:
    """The loss of accuracy of a row in points, with its interval."""
    low, high = (_percent(row[f"accuracy_lost_{end}"]) for end in ("low", "high"))
    return f"**{_percent(row['accuracy_lost'])}** ({low} to {high})"


def _answer(rows: list[dict], network: str) -> list[str]:
    """In which runs a viewer sees staleness, and what the held copies cost."""
    own = [row for row in stale(rows) if row["network"] == network]
    synchronous = [row for row in rows if (row["network"], row["mode"]) == (network, SYNCHRONOUS)]
    most = max(row["devices"] for row in own)
    accuracy = ", ".join(f"{row['accuracy']:.0%} at {row['steps']}" for row in synchronous)
    held = "; ".join(
        f"{lost(row)} at {row['steps']} steps"
        for row in own
        if (row["mode"], row["devices"]) == ("held", most)
    )
    seen = [
        f"{row['mode']}, {row['devices']} devices, {row['steps']} steps"
        for row in filter(is_seen, own)
    ]
    named = "; ".join(seen) or "none"
    return [
        f"On {network}, {own[0]['starts']} starts, the synchronous label accuracy is {accuracy} "
        f"steps. Held copies on {most} devices lose, in points: {held}.",
        f"On {network} the viewer tells **{len(seen)} of {len(own)}** stale runs from synchronous "
        f"ones: {named}.",
    ]


def _title(rows: list[dict]) -> str:
    """How many runs are told from synchronous ones, as the claim of the figure."""
    own = stale(rows)
    seen = [row for row in own if is_seen(row)]
    return f"A classifier tells {len(seen)} of {len(own)} stale runs from synchronous ones"


def _listed(rows: list[dict]) -> list[dict]:
    """The rows as the page lists them."""
    return [
        {
            "network": row["network"],
            "steps": row["steps"],
            "devices": row["devices"],
            "copies": row["mode"],
            "error, RMS": row["sync_rms"],
            "error, median": row["sync_median"],
            "accuracy": f"{row['accuracy']:.1%}",
            "points lost": lost(row).replace("**", ""),
            "other label": f"{row['relabelled']:.1%}",
            "Frechet distance": row["frechet"],
            "more than synchronous": draw.with_interval(
                *(row[f"frechet_more{end}"] for end in ("", "_low", "_high"))
            ),
        }
        for row in rows
    ]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    most = max(row["devices"] for row in rows)
    networks = list(dict.fromkeys(row["network"] for row in rows))
    moved = ", ".join(
        f"{report.sig(max(row['doubling'] for row in rows if row['network'] == name))} ({name})"
        for name in networks
    )
    picture = report.picture(
        figure(rows, most),
        "Loss of label accuracy, and the Frechet distance to the data beyond that of synchronous "
        "samples, against the number of steps, for held, corrected and tuned copies and a warm-up.",
        f"{rows[0]['solver']}, {rows[0]['starts']} starts a point, one synchronous step, with a "
        "warm-up a fifth of the steps; lines are 95 % intervals over seeds and starts.",
        title=_title(rows),
    )
    return report.Section(
        question="When does a viewer see staleness?",
        expected=(
            "Later than a distance between samples does: another stroke is as good a digit. With "
            "few steps on many devices held copies should cost labels; with a forecast, or with 20 "
            "steps, they should not."
        ),
        answer="\n".join(line for name in networks for line in _answer(rows, name)),
        figures=(picture,),
        table={"What the viewer sees": _listed(rows)},
        caveat=(
            "The viewer is a support vector machine (labels) and the hidden layer of a small "
            "network (Frechet distance), both trained on three quarters of the data. It sees a "
            "run where the whole interval of the loss of accuracy or of the additional Frechet "
            "distance lies above 0; both compare the same starts. A run that it does not tell "
            f"apart is not thereby equal: see the intervals. A loss below {100 * LITTLE:.0f} "
            "points counts as none in the claims. Distances are biased upwards with so few "
            f"samples, for both runs alike. The converged run moved by {moved} when its steps "
            "doubled."
        ),
        command=command,
    )
