r"""One page of several chapters: samples of the networks, a solver's order, and staleness.

    python -m experiments.book runs/demo/report.html --samples runs/demo/digits runs/demo/emoji \
        --chapters runs/demo/order runs/demo/staleness

Chapters are work directories of `experiments.order` and `experiments.staleness`, samples those of
`experiments.sample`.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from experiments import order, report, staleness
from experiments.cli import images
from flowjax import records

TITLE = "flowjax: what order is worth, and how much staleness one can bear"
LEAD = (
    "Measured here, on this machine, by the commands that stand under each figure. "
    "Nothing is drawn from memory."
)
CHAPTERS = {"experiments.order": order.chapter, "experiments.staleness": staleness.chapter}
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
    labels = ", ".join(str(name) for _, name in settings["labels"])
    seconds = report.sig(settings["seconds"]["first"])
    caption = (
        f"**{config['model']}**: {settings['nfe']} evaluations of {config['solver']}, "
        f"guidance {report.sig(config['guidance'])}, drawn in {seconds} s. "
        f"A row a label: {labels}. `{settings['command']}`"
    )
    alt = f"Samples of the network {config['model']}, a row a label: {labels}."
    return report.image(path.read_bytes(), alt, caption)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.book", description=__doc__.splitlines()[0]
    )
    parser.add_argument("page", help="the HTML file to write")
    parser.add_argument(
        "--samples", nargs="*", default=[], help="work directories of experiments.sample"
    )
    parser.add_argument(
        "--chapters", nargs="+", required=True, help="work directories of the experiments"
    )
    given = parser.parse_args(argv)
    try:
        figures = [sampled(workdir) for workdir in given.samples]
        chapters = [chapter(workdir) for workdir in given.chapters]
        page = report.book(TITLE, LEAD, figures, chapters)
        print(f"drawn: {report.write(given.page, page, largest=LARGEST)}")
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
