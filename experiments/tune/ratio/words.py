"""The section of the page."""

from experiments import report
from experiments.tune import drawing
from experiments.tune.ratio import figures
from experiments.tune.ratio.numbers import QUESTION, by_steps, geometric, measured
from experiments.tune.subject import is_network

MOST_FIGURES = 6  # models whose errors are drawn
ROUNDING = 1.2  # the growth of an error in bfloat16 that is worth a sentence


def findings(rows: list[dict]) -> str:
    """The table of docs/findings.md, from the kept rows, in markdown."""
    lines = [
        "| model | evaluations | best published | its RMS error | tuned | ratio, 95 % interval | "
        "ratio of medians | accepted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    own = measured(rows)
    for row in sorted(own, key=lambda row: (row["model"], row["guidance"], row["steps"])):
        guided = "" if row["guidance"] == 1 else f", guidance {row['guidance']:g}"
        best = next(line for line in row["solvers"] if line["solver"] == row["best"])
        ratio, low, high = (f"{row[f'rms_{name}']:.2g}" for name in ("ratio", "low", "high"))
        lines.append(
            f"| {row['model']}{guided} | {row['steps']} | {row['best']}, shift {best['shift']:g} | "
            f"{best['rms']:.2g} | {row['tuned']['rms']:.2g} | {ratio} [{low}, {high}] | "
            f"{row['median_ratio']:.2g} | {'yes' if row['accepted'] else 'no'} |"
        )
    return "\n".join([*lines, "", _means(own)]) + "\n"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    # Cells that could not be tuned are named in the caveat.
    own = measured(rows)
    refused = [row for row in rows if row["question"] == QUESTION and row["refused"]]
    if not own:
        return _nothing(refused, command)
    subjects = figures.subjects_of(own)[:MOST_FIGURES]
    pictures = [figures.errors(own, subject) for subject in subjects]
    # The table of the model and number at which tuning gains most.
    pictures.append(figures.table(min(own, key=lambda row: row["rms_ratio"])))
    return report.Section(
        question="How much smaller is the error of a tuned table?",
        expected="0.1 to 0.5 times that of the best published solver on its best grid, least at 8 "
        "to 12 evaluations of a smooth network; 0.2 to 0.5 is the best that is published for "
        "learned solvers against dedicated ones.",
        answer="\n".join(filter(None, (_means(own), _verdicts(own), _rounding(own)))),
        figures=pictures,
        table=lines(own),
        caveat=_caveat(own, refused),
        command=command,
    )


def _nothing(refused: list[dict], command: str) -> report.Section:
    """The section where no cell has a table."""
    return report.Section(
        question="How much smaller is the error of a tuned table?",
        expected="0.1 to 0.5 times that of the best published solver.",
        answer=f"**None of {len(refused)} cells could be tuned.**",
        table=[{"model": row["model"], "refused": row["refused"]} for row in refused],
        command=command,
    )


def summary(rows: list[dict]) -> str:
    """The answer, a sentence for each kind of model; empty where no cell has a table."""
    return _means(measured(rows))


def _means(own: list[dict]) -> str:
    """The geometric means over the cells of exact fields and over those of networks."""
    kinds = {True: "On networks", False: "On exact fields"}
    cells = {
        words: [row for row in own if is_network(row["model"]) == kind]
        for kind, words in kinds.items()
    }
    return " ".join(_mean(cells[words], words) for words in cells if cells[words])


def _mean(own: list[dict], where: str) -> str:
    """The geometric mean over cells of one kind, and where it is least."""
    ratio, low, high = geometric([row["rms_ratio"] for row in own])
    text = (
        f"{where} the tuned table has **{report.sig(ratio)} times** the RMS error of the best "
        f"published solver on its best grid: the geometric mean of {len(own)} "
        f"cell{'s' if len(own) > 1 else ''}"
    )
    # One cell has no scatter over cells.
    text += f", 95 % interval {report.sig(low)} to {report.sig(high)}." if len(own) > 1 else "."
    least = min(by_steps(own), key=lambda line: line["ratio"])
    if len({row["steps"] for row in own}) > 1:
        text += (
            f" It is least at {least['evaluations']} evaluations ({report.sig(least['ratio'])})."
        )
    return text


def _verdicts(own: list[dict]) -> str:
    """In how many cells the interval lies below 1, and in how many tuning was refused."""
    better = sum(row["rms_verdict"] == "better" for row in own)
    worse = sum(row["rms_verdict"] == "worse" for row in own)
    # Then the file holds the published plan, and the ratio is about 1.
    kept = sum(not row["accepted"] for row in own)
    text = f"It is better in {better} of {len(own)} cells and worse in {worse}"
    if kept:
        return f"{text}; in {kept} tuning was not accepted, and the published plan was returned."
    return f"{text}."


def _rounding(own: list[dict]) -> str:
    """What bfloat16 does to tuned tables; empty without networks."""
    halves = [row for row in own if row["bfloat16"]]
    if not halves:
        return ""
    growth, *_ = geometric([row["bfloat16"]["tuned"] / row["tuned"]["rms"] for row in halves])
    ratio, *_ = geometric(
        [row["bfloat16"]["tuned"] / row["bfloat16"]["published"] for row in halves]
    )
    text = (
        f"With the network in bfloat16 the error of tuned tables is {report.sig(growth)} times "
        f"that in float32, and {report.sig(ratio)} times that of the published solver in bfloat16"
    )
    # From the worst case to the best.
    if ratio >= 1:
        return f"{text}: **rounding undoes the gain**."
    if growth > ROUNDING:
        return f"{text}: rounding costs a part of the gain."
    return f"{text}: rounding does not touch the gain."


def _caveat(own: list[dict], refused: list[dict]) -> str:
    """What the answer does not cover."""
    text = (
        "Errors are distances to the model's own converged solution on starts that no tuning has "
        "seen. The published solvers' grids are chosen on these very starts, which favours them. "
        "The interval is over cells, which share models and starts."
    )
    # The reference must be finer than what it judges.
    coarse = [row for row in own if row["doubling"] > row["tuned"]["rms"] / 20]
    if coarse:
        text += (
            f" In {len(coarse)} cell(s) the converged endpoints still move by more than a "
            "twentieth of the tuned error when their steps are doubled, so the ratio is too large "
            "there."
        )
    if refused:
        names = ", ".join(f"{row['model']} at {row['steps']}" for row in refused)
        text += f" Not tuned, since the message of `tune` says why: {names}."
    return text


def lines(own: list[dict]) -> list[dict]:
    """The table below the figures, a line a cell."""
    return [
        {
            "model": drawing.title_of(row["model"], row["guidance"]),
            "evaluations": row["steps"],
            "best published": row["best"],
            "its RMS": next(x["rms"] for x in row["solvers"] if x["solver"] == row["best"]),
            "tuned RMS": row["tuned"]["rms"],
            "ratio": row["rms_ratio"],
            "low": row["rms_low"],
            "high": row["rms_high"],
            "median ratio": row["median_ratio"],
            "tuned worst decile": row["tuned"]["decile"],
            "largest row": row["table"]["largest"],
            "seconds to tune": row["seconds"],
        }
        for row in own
    ]
