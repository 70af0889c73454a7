"""The page of the quality experiment and the metrics for the models' cards, from rows."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

from experiments import report
from flowjax import files, records

WORDS = {
    "Frechet distance": "Squared Wasserstein distance of two Gaussians fitted to features, here of "
    "a network with one hidden layer that learned these classes.",
    "KID": "Squared maximum mean discrepancy of the same features with a cubic kernel; 0 in the "
    "mean for two draws of one distribution.",
    "copy": "A sample whose distance to the nearest training image is less than a third of that to "
    "the next.",
    "guidance": "Scale of classifier-free guidance: 1 is the conditional network alone.",
}
CAVEAT = (
    "A classifier that learned from few images judges; the model has learned from all of them, "
    "those held out included. A copy is a sample nearer to one training image than a third of its "
    "distance to the next, in pixels: shifted copies escape. Frechet distances are biased at few "
    "samples, so compare them with the floor, which has as many."
)
MEANING = (
    "accuracy under an SVM (data: on images it has not seen), Frechet distance and KID on a small "
    "network's features (data: the floor), median distance to the nearest training image and share "
    "of copies (data: leaving each image out)"
)


def names_of(rows: Sequence[dict]) -> list[str]:
    """The models of the rows, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def _split(rows: Sequence[dict], name: str) -> tuple[dict, list[dict]]:
    """(the row of the data, the rows of the scales) of one model."""
    own = [row for row in rows if row["model"] == name]
    base = next(row for row in own if row["part"] == "data")
    return base, [row for row in own if row["part"] == "samples"]


# ---- numbers


def metrics(rows: Sequence[dict], name: str) -> dict:
    """The quality of a model for its card: numbers by guidance scale, and the data's own."""
    base, found = _split(rows, name)
    names = ("accuracy", "frechet", "kid", "nearest", "copies")
    of_data = (*names, "accuracy_seen", "frechet_sd", "kid_sd")
    of_samples = (*names, "samples")
    return {
        "data": {n: base[n] for n in of_data},
        "samples": {f"{row['scale']:g}": {n: row[n] for n in of_samples} for row in found},
        "meaning": MEANING,
    }


def table(rows: Sequence[dict], name: str) -> list[dict]:
    """The rows of one model for the page: the data first, then each scale."""
    return [_table_row(row) for row in rows if row["model"] == name]


def _table_row(row: dict) -> dict:
    interval = "held out"
    if "accuracy_low" in row:
        interval = f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}"
    return {
        "what": "data" if row["part"] == "data" else f"guidance {row['scale']:g}",
        "class accuracy": row["accuracy"],
        "interval": interval,
        "Frechet distance": row["frechet"],
        "its sd": row["frechet_sd"],
        "KID": row["kid"],
        "KID sd": row["kid_sd"],
        "nearest training image": row["nearest"],
        "copies": row["copies"],
    }


# ---- words


def summary(rows: Sequence[dict], name: str) -> list[str]:
    """Two lines of the page's summary: classes and copies at the best scale by Frechet distance."""
    base, found = _split(rows, name)
    best = min(found, key=lambda row: row["frechet"])
    ratio = report.sig(best["frechet"] / base["frechet"])
    return [
        f"**{name}** at guidance {best['scale']:g}: {best['accuracy']:.1%} of the samples have the "
        "class asked for.",
        f"**{name}** at guidance {best['scale']:g}: the Frechet distance is {ratio} times that of "
        "two draws of the data.",
        f"**{name}** at guidance {best['scale']:g}: {best['copies']:.1%} of the samples are copies "
        "of a training image.",
    ]


def details(rows: Sequence[dict], name: str) -> str:
    """Every scale beside the numbers of the data."""
    base, found = _split(rows, name)

    def each(text: Callable[[dict], str]) -> str:
        return ", ".join(f"{text(row)} at {row['scale']:g}" for row in found)

    def accuracy(row: dict) -> str:
        return f"{row['accuracy']:.1%}"

    def copied(row: dict) -> str:
        return f"{row['copies']:.1%}"

    def frechet(row: dict) -> str:
        return f"{report.sig(row['frechet'])} ± {report.sig(row['frechet_sd'])}"

    def nearest(row: dict) -> str:
        return report.sig(row["nearest"] / base["nearest"])

    best = min(found, key=lambda row: row["frechet"])
    return (
        f"The lowest Frechet distance is at guidance **{best['scale']:g}**. "
        f"Class accuracy by guidance: {each(accuracy)}; the classifier is right on "
        f"{base['accuracy']:.1%} of images it has not seen and {base['accuracy_seen']:.1%} of "
        f"those it has.\nFrechet distance on a small network's features: {each(frechet)}; two "
        f"draws of the data {frechet(base)}.\nThe nearest training image lies {each(nearest)} "
        f"times as far as the data's own nearest neighbours. Copies: {each(copied)}, within the "
        f"data {base['copies']:.1%}."
    )


# ---- figures


def _picture(png: str, alt: str, caption: str) -> report.Picture:
    """A PNG in base64, whose pixels a browser must not smooth."""
    style = "image-rendering:pixelated"
    markup = f'<img style="{style}" alt="{alt}" src="data:image/png;base64,{png}">'
    return report.Picture(markup, caption)


def figures(rows: Sequence[dict], name: str) -> list[report.Picture]:
    """Samples at each scale, and samples above the training images nearest to them."""
    found = _split(rows, name)[1]
    made = []
    for row in found:
        caption = f"Guidance {row['scale']:g}: a row a class."
        made.append(_picture(row["grid"], f"Samples of {name}, a row a class.", caption))
    first = found[0]
    caption = (
        f"Above: samples at guidance {first['scale']:g}. "
        "Below each: the training image nearest to it."
    )
    alt = f"Samples of {name} and the training images nearest to them."
    return [*made, _picture(first["neighbours"], alt, caption)]


# ---- the page


def section(rows: Sequence[dict], name: str, command: str) -> report.Section:
    """The section of one model."""
    return report.Section(
        question=f"How good is the {name} model?",
        expected="Guidance makes classes surer and the distribution narrower; samples are new.",
        answer=details(rows, name),
        figures=tuple(figures(rows, name)),
        table=table(rows, name),
        caveat=CAVEAT,
        command=command,
    )


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html, and write each model's metrics for its card.

    Returns:
      The paths of the page and of the metrics.
    """
    rows, origin = records.read(workdir), report.origin(workdir)
    names = names_of(rows)
    made = []
    for name in names:
        path = f"{workdir}/{name}.metrics.json"
        files.write_text(path, json.dumps(metrics(rows, name), indent=2) + "\n")
        made.append(path)

    lead = [line for name in names for line in summary(rows, name)]
    sections = [section(rows, name, origin["command"]) for name in names]
    title = "How good are the shipped models?"
    page = report.page(title, lead, sections, definitions=WORDS, **origin)
    return [report.write(pathlib.Path(workdir) / "report.html", page), *made]
