"""The numbers that the original solvers give, against ours.

    python -m tests.golden [DIR] [--every N] [--family NAME]

DIR (tests/golden/solvers) holds manifest.json, which lists the cases, fields.npz with the mixtures
they run on, and the originals' outputs, one array a case. Every case is a call of the public API:
settings become a plan (compat, plans), the plan runs (flowjax.sample) on the exact field, and the
largest difference must stay within the case's tolerance. An output is read after ours is computed.
To add a family, write a function of (Folder, case) that returns our array and put it in the
FAMILIES of its file.
"""

import argparse
import collections
import pathlib
import sys

import jax
import numpy as np

from tests.golden import adaptive_cases, diffusers_cases, dpm_solver_cases, guidance_cases
from tests.golden.folder import Folder

HERE = pathlib.Path(__file__).parent / "solvers"
FAMILIES = (
    dpm_solver_cases.FAMILIES
    | diffusers_cases.FAMILIES
    | adaptive_cases.FAMILIES
    | guidance_cases.FAMILIES
)


def check(folder, case):
    """(ratio of the largest difference to the tolerance, a sentence if the case fails)."""
    family = FAMILIES.get(case["family"])
    if family is None:
        return np.inf, f"the family {case['family']!r} is not known"
    # A case that cannot be run is a miss like any other, and the rest still runs.
    try:
        ours = np.asarray(family(folder, case))
    except Exception as error:
        return np.inf, f"{type(error).__name__}: {error}"
    theirs = folder.array(case["file"], case["id"])
    if ours.shape != theirs.shape:
        return np.inf, f"shape {ours.shape}, the original {theirs.shape}"
    if not np.all(np.isfinite(theirs)):
        return np.inf, "the original is not finite"
    difference = np.max(np.abs(ours - theirs))
    ratio = difference / case["tol_abs"] if np.isfinite(difference) else np.inf
    if ratio <= 1:
        return ratio, ""
    return ratio, f"differs by {difference:.3g}, tolerance {case['tol_abs']:.3g}"


class Count:
    """Passed and failed cases of a family, and the worst ratio of difference to tolerance."""

    def __init__(self):
        self.passed = self.failed = 0
        self.worst = 0.0

    def add(self, ratio, miss):
        self.passed += not miss
        self.failed += bool(miss)
        self.worst = max(self.worst, ratio)

    def __str__(self):
        return (
            f"{self.passed:5} passed {self.failed:5} failed   worst difference {self.worst:.2g} of "
            "its tolerance"
        )


def run_folder(path, every=1, family=None, show=print):
    """Check every `every`-th case of each family.

    Args:
      path: the folder.
      every: 1 for all cases.
      family: only this one.
      show: function of a line of text.

    Returns:
      (passed, failed).
    """
    folder = Folder(path)
    seen = collections.Counter()
    counts = collections.defaultdict(Count)
    for case in folder.cases:
        name = case["family"]
        place = seen[name]
        seen[name] += 1
        if (family is not None and name != family) or place % every:
            continue
        ratio, miss = check(folder, case)
        if miss:
            show(f"{case['id']} ({name}): {miss}")
        counts[name].add(ratio, miss)
    for name, count in counts.items():
        show(f"{name:32} {count}")
    if not counts:
        raise ValueError(f"tests.golden: {path} has no case for family={family!r}.")
    passed = sum(count.passed for count in counts.values())
    failed = sum(count.failed for count in counts.values())
    show(f"{passed} passed, {failed} failed")
    return passed, failed


def main(argv=None):
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=HERE)
    parser.add_argument("--every", type=int, default=1, help="take each N-th case of a family")
    parser.add_argument("--family", help="only this family")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    try:
        _, failed = run_folder(args.folder, args.every, args.family)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
