"""Are the samples of a tuned table better too? Beside published and converged ones.

The error of an endpoint and the quality of samples are different things: published work finds that
they can disagree below six evaluations. Exact fields are judged by the sliced Wasserstein distance
to draws of the data, networks by a classifier and by Frechet distances on its features (see
`experiments.quality`).
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from configs.tune import Config
from experiments import report
from experiments.cli import images
from experiments.lab import solvers
from experiments.quality import judges
from experiments.quality.measure import _png as png
from experiments.tune import drawing, ratio, tables
from experiments.tune import subject as subjects
from experiments.tune.sheet import COLUMNS, sheet
from experiments.tune.subject import Subject
from flowjax import Plan, data, distances, grids, plans

# ---- numbers

QUESTION = "quality"
KINDS = ("published", "tuned", "converged")
DIRECTIONS = 128  # of the sliced Wasserstein distance
BATCH = 64  # samples drawn together
FEW = 6  # evaluations below which published work finds that error and quality disagree
FIRST_SEED = 100  # of the samples: seeds below belong to tuning and to unseen starts


def check(config: Config) -> None:
    """Refuse what `ratio` refuses, and too few samples."""
    ratio.check(config)
    if min(config.draws, config.samples, config.field_samples) < 2:
        raise ValueError(
            f"--config.draws, samples, field_samples: {config.draws}, {config.samples}, "
            f"{config.field_samples}; wanted two or more of each."
        )


def cells(config: Config) -> list[dict]:
    """The cells of `ratio` whose data are known."""
    return [
        key | {"question": QUESTION}
        for key in ratio.cells(config)
        if _has_data(config, key["model"])
    ]


def _has_data(config: Config, name: str) -> bool:
    """Whether samples of this model can be compared with data."""
    if not subjects.is_network(name):
        return hasattr(subjects.subject(config, name).field, "draw")
    try:
        data.load(judges.data_of(name))
    except (ValueError, OSError):
        return False
    return True


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the distances of published, tuned and converged samples."""
    # Of the converged samples, by model and guidance: all numbers of evaluations share them.
    converged: dict[tuple, dict] = {}
    for key in todo:
        made = subjects.subject(config, key["model"], key["guidance"])
        try:
            table = tables.table_of(config, made, key["steps"])
        except tables.Refused as error:
            yield key, {"refused": str(error)}
            continue
        # As fine as the coarser of the two references of the errors.
        fine = plans.rk4(grids.uniform(made.starts_of(config)[2] // 2))
        judge = _of_network if made.is_network else _of_field
        by_kind = dict(zip(KINDS, (table.published, table.plan, fine), strict=True))
        known = converged.setdefault((key["model"], key["guidance"]), {})
        yield key, {"refused": None, **judge(config, made, by_kind, known)}


def draw(made: Subject, plan: Plan, seed: int, count: int) -> np.ndarray:
    """Samples (count, *D) of a plan, with labels that go round."""
    noise = made.starts(seed, count)
    # A field of few numbers runs all samples at once.
    batch = min(BATCH, count) if made.is_network else count
    found = []
    for first in range(0, count, batch):
        # The last batch is filled up, so that the program stays the same; the rest is dropped.
        part = np.resize(noise[first : first + batch], (batch, *made.shape))
        field = made.bound(batch, first)
        found.append(np.asarray(solvers.solve(field, part, plan)))
    return np.concatenate(found)[:count]


def _each(by_kind: dict[str, Plan], known: dict, judged: Callable[[Plan], Any]) -> dict[str, Any]:
    """{kind: judged(plan)}; what converged samples have is kept in `known`, and taken from it."""
    for kind in KINDS:
        if kind != "converged" or kind not in known:
            known[kind] = judged(by_kind[kind])
    return dict(known)


def _of_field(config: Config, made: Subject, by_kind: dict[str, Plan], known: dict) -> dict:
    """Sliced Wasserstein distances to the data, and that of data to data."""

    def drawn(seed: int) -> np.ndarray:
        return np.asarray(made.field.draw(jax.random.key(seed), config.field_samples))

    def distance(samples: np.ndarray, seed: int) -> float:
        return distances.sliced_wasserstein(
            samples, drawn(FIRST_SEED + seed), directions=DIRECTIONS, seed=0
        )

    # Each kind of plan has the same noises and the same draws of the data.
    seeds = range(config.draws)

    def judged(plan: Plan) -> list[float]:
        return [
            distance(draw(made, plan, FIRST_SEED + seed, config.field_samples), seed)
            for seed in seeds
        ]

    found = _each(by_kind, known, judged)
    # What two draws of the data differ by: no solver can be expected below it.
    found["data"] = [distance(drawn(2 * FIRST_SEED + seed), seed) for seed in seeds]
    return {"measure": "sliced Wasserstein", "values": found}


def _of_network(config: Config, made: Subject, by_kind: dict[str, Plan], known: dict) -> dict:
    """Frechet distances on features, the classifier's accuracy, and a picture."""
    judge = judges.judge(judges.data_of(made.name))
    features = judge.features(judge.images)
    labels = made.labels(config.samples)

    def judged(plan: Plan) -> tuple[list[float], float]:
        # All images of the data are the reference, for each seed.
        far, right = [], []
        for seed in range(config.draws):
            samples = draw(made, plan, FIRST_SEED + seed, config.samples)
            far.append(float(distances.frechet(judge.features(samples), features)))
            right.append(float(np.mean(judge.correct(samples, labels))))
        return far, float(np.mean(right))

    found = _each(by_kind, known, judged)
    shown = sheet(made, [by_kind[kind] for kind in KINDS], seed=FIRST_SEED)
    return {
        "measure": "Frechet",
        "values": {kind: far for kind, (far, _) in found.items()},
        "accuracy": {kind: right for kind, (_, right) in found.items()},
        "grid": png(images.grid(shown, columns=COLUMNS)),
    }


# ---- figures


def _figure(own: list[dict], subject: tuple[str, float]) -> report.Picture:
    """The distance of samples against evaluations for one model."""
    here = [row for row in own if (row["model"], row["guidance"]) == subject]
    name = drawing.title_of(*subject)
    fig, ax = report.canvas(width=5.4, height=3.6)
    # Networks have no floor of the data here; their converged samples take its place.
    lines = {
        kind: [(row["steps"], float(np.mean(row["values"][kind]))) for row in here]
        for kind in ("published", "tuned", "converged", "data")
        if kind in here[0]["values"]
    }
    drawing.curves(
        ax,
        lines,
        xlabel="evaluations of the network (NFE)",
        ylabel=f"{here[0]['measure']} distance to the data",
        yscale="linear",
    )
    # From zero on, so that a difference looks as large as it is.
    ax.set_ylim(bottom=0)
    drawing.legend_below(ax, columns=4)
    claim = f"{name}: {_claim(here)}"
    drawing.claim(fig, claim)
    return report.picture(fig, claim)


def _claim(here: list[dict]) -> str:
    """At how many evaluations tuned samples are nearer to the data than published ones."""
    here = sorted(here, key=lambda row: row["steps"])
    nearer = [str(row["steps"]) for row in here if gap(row, "tuned") < gap(row, "published")]
    claim = "tuned samples are nearer to converged ones than published samples"
    if len(nearer) == len(here):
        return f"{claim} at every number of evaluations."
    if not nearer:
        return f"{claim} at no number of evaluations."
    return f"{claim} at {', '.join(nearer)} evaluations."


def _sheet(row: dict) -> report.Picture:
    """Published, tuned and converged samples from the same noise, a row each."""
    name = drawing.title_of(row["model"], row["guidance"])
    alt = f"Samples of {name} at {row['steps']} evaluations: published, tuned, converged."
    caption = (
        f"**{name}, {row['steps']} evaluations**, from the same noise: published (first row), "
        "tuned (second) and converged (third)."
    )
    return report.image(base64.b64decode(row["grid"]), alt, caption)


# ---- words


def gap(row: dict, kind: str) -> float:
    """How far the distance of samples is from that of converged samples."""
    # Not the distance itself: a solver's error can bring samples nearer to the data by chance.
    values = row["values"]
    return abs(float(np.mean(values[kind])) - float(np.mean(values["converged"])))


def _gains(row: dict) -> np.ndarray:
    """(draws,) by how much tuned samples are nearer to converged ones than published samples."""
    values = {kind: np.array(row["values"][kind]) for kind in KINDS}
    published, tuned = (np.abs(values[k] - values["converged"]) for k in ("published", "tuned"))
    return published - tuned


def _is_always_nearer(row: dict) -> bool:
    """Whether tuned samples are nearer with every draw."""
    return bool(np.all(_gains(row) > 0))


def _is_never_nearer(row: dict) -> bool:
    """Whether tuned samples are nearer with no draw."""
    return not np.any(_gains(row) > 0)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    every = [row for row in rows if row["question"] == QUESTION]
    own = [row for row in every if not row["refused"]]
    subjects_here = list(dict.fromkeys((row["model"], row["guidance"]) for row in own))
    pictures = [_figure(own, subject) for subject in subjects_here]
    # The sheet at the fewest evaluations shows most.
    sheets = [row for row in own if "grid" in row]
    if sheets:
        pictures.append(_sheet(min(sheets, key=lambda row: row["steps"])))
    return report.Section(
        question="Are the samples better too?",
        expected="Yes from 6 evaluations on; below, a nearer endpoint need not be a better sample.",
        answer=summary(rows) or f"**None of {len(every)} cells could be tuned.**",
        figures=pictures,
        table=_lines(own),
        caveat="Distances see the whole distribution, and errors see single samples. Frechet "
        "distances are of a small network's features, so they are no FID, and those of few "
        "samples are too large; compare them with the converged samples, which are as many.",
        command=command,
    )


def summary(rows: list[dict]) -> str:
    """The answer in one or two sentences; empty without rows."""
    own = [row for row in rows if row["question"] == QUESTION and not row["refused"]]
    if not own:
        return ""
    nearer = [row for row in own if gap(row, "tuned") < gap(row, "published")]
    text = (
        f"Samples of the tuned table are nearer to converged ones than published samples in "
        f"**{len(nearer)} of {len(own)}** cells, by their distance to the data (in "
        f"{sum(map(_is_always_nearer, own))} with every draw of samples, and in "
        f"{sum(map(_is_never_nearer, own))} with none)"
    )
    few = [row for row in own if row["steps"] < FEW]
    if few:
        below = sum(row in nearer for row in few)
        text += f"; with fewer than {FEW} evaluations in {below} of {len(few)}"
    networks = [row for row in own if "accuracy" in row]
    if networks:
        right = {
            kind: f"{np.mean([row['accuracy'][kind] for row in networks]):.1%}" for kind in KINDS
        }
        text += (
            f"; on networks in {sum(row in nearer for row in networks)} of {len(networks)}, where "
            f"a classifier finds the right class in {right['published']} of published, "
            f"{right['tuned']} of tuned and {right['converged']} of converged samples"
        )
    return f"{text}."


def _lines(own: list[dict]) -> list[dict]:
    """The table below the figures."""
    found = []
    for row in own:
        line = {
            "model": drawing.title_of(row["model"], row["guidance"]),
            "evaluations": row["steps"],
            "distance": row["measure"],
        }
        for kind, values in row["values"].items():
            line |= {kind: float(np.mean(values)), f"{kind} ±": float(np.std(values, ddof=1))}
        for kind, accuracy in row.get("accuracy", {}).items():
            line[f"right class, {kind}"] = accuracy
        found.append(line)
    return found
