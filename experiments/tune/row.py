r"""Published, tuned and converged samples from the same noise: the picture of a plan file.

    python -m experiments.tune.row runs/tune/plans/digits-smooth-w1-8.json runs/demo/tuned.png

The file names its network, guidance and published plan, so nothing else is needed.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from configs.tune import Config
from experiments import report
from experiments.cli import images
from experiments.tune import subject as subjects
from experiments.tune import tables
from experiments.tune.sheet import COLUMNS, sheet
from flowjax import files, grids, plans

FINE_STEPS = 60  # of RK4, for the converged samples


def of_file(path: str | os.PathLike) -> tuple[np.ndarray, dict]:
    """The sheet of a plan file, and the facts of the file.

    Raises:
      ValueError: the file is no plan, or not one that was tuned for a network here.
    """
    plan, facts = plans.load_with_facts(path)
    # A plan of another origin may lack what the picture needs.
    missing = [name for name in ("network", "guidance", "steps", "published") if name not in facts]
    if missing:
        raise ValueError(
            f"{path} does not say its {', '.join(missing)}; give a plan file that "
            "python -m experiments.tune made for a network."
        )
    made = subjects.subject(Config(), facts.get("folder", facts["network"]), facts["guidance"])
    published = tables.published_plan(facts["published"], facts["steps"], made.schedule)
    converged = plans.rk4(grids.uniform(FINE_STEPS))
    # A file holds the plan of the network's own path.
    return sheet(made, [published, made.plan_of_own(plan), converged]), facts


def draw(path: str | os.PathLike, target: str | os.PathLike) -> report.Section:
    """Write the picture of a plan file as a PNG, and return the section of a page with it.

    Args:
      path: the plan file.
      target: the PNG; the facts of the plan are inside, see `experiments.cli.images`.
    """
    samples, facts = of_file(path)
    images.save_png(target, images.grid(samples, COLUMNS), facts)
    return section(pathlib.Path(target).read_bytes(), facts, str(path))


def section(png: bytes, facts: dict, path: str) -> report.Section:
    """The section of a page: what the tuned table gains, and the samples."""
    # The errors on the test starts of the tuning, which are in the file.
    before, after = facts["before"]["test"], facts["after"]["test"]
    scale = facts["guidance"]
    name = facts["network"] if scale == 1 else f"{facts['network']} at guidance {scale:g}"
    alt = (
        f"Samples of {name} in three rows: {facts['steps']} published evaluations, "
        f"{facts['steps']} tuned ones, and the converged solution."
    )
    caption = (
        f"Each column has one noise and one class. First row: {facts['published']}. Second row: "
        "the tuned table. Third row: the converged solution."
    )
    return report.Section(
        question=f"What do {facts['steps']} evaluations of a tuned table look like?",
        answer=f"On {name} the tuned table has **{report.sig(after / before)} times** the error "
        f"of the best published plan of {facts['steps']} evaluations ({report.sig(after)} beside "
        f"{report.sig(before)}, relative to the converged solution, on unseen starts).",
        figures=(report.image(png, alt, caption),),
        command=f"python -m experiments.tune.row {path} tuned.png",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the plan file and the PNG."""
    given = sys.argv[1:] if argv is None else list(argv)
    if len(given) != 2:
        print("experiments.tune.row: wanted a plan file and the PNG to write.", file=sys.stderr)
        raise SystemExit(2)
    try:
        draw(*given)
    except (ValueError, OSError, files.WriteError) as error:
        print(f"experiments.tune.row: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"drawn: {given[1]}")


if __name__ == "__main__":
    main()
