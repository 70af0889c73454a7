"""The section of the page on defects."""

from experiments import report
from experiments.order.defects.figures import draw_ratios
from experiments.order.defects.numbers import by_case


def _named(lines: list[dict]) -> str:
    """The lines as words, those of one defect together: solver, evaluations and ratio."""
    by_defect = {}
    for line in sorted(lines, key=lambda line: -line["ratio"]):
        solver = line["solver"].removeprefix("DPM++ ")
        text = f"{solver} at {line['nfe']}: {report.sig(line['ratio'])}"
        by_defect.setdefault(line["defect"], []).append(text)
    return "; ".join(f"{defect}, {', '.join(each)}" for defect, each in by_defect.items()) or "none"


def _rounding(table: list[dict]) -> str:
    """What forming data through the noise costs in bfloat16, as a sentence or nothing."""
    lines = [
        line
        for line in table
        if line["effect"] == "arithmetic" and line["solver"].startswith("bfloat16")
    ]
    if not lines:
        return ""
    # The time at which bfloat16 loses most.
    half = max(lines, key=lambda line: line["before"])
    return (
        f" Data formed through the noise is wrong by up to {report.sig(half['before'])} of the "
        f"data's size ({half['solver']}), formed "
        f"directly by {report.sig(half['after'])}."
    )


def _without(line: dict, name: str) -> dict:
    return {key: value for key, value in line.items() if key != name}


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = by_case(rows)
    refused = [line for line in table if line["effect"] == "refused"]
    run = [line for line in table if line["effect"] not in ("refused", "arithmetic")]
    # Every comparison falls under one effect.
    worse, tie, better, depends = (
        [line for line in run if line["effect"] == effect]
        for effect in ("worse", "tie", "better", "depends on the field")
    )
    # Each refusal once.
    sentences = dict.fromkeys(row["refused"] for row in rows if "refused" in row)
    # The most costly of those that run at all.
    worst = max(run, key=lambda line: line["ratio"])
    fields = len(dict.fromkeys(row["field"] for row in rows))
    most_fields = max(line["fields"] for line in run)
    return report.Section(
        question="What do the defects of public code cost?",
        expected="The wrong inverse of log-SNR and unlowered orders at the end ruin samples; the "
        "half weight, truncated labels, the twice "
        "shifted sigma and diffusers' final rule cost little at 20 evaluations, and labels cost "
        "the high orders at 100.",
        answer=f"Of {len(run) + len(refused)} before/after comparisons our plans refuse "
        f"{len(refused)} outright; {len(worse)} make the error "
        f"larger beyond 2 % on every field: {_named(worse)}; most of all **{worst['defect']} with "
        f"{worst['solver']}, {report.sig(worst['ratio'])} times**. "
        f"The defect helps: {_named(better)}. The effect is a tie or undecided in "
        f"{len(tie)}, and depends on the field (of {most_fields}) in {len(depends)}."
        f"{_rounding(table)}",
        figures=(draw_ratios(run, fields),),
        table={
            "Defects that run": run,
            "Defects that our plans refuse": [_without(line, "effect") for line in refused],
            "Data formed through the noise": [
                {name: line[name] for name in ("defect", "in", "solver", "before", "after")}
                for line in table
                if line["effect"] == "arithmetic"
            ],
        },
        caveat="Each comparison changes one thing and keeps the rest as its source has it. "
        "Refused with these words: " + " ".join(f"`{sentence}`" for sentence in sentences),
        command=command,
    )
