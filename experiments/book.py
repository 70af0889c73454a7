r"""One short page of several experiments: their summaries, one figure a question, and links.

    python -m experiments.book runs/demo/report.html --samples runs/demo/digits runs/demo/emoji \
        --tuned flowjax/assets/digits-smooth/plans/w1-8.json \
        --chapters runs/demo/order runs/demo/staleness

Chapters are work directories of `experiments.order`, `experiments.staleness` and
`experiments.tune`, whose own pages hold the answers; samples are those of `experiments.sample`; a
tuned plan is shown by samples beside the published ones.
"""

import argparse
import io
import os
import pathlib
import sys
from collections.abc import Sequence

import PIL.Image

from experiments import order, report, staleness, tune
from experiments.cli import images
from experiments.tune import row
from flowjax import records

TITLE = "flowjax: what order is worth, and how much staleness one can bear"
CHAPTERS = {
    "experiments.order": order.chapter,
    "experiments.staleness": staleness.chapter,
    "experiments.tune": tune.chapter,
}
PAGE = "report.html"  # of a work directory
TALL = 330  # pixels of a picture of samples
LARGEST = 4_000_000  # bytes of the page


def chapter(workdir: str | os.PathLike) -> report.Chapter:
    """The chapter of a work directory, by the experiment that made it.

    Raises:
      ValueError: it holds no finished run of an experiment that has chapters.
    """
    command = (records.read_summary(workdir) or {}).get("command", "")
    for name, make in CHAPTERS.items():
        if f"-m {name} " in command:
            return make(workdir)
    raise ValueError(
        f"experiments.book: {workdir} holds no finished run of {' or '.join(CHAPTERS)}; "
        "run one of them into it first."
    )


def address(workdir: str | os.PathLike, page: str | os.PathLike) -> str:
    """The full page of a work directory, as a link from `page`."""
    here = pathlib.Path(page).resolve().parent
    return pathlib.Path(os.path.relpath(pathlib.Path(workdir).resolve(), here), PAGE).as_posix()


def lead(chapters: Sequence[report.Chapter]) -> list[str]:
    """The first lines of each chapter's summary, as many of each as have room."""
    each, more = divmod(report.LINES, max(len(chapters), 1))
    lines = []
    for i, found in enumerate(chapters):
        own = [found.lead] if isinstance(found.lead, str) else found.lead
        # The first chapters have the lines that are left over.
        lines += own[: each + (i < more)]
    return lines


def sampled(workdir: str | os.PathLike) -> report.Picture:
    """The images that `experiments.sample` drew into a work directory, with their settings below.

    Raises:
      ValueError: there are none.
    """
    path = pathlib.Path(workdir) / "samples.png"
    if not path.is_file():
        raise ValueError(
            f"experiments.book: there is no {path}; run experiments.sample into {workdir} first."
        )
    settings = images.read_settings(path)
    # The pictures of experiments.train have other settings.
    if not settings.keys() >= {"config", "labels", "seconds", "nfe", "command"}:
        raise ValueError(
            f"experiments.book: {path} was not drawn by experiments.sample; give a work directory "
            "of that command."
        )
    config = settings["config"]
    # A label has several names; the first one is enough below a row of images.
    labels = ", ".join(str(name).split(",")[0] for _, name in settings["labels"])
    seconds = report.sig(settings["seconds"]["first"])
    caption = (
        f"**{config['model']}**: {settings['nfe']} evaluations of {config['solver']}, "
        f"guidance {report.sig(config['guidance'])}, drawn in {seconds} s. "
        f"A row a label: {labels}. `{settings['command']}`"
    )
    alt = f"Samples of the network {config['model']}, a row a label: {labels}."
    with PIL.Image.open(path) as drawn:
        # Shrunk where a picture would be taller than the figures beside it.
        width = round(drawn.width * min(1.0, TALL / drawn.height))
    return report.image(path.read_bytes(), alt, caption, width=width)


def tuned(path: str | os.PathLike) -> report.Picture:
    """Published, tuned and converged samples of a plan file, with what the table gains.

    Raises:
      ValueError: the file is no tuned plan of a network that is here.
    """
    samples, facts = row.of_file(path)
    written = io.BytesIO()
    PIL.Image.fromarray(images.grid(samples, row.COLUMNS)).save(written, "png")
    found = row.section(written.getvalue(), facts, str(path))
    picture = found.figures[0]
    return picture._replace(caption=f"{found.answer} {picture.caption}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.book", description=__doc__.splitlines()[0]
    )
    parser.add_argument("page", help="the HTML file to write")
    parser.add_argument(
        "--samples", nargs="*", default=[], help="work directories of experiments.sample"
    )
    parser.add_argument("--tuned", nargs="*", default=[], help="plan files of experiments.tune")
    parser.add_argument(
        "--chapters", nargs="+", required=True, help="work directories of the experiments"
    )
    given = parser.parse_args(argv)
    try:
        figures = [sampled(workdir) for workdir in given.samples]
        figures += [tuned(path) for path in given.tuned]
        chapters = [(chapter(workdir), address(workdir, given.page)) for workdir in given.chapters]
        page = report.book(TITLE, lead([found for found, _ in chapters]), figures, chapters)
        print(f"drawn: {report.write(given.page, page, largest=LARGEST)}")
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
