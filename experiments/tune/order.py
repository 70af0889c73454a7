"""What made published solvers lose order: does it remain where all numbers of a table are free?

The order experiment found three causes at few evaluations: paths that bend at the width of a mode
(curvature), a velocity that is rough in time (the clock of a network), and the first-order last
jump of shifted grids. And how many past outputs is a free table worth (its depth)?
"""

from collections.abc import Callable, Iterator

import numpy as np

from configs.tune import Config
from experiments import report
from experiments.lab import statistics
from experiments.tune import drawing, parts, ratio, tables, training, unseen
from experiments.tune import subject as subjects
from experiments.tune.subject import Subject
from flowjax import grids, plans, tune

# ---- numbers

QUESTION = "order"
# The published start of each depth: a table of depth d has no weights of older outputs to keep.
STARTS = {1: "Euler", 2: "Adams-Bashforth 2", 3: "Adams-Bashforth 3", 4: "Adams-Bashforth 3"}
# Networks whose only difference is the clock: (rough in time, smooth).
CLOCKS = (("digits", "digits-smooth"), ("emoji", "emoji-smooth"))


def check(config: Config) -> None:
    """Refuse models, steps and depths that cannot be measured."""
    parts.check(config)
    for depth in config.depths:
        if depth not in STARTS:
            raise ValueError(f"--config.depths: {depth!r}; wanted depths from {tuple(STARTS)}.")
    # Adams-Bashforth 3 needs three steps.
    subjects.check_steps("parts_steps", config.parts_steps, least=3)


