"""A plan as text: a table that a person can read, with the log-SNR steps drawn beside it, and the rows that are unsafe."""

import numpy as np

BLOCKS = " ▏▎▍▌▋▊▉█"
LIMIT = (
    np.pi / 2
)  # distance of the nearest complex singularity of an exact prediction in log-SNR, whatever the data's scale
WIDEST = 10.0  # standard deviation of data along its widest direction; while noise is larger yet, nothing happens


def uses(plan):
    """Evaluations that the update of each row uses, (rows,): the order, for a multistep method without corrector."""
    weights = np.where(plan.ends_step[:, None] & ~plan.d.any(1)[:, None], plan.b, plan.d)
    return np.count_nonzero(weights, axis=1)


def spans(plan, schedule):
    """Log-SNR from the oldest evaluation that a row uses to where it leads, (rows,)."""
    weights = np.where(plan.ends_step[:, None] & ~plan.d.any(1)[:, None], plan.b, plan.d)
    oldest = np.arange(plan.rows) - np.where(
        weights.any(1), weights.shape[1] - 1 - (weights[:, ::-1] != 0).argmax(1), 0
    )
    return np.abs(schedule.log_snr(plan.t_next) - schedule.log_snr(plan.t[oldest]))


def unsafe_rows(plan, schedule):
    """Sentences about the rows whose order is higher than their steps bear; none for a safe plan.

    A polynomial of the prediction through k evaluations pays only while all of them and the end of the step lie within
    about pi/2 in log-SNR, the distance of the nearest complex singularity of the prediction for data of any scale. Beyond
    it a lower order is usually better. Rows at log-SNR below -log(10), where the noise covers any normalised data, are
    left out, and so are steps to infinite log-SNR, and methods on the velocity in t, to which this does not apply.
    """
    count, span = uses(plan), spans(plan, schedule)
    exponential = plan.p != 0
    reached = schedule.log_snr(plan.t) > -np.log(WIDEST)
    bad = np.flatnonzero(
        (count > 1) & np.isfinite(span) & (span > LIMIT) & exponential & reached & plan.counted
    )
    found = []
    for run in np.split(bad, np.flatnonzero(np.diff(bad) > 1) + 1):
        if len(run):
            rows = (
                f"row {run[0] + 1} moves"
                if len(run) == 1
                else f"rows {run[0] + 1}-{run[-1] + 1} move"
            )
            found.append(
                f"{rows} log-SNR by up to {span[run].max():.1f} from the oldest of {count[run].max()} evaluations used: order "
                f"{count[run].max()} is unsafe there (limit {LIMIT:.2f}); take more steps or a lower order."
            )
    return found


def table(plan, schedule, label=lambda t: t):
    """Table of a plan, one line a row, with a bar for its step in log-SNR.

    Args:
      plan: any plan; schedule: of its log-SNR.
      label: function t -> what the network is told, as it was wrapped; the times themselves are printed if left out.

    Returns:
      A string: row, t, label, where x lies next, evaluations used, log-SNR step (its bar is full at 2), weights of the base and
      of the newest evaluations. A row that ends no step is marked with a dot.
    """
    with np.errstate(invalid="ignore"):
        steps = np.abs(schedule.log_snr(plan.t_next) - schedule.log_snr(plan.t))
    lines = [
        f"{'row':>4} {'t':>9} {'label':>9} {'next t':>9} {'uses':>4} {'log-SNR step':>12} {'':10}  weights"
    ]
    for i, used in enumerate(uses(plan)):
        stage = plan.d[i].any()
        weights = [
            plan.a[i] * plan.c[i] if plan.ends_step[i] else plan.c[i],
            *(plan.d[i] if stage else plan.b[i]),
        ]
        shown = " ".join(f"{w:+.4f}" for w in np.trim_zeros(weights, "b"))
        mark = " " if plan.ends_step[i] else "·"
        lines.append(
            f"{i + 1:>4}{mark}{plan.t[i]:>9.5f} {label(plan.label_time[i]):>9.5g} {plan.t_next[i]:>9.5f} {used:>4} "
            f"{_number(steps[i]):>12} {_bar(steps[i] / 2, 10):10}  {shown}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _number(value):
    return f"{value:.3f}" if np.isfinite(value) else "inf" if value > 0 else "-"


def _bar(fraction, width):
    if not np.isfinite(fraction):
        return "∞"
    eighths = int(round(min(fraction, 1.0) * 8 * width))
    return BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()
