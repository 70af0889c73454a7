"""What do the times, the weights and the times that the network receives give, each alone?"""

from collections.abc import Iterator

from configs.tune import Config
from experiments import report
from experiments.lab import statistics
from experiments.tune import drawing, tables, unseen
from experiments.tune import subject as subjects

# ---- numbers

QUESTION = "parts"
# From the least to the most numbers.
PARTS = {
    "label times": ("labels",),
    "times": ("times",),
    "weights": ("state", "outputs"),
    "times and weights": tables.FREE,
    "all": ("times", "labels", "state", "outputs"),
}


def check(config: Config) -> None:
    """Refuse models and steps that cannot be measured."""
    subjects.check(config, "parts_models", config.parts_models, guided=False)
    subjects.check_steps("parts_steps", config.parts_steps)


def cells(config: Config) -> list[dict]:
    """One cell a model, number of evaluations and part."""
    return [
        {"question": QUESTION, "model": name, "steps": steps, "part": part}
        for name in dict.fromkeys(config.parts_models)
        for steps in dict.fromkeys(config.parts_steps)
        for part in PARTS
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the error with this part free, over that of the published plan."""
    for key in todo:
        made = subjects.subject(config, key["model"])
        table = tables.table_of(config, made, key["steps"], free=PARTS[key["part"]])
        yield key, against_published(config, made, table)


def against_published(
    config: Config, made: subjects.Subject, table: tables.Table
) -> dict[str, float | str | bool]:
    """Errors of a table on unseen starts, and their ratio to those of its published plan."""
    # Both on the same starts, so that their difficulty cancels in the ratio.
    errors = unseen.unseen(config, made).errors([table.plan, table.published])
    return {
        **unseen.summary(errors[0]),
        "published_rms": unseen.rms(errors[1]),
        **unseen.compared(errors[0], errors[1]),
        "accepted": table.facts["accepted"],
        "published": table.facts["published"],
    }


def means(rows: list[dict]) -> dict[str, float]:
    """{part: geometric mean of the ratios}, in the order of `PARTS`."""
    found = {}
    for part in PARTS:
        ratios = [row["rms_ratio"] for row in rows if row["part"] == part]
        if ratios:
            found[part] = statistics.geometric_mean(ratios)
    return found


# ---- figures


def _figure(own: list[dict], claim: str) -> report.Picture:
    """The ratio with each part free, a bar a part."""
    fig, ax = report.canvas(width=5.6, height=3.0)
    bars = [{"part": part, "ratio": ratio} for part, ratio in means(own).items()]
    report.bar_ledger(
        ax, bars, label="part", value="ratio", xlabel="RMS error over that of the published plan"
    )
    # Right of this line tuning has made the table worse.
    ax.axvline(1, color=report.GREY, linewidth=0.8)
    drawing.claim(fig, claim)
    return report.picture(fig, claim, "Geometric means over models and evaluations.")


# ---- words


def summary(rows: list[dict]) -> str:
    """The answer, a sentence for exact fields and one for networks."""
    own = [row for row in rows if row["question"] == QUESTION]
    groups = {
        "exact fields": [row for row in own if not subjects.is_network(row["model"])],
        "networks": [row for row in own if subjects.is_network(row["model"])],
    }
    return " ".join(filter(None, (_stronger(where, means(own)) for where, own in groups.items())))


def _stronger(where: str, found: dict[str, float]) -> str:
    """What gives more on a group of models; empty while it is not measured."""
    if not {"times", "weights", "times and weights"} <= found.keys():
        return ""
    times, weights, both = (found[part] for part in ("times", "weights", "times and weights"))
    stronger = "weights" if weights < times else "times"
    return (
        f"On {where} the **{stronger}** give more: with free times alone the error is "
        f"{report.sig(times)} times that of the published plan, with free weights alone "
        f"{report.sig(weights)}, with both {report.sig(both)}."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    found = means(own)
    answer = [summary(rows) or "**The parts are not all measured yet.**"]
    if {"all", "times and weights"} <= found.keys():
        answer.append(_labels(found))
    return report.Section(
        question="What do the times give, and what the weights?",
        expected="The weights most; the times that the network receives little. Published work "
        "finds the times more important where the weights follow from theory.",
        answer="\n".join(answer),
        figures=[_figure(own, _claim(found))],
        table=[_line(row) for row in own],
        caveat="Each part begins from the best published plan, and is accepted on its own test "
        "starts; where it is not, the published plan counts, with a ratio of 1.",
        command=command,
    )


def _claim(found: dict[str, float]) -> str:
    least = min(found, key=found.get)
    return f"The error is least with {least} free: {report.sig(found[least])} of the published one."


def _labels(found: dict[str, float]) -> str:
    """What label times add to times and weights."""
    # Five per cent lie within the scatter between runs.
    gain = found["all"] / found["times and weights"]
    if gain < 0.95:
        return f"Free label times lower the error further, to {report.sig(gain)} of that."
    if gain > 1.05:
        return f"Free label times beside them raise it, {report.sig(gain)} times: more to fit."
    return f"Free label times beside them change it by {abs(gain - 1):.0%} only."


def _line(row: dict) -> dict:
    names = ("model", "steps", "part", "rms", "rms_ratio", "rms_low", "rms_high", "median_ratio")
    return {name.replace("_", " "): row[name] for name in names}