def cells(config: Config) -> list[dict]:
    """Cells of the depth, of the width of modes and of the last jump."""
    steps = tuple(dict.fromkeys(config.parts_steps))
    # The free depth, begun from the published solver of that depth.
    depth = [
        {"part": "depth", "model": name, "steps": n, "setting": depth}
        for name in dict.fromkeys(config.parts_models)
        for n in steps
        for depth in config.depths
    ]
    # The width of the modes is the dial of curvature in the order experiment too.
    curvature = [
        {"part": "curvature", "model": f"ring-{std:g}", "steps": n, "setting": std}
        for n in steps
        for std in config.stds
    ]
    # The larger the shift, the longer the last, first-order step of the published plan.
    jump = [
        {"part": "jump", "model": name, "steps": n, "setting": shift}
        for name in dict.fromkeys(config.parts_models)
        for n in steps[:1]
        for shift in config.jump_shifts
    ]
    return [{"question": QUESTION, **key} for key in depth + curvature + jump]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors of the tuned table and of the plan that it began from."""
    for key in todo:
        made = subjects.subject(config, key["model"])
        if key["part"] == "jump":
            yield key, _from_shift(config, made, key["steps"], key["setting"])
            continue
        options = {}
        if key["part"] == "depth":
            options = {"depth": key["setting"], "solver": STARTS[key["setting"]]}
        table = tables.table_of(config, made, key["steps"], **options)
        yield key, parts.against_published(config, made, table)


def _from_shift(config: Config, made: Subject, steps: int, shift: float) -> dict:
    """Refine Adams-Bashforth 3 from a grid of one shift, whatever other grids would give."""
    train, validation = training.starts(made, config.seed, tables.starts_for(config, made, steps))
    grid = grids.uniform(steps, shift=shift)
    found = tune.refine(
        made.velocity,
        _third_order,
        grid,
        train,
        validation=validation,
        iterations=config.iterations,
    )
    # Against its own beginning: `published` is that plan and not the best one.
    begun = _third_order(grid)
    errors = unseen.unseen(config, made).errors([found.plan, begun])
    return {
        **unseen.summary(errors[0]),
        "published_rms": unseen.rms(errors[1]),
        **unseen.compared(errors[0], errors[1]),
        "first_gap": float(grid[-2] - grid[-1]),
        "last_gap": float(found.plan.grid[-2] - found.plan.grid[-1]),
    }


def _third_order(grid: np.ndarray) -> plans.Plan:
    return plans.adams_bashforth(grid, 3)


def part_of(rows: list[dict], part: str) -> list[dict]:
    """The rows of one part."""
    return [row for row in rows if row["question"] == QUESTION and row["part"] == part]


def by_setting(rows: list[dict], value: str = "rms") -> dict[float, float]:
    """{setting: geometric mean of a value over models and evaluations}."""
    settings = sorted({row["setting"] for row in rows})
    return {
        setting: statistics.geometric_mean(row[value] for row in rows if row["setting"] == setting)
        for setting in settings
    }


def clocks(rows: list[dict]) -> list[dict]:
    """[{rough, smooth, steps, rough ratio, smooth ratio}] from the rows of `ratio`."""
    found = {
        (row["model"], row["steps"]): row["rms_ratio"]
        for row in ratio.measured(rows)
        if row["guidance"] == 1
    }
    return [
        {
            "rough": rough,
            "smooth": smooth,
            "steps": steps,
            "rough ratio": found[rough, steps],
            "smooth ratio": found[smooth, steps],
        }
        for rough, smooth in CLOCKS
        for steps in sorted({n for _, n in found})
        if (rough, steps) in found and (smooth, steps) in found
    ]


# ---- figures


def _figure(rows: list[dict], part: str, xlabel: str, claim: str) -> report.Picture:
    """The error of tuned tables and of the plans that they began from, against a setting."""
    fig, ax = report.canvas(width=5.4, height=3.4)
    lines = {
        "published": list(by_setting(rows, "published_rms").items()),
        "tuned": list(by_setting(rows).items()),
    }
    drawing.curves(ax, lines, xlabel=xlabel, ylabel="relative RMS error")
    drawing.legend_below(ax, columns=2)
    drawing.claim(fig, claim)
    return report.picture(fig, claim, f"Geometric means over the models and evaluations of {part}.")


# ---- words


def _growth(rows: list[dict], value: str, harder: Callable = max) -> float:
    """The mean of a value at the hardest setting over that at the easiest one.

    Args:
      rows: of one part.
      value: the name of the value.
      harder: max or min, which setting is the hardest.
    """
    means = by_setting(rows, value)
    easier = min if harder is max else max
    return means[harder(means)] / means[easier(means)]


def _verdict(tuned: float, published: float) -> str:
    """What is left of a growth, as a fraction of the logarithm of the published growth."""
    if published <= 1:
        return "costs published plans nothing here"
    left = np.log(tuned) / np.log(published)
    if left < 0.25:
        return "does not remain"
    return "remains in part" if left < 0.75 else "remains"


def depth_words(rows: list[dict]) -> str:
    """What more past outputs are worth; empty without rows of two depths."""
    found = by_setting(part_of(rows, "depth"))
    if len(found) < 2:
        return ""
    first, last = min(found), max(found)
    text = (
        f"With {last} past outputs the tuned error is **{report.sig(found[last] / found[first])} "
        f"times** that with {first}"
    )
    if last - 1 in found and last - 1 != first:
        text += f"; the last one alone gives a factor {report.sig(found[last] / found[last - 1])}"
    return f"{text}."


def curvature_words(rows: list[dict]) -> str:
    """Whether narrow modes still cost; empty without rows of two widths."""
    own = part_of(rows, "curvature")
    if len({row["setting"] for row in own}) < 2:
        return ""
    # Narrow modes bend the paths most.
    tuned, published = (_growth(own, value, min) for value in ("rms", "published_rms"))
    return (
        f"Curvature **{_verdict(tuned, published)}**: from the widest modes to the narrowest ones "
        f"the error of published plans becomes {report.sig(published)} times as large, and that of "
        f"tuned tables {report.sig(tuned)} times."
    )


def jump_words(rows: list[dict]) -> str:
    """Whether the last jump still costs; empty without rows of two shifts."""
    own = part_of(rows, "jump")
    if len({row["setting"] for row in own}) < 2:
        return ""
    # The largest shift has the longest last jump.
    tuned, published = (_growth(own, value) for value in ("rms", "published_rms"))
    return (
        f"The last jump **{_verdict(tuned, published)}**: from the least shift to the largest one "
        f"the error of published plans becomes {report.sig(published)} times as large, and that of "
        f"tables that begin there {report.sig(tuned)} times."
    )


def clock_words(rows: list[dict]) -> str:
    """Whether roughness in time still costs; empty without such a pair of networks."""
    pairs = clocks(rows)
    if not pairs:
        return ""
    rough = statistics.geometric_mean(pair["rough ratio"] for pair in pairs)
    smooth = statistics.geometric_mean(pair["smooth ratio"] for pair in pairs)
    verdict = "remains" if rough > 1.2 * smooth else "does not remain"
    return (
        f"Roughness in time **{verdict}**: tuning leaves {report.sig(rough)} of the published "
        f"error on networks that receive 1000 t and {report.sig(smooth)} on their smooth twins."
    )


WORDS = (depth_words, curvature_words, jump_words, clock_words)


def summary(rows: list[dict]) -> str:
    """What a further output is worth: the first sentence of the section."""
    return depth_words(rows)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    axes = {
        "depth": ("past outputs that a row may use", depth_words),
        "curvature": ("width of the modes of the ring", curvature_words),
        "jump": ("shift of the grid that tuning begins from", jump_words),
    }
    # A figure wants two settings, as the sentence does.
    pictures = []
    for part, (xlabel, words) in axes.items():
        own = part_of(rows, part)
        if own and words(rows):
            pictures.append(_figure(own, part, xlabel, words(rows).replace("**", "")))
    answer = [words(rows) for words in WORDS]
    names = ("part", "model", "steps", "setting", "published_rms", "rms", "rms_ratio")
    own = [row for row in rows if row["question"] == QUESTION]
    return report.Section(
        question="What limits a table whose numbers are all free?",
        expected="Depth up to 3 pays. Curvature remains, since scalar weights cannot bend a path "
        "that the outputs do not show; the last jump does not, since the grid is free; roughness "
        "in time remains, since it is noise for every table.",
        answer="\n".join(filter(None, answer)) or "**Too few settings are measured yet.**",
        figures=pictures,
        table=[{name.replace("_", " "): row[name] for name in names} for row in own],
        caveat="Depths begin from Euler or Adams-Bashforth of that depth. The rows of the jump "
        "begin from Adams-Bashforth 3 on one grid each, and are refined from there alone.",
        command=command,
    )
