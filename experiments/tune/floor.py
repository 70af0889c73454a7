"""How much of the needed step can no table reach?

A row of a table moves the state by a combination of the state and the last outputs. The needed step
is the difference from the present state to the converged one at the row's end. Of its square norm,

    shared    the fraction that the best weights for all samples together leave (1 - R^2)
    own       the fraction that the best weights of each sample by itself leave

so `shared` bounds every table with these states, the difference between the two is what weights
that depend on the sample could add, and `own` is what only another network could add.
"""

from collections.abc import Iterator

import numpy as np

from configs.tune import Config
from experiments import report
from experiments.tune import drawing, parts, tables, training, unseen
from experiments.tune import subject as subjects
from experiments.tune.subject import Subject
from flowjax import Plan
from flowjax.plans.table import DEPTH
from flowjax.tune.runner import Runner
from flowjax.tune.truth import converged

# ---- numbers

QUESTION = "floor"
STARTS = 48  # of the unseen starts
COLUMNS = 1 + DEPTH  # state and outputs: a sample of no more numbers is always reached


def check(config: Config) -> None:
    """Refuse models and steps that cannot be measured."""
    parts.check(config)


def cells(config: Config) -> list[dict]:
    """One cell a model and number of evaluations."""
    return [
        {"question": QUESTION, "model": name, "steps": steps}
        for name in dict.fromkeys(config.parts_models)
        for steps in dict.fromkeys(config.parts_steps)
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the two fractions, row by row."""
    for key in todo:
        made = subjects.subject(config, key["model"])
        table = tables.table_of(config, made, key["steps"])
        noise = unseen.unseen(config, made).noise[:STARTS]
        yield key, unreached(made, table.plan, noise)


def unreached(made: Subject, plan: Plan, noise: np.ndarray) -> dict:
    """The fractions of the needed steps that weights leave, on the plan's own states.

    Args:
      made: the model.
      plan: of one evaluation a step.
      noise: (B, *D) starts.

    Returns:
      {shared: (N,), own: (N,) or None, size: (N,) root mean square of the needed steps, relative
      to that of the last converged state}; own is None where a sample has too few numbers.
    """
    labels = made.labels(len(noise))
    runner = Runner(made.velocity)
    states = [np.asarray(x, np.float64) for x in runner.states(plan, noise, labels)]
    exact = converged(runner, noise, plan.grid, training.TOLERANCE, labels).states
    numbers = int(np.prod(made.shape))
    # Row by row, on the states that the table itself visits.
    shared, own, size = [], [], []
    outputs: list[np.ndarray] = []
    for i in range(plan.rows):
        x = states[i].astype(noise.dtype)
        velocity = np.asarray(runner.velocity(x, plan.label_time[i], labels), np.float64)
        outputs = [velocity, *outputs[: DEPTH - 1]]
        # (B, F, columns) and the needed step (B, F)
        columns = np.stack([column.reshape(len(noise), -1) for column in (states[i], *outputs)], -1)
        needed = (np.asarray(exact[i + 1], np.float64) - states[i]).reshape(len(noise), -1)
        # One problem with all samples below each other, then one problem a sample.
        shared.append(_left(columns.reshape(1, -1, columns.shape[-1]), needed.reshape(1, -1)))
        own.append(_left(columns, needed))
        size.append(float(np.sqrt(np.mean(np.sum(needed**2, axis=1)))))
    scale = float(np.sqrt(np.mean(np.sum(exact[-1].reshape(len(noise), -1) ** 2, axis=1))))
    return {
        "shared": shared,
        # With as many columns as numbers, every step would lie in the span.
        "own": own if numbers > 2 * COLUMNS else None,
        "size": [each / scale for each in size],
    }


def _left(columns: np.ndarray, needed: np.ndarray) -> float:
    """The fraction of |needed|^2 that least squares leaves, all problems together.

    Args:
      columns: (G, n, k) G problems.
      needed: (G, n).
    """
    left = 0.0
    for basis, step in zip(columns, needed, strict=True):
        weights, *_ = np.linalg.lstsq(basis, step, rcond=None)
        left += float(np.sum((step - basis @ weights) ** 2))
    return left / float(np.sum(needed**2))


def total(row: dict, kind: str) -> float:
    """The fraction over all rows of a table, weighted by the square of the needed steps."""
    squares = np.square(row["size"])
    return float(np.sum(squares * np.asarray(row[kind])) / np.sum(squares))


# ---- figures


def _figure(row: dict) -> report.Picture:
    """The two fractions against the row of one table."""
    fig, ax = report.canvas(width=5.4, height=3.4)
    names = {"shared": "one table for all samples", "own": "weights of each sample"}
    colours = {"shared": report.BLUE, "own": report.AMBER}
    places = range(1, len(row["shared"]) + 1)
    for kind, name in names.items():
        if row[kind] is not None:
            # An axis of logarithms cannot show what is reached to rounding.
            values = np.maximum(row[kind], 1e-12)
            ax.plot(places, values, marker="o", color=colours[kind], label=name)
    ax.set(yscale="log", xlabel="row of the table", ylabel="fraction of the step out of reach")
    drawing.legend_below(ax, columns=2)
    claim = (
        f"{row['model']}, {row['steps']} evaluations: the tuned rows leave "
        f"{report.sig(total(row, 'shared'))} of the squared steps out of reach."
    )
    drawing.claim(fig, claim)
    return report.picture(fig, claim)


# ---- words


def summary(rows: list[dict]) -> str:
    """The answer, a sentence for each model of many numbers."""
    wide = [row for row in rows if row["question"] == QUESTION and row["own"] is not None]
    found = []
    for model in dict.fromkeys(row["model"] for row in wide):
        # At the fewest evaluations the steps are longest, and the floor is highest.
        row = min((row for row in wide if row["model"] == model), key=lambda row: row["steps"])
        shared, each = np.sqrt(total(row, "shared")), np.sqrt(total(row, "own"))
        found.append(
            f"The best single table misses **{100 * shared:.2g} %** of the exact steps of {model} "
            f"at {row['steps']} evaluations (root mean square); weights of its own for each sample "
            f"miss {100 * each:.2g} %."
        )
    return " ".join(found)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    # Over all rows of a table, the share of the squared steps.
    lines = [
        {
            "model": row["model"],
            "evaluations": row["steps"],
            "out of reach of one table": total(row, "shared"),
            "of weights of each sample": None if row["own"] is None else total(row, "own"),
            "worst row": int(np.argmax(row["shared"])) + 1,
        }
        for row in own
    ]
    return report.Section(
        question="How much of the needed step can no table reach?",
        expected="A few per cent at 6 evaluations, most of it in the first rows, where there is no "
        "history; most of what is left is out of reach for weights of each sample too.",
        answer=summary(rows)
        or "**Only samples of few numbers are measured: every step of theirs "
        "lies in the span of the state and four outputs, sample by sample.**",
        figures=[_figure(row) for row in own],
        table=lines,
        caveat="The states are those of the tuned table, so a row's needed step holds the errors "
        "of the rows before it. Fractions are of squares.",
        command=command,
    )
