"""Print the plan of a scheduler_config.json: python -m flowjax.compat scheduler_config.json."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from flowjax.compat import diffusers_plan, diffusers_schedule, table, unsafe_rows
from flowjax.schedules import Linear


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a plan and the warnings about it.

    Args:
      argv: the arguments of the command; None takes those of the process.

    Returns:
      0, or 2 with a sentence on standard error where the file is not understood.
    """
    args = _parser().parse_args(argv)
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
        plan = diffusers_plan(
            config,
            args.steps,
            mu=args.mu,
            labels=args.labels,
            grid=args.grid,
            third_order=args.third_order,
        )
        schedule = diffusers_schedule(config)
    except (OSError, ValueError) as error:
        print(f"flowjax.compat: {args.config}: {error}", file=sys.stderr)
        return 2

    # The labels in the numbers of the network: a VP network has an index that begins at 0.
    train_steps = config.get("num_train_timesteps", 1000)
    first_index = 0 if isinstance(schedule, Linear) else 1

    def network_label(t):
        return train_steps * t - first_index

    # The table, then what is wrong with it, then the sums.
    path = type(schedule).__name__
    print(f"{config['_class_name']}, {args.steps} steps: {plan.rows} rows, {path} path")
    print(table(plan, schedule, network_label))
    for sentence in unsafe_rows(plan, schedule):
        print(f"warning: {sentence}")
    print(
        f"{plan.nfe} evaluations, {plan.steps} accepted steps, "
        f"t from {plan.t[0]:.6g} to {plan.t_next[-1]:.6g}"
    )
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m flowjax.compat", description=__doc__)
    parser.add_argument("config", type=pathlib.Path, help="a scheduler_config.json of diffusers")
    parser.add_argument("--steps", type=int, default=20, help="number of inference steps (20)")
    parser.add_argument(
        "--mu", type=float, help="exponent of the dynamic shift, where the config has one"
    )
    parser.add_argument("--labels", default="continuous", help="continuous (default) or peers")
    parser.add_argument("--grid", default="corrected", help="corrected (default) or peers")
    parser.add_argument("--third-order", default="published", help="published (default) or exact")
    return parser


if __name__ == "__main__":
    sys.exit(main())
