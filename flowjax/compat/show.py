"""A plan as text: a table with the log-SNR steps drawn as bars, and sentences about unsafe rows."""

from collections.abc import Callable

import numpy as np

from flowjax.plans import Plan
from flowjax.schedules import Schedule

BLOCKS = " ▏▎▍▌▋▊▉█"  # a bar in eighths of a column
BAR_WIDTH = 10
BAR_FULL = 2.0  # the log-SNR step at which a bar is full
# Distance of the nearest complex singularity of an exact prediction in log-SNR, for any scale of
# the data.
LIMIT = np.pi / 2
# Standard deviation of normalised data along its widest direction. While the noise is larger than
# that, the prediction hardly changes.
WIDEST = 10.0


def evaluations_used(plan: Plan) -> np.ndarray:
    """Number of evaluations that the update of each row uses, (rows,).

    For a multistep method without a corrector this is the order.
    """
    return np.count_nonzero(_update_weights(plan), axis=1)


def log_snr_reach(plan: Plan, schedule: Schedule) -> np.ndarray:
    """Log-SNR from the oldest evaluation that a row uses to the end of the row, (rows,)."""
    used = _update_weights(plan) != 0  # (rows, 4), newest first
    last_column = used.shape[1] - 1
    oldest_lag = last_column - used[:, ::-1].argmax(axis=1)
    # argmax is 0 in a row that uses no evaluation at all.
    oldest_lag = np.where(used.any(axis=1), oldest_lag, 0)
    oldest_row = np.arange(plan.rows) - oldest_lag
    return np.abs(schedule.log_snr(plan.t_next) - schedule.log_snr(plan.t[oldest_row]))


def unsafe_rows(plan: Plan, schedule: Schedule) -> list[str]:
    """Sentences about the rows whose order is too high for their steps; none for a safe plan.

    A polynomial of the prediction through k evaluations helps only while all of them and the end of
    the step lie within about pi/2 in log-SNR: that is the distance of the nearest complex
    singularity of the prediction, for data of any scale. Beyond it a lower order is usually better.

    Three kinds of rows are left out: those at log-SNR below -log(10), where the noise covers any
    normalised data; steps to infinite log-SNR; and methods on the velocity in t, to which the limit
    does not apply.

    Args:
      plan: any plan.
      schedule: the path whose log-SNR counts.
    """
    order = evaluations_used(plan)
    reach = log_snr_reach(plan, schedule)
    too_far = np.isfinite(reach) & (reach > LIMIT)
    is_exponential = plan.p != 0  # history of predictions, not of velocities
    shows_data = schedule.log_snr(plan.t) > -np.log(WIDEST)
    is_unsafe = (order > 1) & too_far & is_exponential & shows_data & plan.counted
    unsafe = np.flatnonzero(is_unsafe)

    # One sentence for each run of successive rows.
    sentences = []
    gaps = np.flatnonzero(np.diff(unsafe) > 1) + 1
    for run in np.split(unsafe, gaps):
        if len(run) == 0:
            continue
        first, last = run[0] + 1, run[-1] + 1
        rows = f"row {first} moves" if len(run) == 1 else f"rows {first}-{last} move"
        highest = order[run].max()
        sentences.append(
            f"{rows} log-SNR by up to {reach[run].max():.1f} from the oldest of {highest} "
            f"evaluations used: order {highest} is unsafe there (limit {LIMIT:.2f}); take more "
            "steps or a lower order."
        )
    return sentences


def _identity(t: float) -> float:
    return t


def table(plan: Plan, schedule: Schedule, label: Callable[[float], float] = _identity) -> str:
    """The table of a plan, one text line for each row, with a bar for its step in log-SNR.

    Args:
      plan: any plan.
      schedule: the path whose log-SNR is shown.
      label: the function from t to the number that the network receives; without it the times
        themselves are printed.

    Returns:
      For each row: its number, t, the label, the time of the next x, the number of evaluations
      used, the log-SNR step (its bar is full at 2), and the weights of the base and of the newest
      evaluations. A row that ends no step is marked with a dot.
    """
    # The difference of two infinities is no error here: it is printed as "-".
    with np.errstate(invalid="ignore"):
        steps = np.abs(schedule.log_snr(plan.t_next) - schedule.log_snr(plan.t))
    used = evaluations_used(plan)
    lines = [
        f"{'row':>4} {'t':>9} {'label':>9} {'next t':>9} {'uses':>4} {'log-SNR step':>12} "
        f"{'':{BAR_WIDTH}}  weights"
    ]
    for i in range(plan.rows):
        mark = " " if plan.ends_step[i] else "·"
        network_label = label(plan.label_time[i])
        bar = _bar(steps[i] / BAR_FULL)
        lines.append(
            f"{i + 1:>4}{mark}{plan.t[i]:>9.5f} {network_label:>9.5g} {plan.t_next[i]:>9.5f} "
            f"{used[i]:>4} {_number(steps[i]):>12} {bar:{BAR_WIDTH}}  {_weights(plan, i)}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _update_weights(plan):
    """The weights of the evaluations in the update of each row, (rows, 4), newest first."""
    # A row that ends a step updates the base by b, unless it adds a predictor by d.
    uses_base = plan.ends_step & ~plan.d.any(axis=1)
    return np.where(uses_base[:, None], plan.b, plan.d)


def _weights(plan, i):
    """The weights of the base and of the evaluations in row `i`, as text."""
    base = plan.a[i] * plan.c[i] if plan.ends_step[i] else plan.c[i]
    evaluations = plan.d[i] if plan.d[i].any() else plan.b[i]
    shown = np.trim_zeros([base, *evaluations], "b")
    return " ".join(f"{weight:+.4f}" for weight in shown)


def _number(value):
    if np.isfinite(value):
        return f"{value:.3f}"
    return "inf" if value > 0 else "-"


def _bar(fraction):
    """A bar of at most `BAR_WIDTH` columns; 1 fills it."""
    if not np.isfinite(fraction):
        return "∞"
    eighths = int(round(min(fraction, 1.0) * 8 * BAR_WIDTH))
    full_columns, rest = divmod(eighths, 8)
    return BLOCKS[8] * full_columns + BLOCKS[rest].strip()
