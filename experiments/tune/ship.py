"""Put the accepted plans of a work directory beside the weights of the shipped networks.

    python -m experiments.tune.ship results/tune

Afterwards `--config.solver=tuned` of `experiments.sample` and `flowjax.tune.shipped` find them.
"""

import pathlib
import sys
from collections.abc import Sequence

from flowjax import plans
from flowjax.models.weights import SHIPPED
from flowjax.tune.facts import shipped_path

# The history of the refinement stays in the work directory.
LEFT_OUT = ("history",)


def ship(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Copy the plans; those of other models, not accepted, or of parts of a table are left.

    Returns:
      The files that were written.
    """
    written = []
    for path in sorted((workdir / "plans").glob("*.json")):
        plan, facts = plans.load_with_facts(path)
        network, steps = facts.get("network"), facts.get("steps")
        # The short name is that of a whole table, see `tables.path_of`.
        is_whole = path.stem == f"{network}-w{facts.get('guidance', 0):g}-{steps}"
        # The network of a folder may have the name of one that comes with flowjax.
        if network not in SHIPPED or "folder" in facts or not facts.get("accepted") or not is_whole:
            continue
        target = shipped_path(network, steps, facts["guidance"])
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in facts.items() if name not in LEFT_OUT}
        plans.save(target, plan, **kept)
        written.append(target)
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: the work directory."""
    given = sys.argv[1:] if argv is None else list(argv)
    if len(given) != 1 or not pathlib.Path(given[0], "plans").is_dir():
        print(
            "experiments.tune.ship: wanted a work directory of experiments.tune that has plans/.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    for path in ship(pathlib.Path(given[0])):
        print(f"shipped: {path}")


if __name__ == "__main__":
    main()
