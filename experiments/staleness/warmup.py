"""(d) What does a warm-up buy, and how much more of it do more devices need?"""

import numpy as np

from experiments import report
from experiments.staleness import lab

QUESTION = "warmup"


def cells(config):
    """One cell a subject, number of devices and warm-up."""
    return [
        {"question": QUESTION, "subject": subject, "devices": devices, "warmup": warmup}
        for subject in config.subjects
        for devices in config.devices
        for warmup in config.warmups
    ]


def measure(config, todo):
    """Yield (key, values) with one solver and number of steps."""
    plan = lab.plan_of(config.one_solver, config.one_steps)
    for key in todo:
        subject = lab.of(config, key["subject"])
        own = lab.synchronous(config, key["subject"], config.one_solver, config.one_steps)
        found = subject.end(plan, subject.told(plan, key["devices"], warmup=key["warmup"]))
        values = subject.compare(found.x, own) | {"staleness": found.staleness}
        yield key, {**values, "solver": config.one_solver, "steps": config.one_steps}


def needed(rows, tolerance):
    """Synchronous steps (interpolated between those measured) from which the error to the synchronous run is `tolerance`."""
    own = sorted(rows, key=lambda r: r["warmup"])
    warmups, errors = (np.array([r[name] for r in own], float) for name in ("warmup", "sync_rms"))
    below = np.flatnonzero(errors <= tolerance)
    if not len(below):
        return float("nan")
    i = below[0]
    if i == 0:
        return warmups[0]
    part = (errors[i - 1] - tolerance) / (errors[i - 1] - errors[i])
    return float(warmups[i - 1] + part * (warmups[i] - warmups[i - 1]))


def demands(rows):
    """[{subject, devices, steps needed, sqrt rule}]: to reach half of what two devices (the fewest) have after one step.

    The rule of thumb multiplies the fewest devices' warm-up by sqrt(n/fewest).
    """
    table = []
    for subject in dict.fromkeys(r["subject"] for r in rows):
        own = [r for r in rows if r["subject"] == subject]
        counts = sorted({r["devices"] for r in own})
        by_count = {n: [r for r in own if r["devices"] == n] for n in counts}
        first = min(by_count[counts[0]], key=lambda r: r["warmup"])
        base = needed(by_count[counts[0]], first["sync_rms"] / 2)
        for n in counts:
            steps = needed(by_count[n], first["sync_rms"] / 2)
            table.append(
                {
                    "subject": subject,
                    "devices": n,
                    "steps needed": steps,
                    "sqrt rule": base * np.sqrt(n / counts[0]),
                }
            )
    return table


def section(rows, command):
    """The section of the page."""
    subjects = list(dict.fromkeys(r["subject"] for r in rows))
    table, steps = demands(rows), rows[0]["steps"]
    fig, axes = report.canvas(len(subjects), 1, height=3.2 * len(subjects))
    for ax, subject in zip(np.atleast_1d(axes), subjects, strict=True):
        own = [r for r in rows if r["subject"] == subject]
        for devices in sorted({r["devices"] for r in own}):
            line = sorted((r for r in own if r["devices"] == devices), key=lambda r: r["warmup"])
            at = [r["warmup"] for r in line]
            (drawn,) = ax.plot(
                at, [r["sync_rms"] for r in line], marker="o", label=f"n = {devices}"
            )
            ax.fill_between(
                at,
                *([r[end] for r in line] for end in ("sync_rms_low", "sync_rms_high")),
                color=drawn.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        ax.axhline(own[0]["own_rms"], color=report.GREY, linestyle=(0, (1, 3)))
        ax.annotate(
            "the solver's own error",
            (1, own[0]["own_rms"]),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7,
        )
        ax.set(
            xlabel=f"synchronous steps at the start, of {steps}",
            ylabel="RMS distance to the synchronous run",
            ylim=(0, None),
        )
        ax.set_title(lab.NAMES[subject])
        ax.legend(loc="upper right")
    said = []
    for subject in subjects:
        few, many = ([t for t in table if t["subject"] == subject][i] for i in (0, -1))
        kept = [_kept(rows, subject, many["devices"], part) for part in (0.25, 0.5)]
        said.append(
            f"On {lab.NAMES[subject]} with {many['devices']} devices "
            + " and ".join(
                f"a warm-up of {w} of {steps} steps leaves **{left:.0%}** of the error"
                for w, left in kept
            )
            + f". To come to half of what {few['devices']} devices have after one step, {few['devices']} need {report.sig(few['steps needed'])} synchronous "
            f"steps and {many['devices']} need {report.sig(many['steps needed'])}; sqrt(n) would say {report.sig(many['sqrt rule'])}."
        )
    return report.Section(
        question="What does a warm-up buy, and do more devices need more of it?",
        expected="The error falls with every synchronous step and is exactly 0 when all are. More devices need a few more steps, by a constant and not by "
        "sqrt(n). If staleness hurts late, a warm-up at the start buys little at any n.",
        answer="\n".join(said),
        figures=(
            report.picture(
                fig,
                "Distance to the synchronous run against the warm-up, a line for each number of devices, falling to 0.",
                f"{rows[0]['solver']}, {steps} steps; bands are 95 % intervals over seeds and starts.",
            ),
        ),
        table=[*table, *({k: r[k] for k in ("subject", "devices", "warmup", "sync_rms", "sync_rms_low", "sync_rms_high", "exact_rms", "misrouted")} for r in rows)],
        caveat="Steps needed are interpolated between the warm-ups that were measured.",
        command=command,
    )  # fmt: skip


def _kept(rows, subject, devices, part):
    """(warm-up, error over that of the shortest warm-up) at the warm-up nearest to `part` of the steps."""
    own = [r for r in rows if (r["subject"], r["devices"]) == (subject, devices)]
    first = min(own, key=lambda r: r["warmup"])
    found = min(own, key=lambda r: abs(r["warmup"] - part * r["steps"]))
    return found["warmup"], found["sync_rms"] / first["sync_rms"]
