"""Print the plan of a scheduler_config.json: python -m flowjax.compat scheduler_config.json [--steps N]."""

import argparse
import json
import pathlib
import sys

from flowjax.compat import diffusers_plan, diffusers_schedule, table, unsafe_rows
from flowjax.schedules import Linear


def main(argv=None):
    """Print the table and the warnings; 0, or 2 with a sentence where the file is not understood."""
    parser = argparse.ArgumentParser(prog="python -m flowjax.compat", description=__doc__)
    parser.add_argument("config", type=pathlib.Path, help="a scheduler_config.json of diffusers")
    parser.add_argument("--steps", type=int, default=20, help="number of inference steps (20)")
    parser.add_argument(
        "--mu", type=float, help="exponent of the dynamic shift, where the config asks for one"
    )
    parser.add_argument("--labels", default="continuous", help="continuous (default) or peers")
    parser.add_argument("--grid", default="corrected", help="corrected (default) or peers")
    parser.add_argument("--third-order", default="published", help="published (default) or exact")
    args = parser.parse_args(argv)
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
        options = {
            "mu": args.mu,
            "labels": args.labels,
            "grid": args.grid,
            "third_order": args.third_order,
        }
        plan, schedule = diffusers_plan(config, args.steps, **options), diffusers_schedule(config)
    except (OSError, ValueError) as error:
        print(f"flowjax.compat: {args.config}: {error}", file=sys.stderr)
        return 2
    print(
        f"{config['_class_name']}, {args.steps} steps: {plan.rows} rows, {type(schedule).__name__} path"
    )
    steps = config.get("num_train_timesteps", 1000)
    first = (
        0 if isinstance(schedule, Linear) else 1
    )  # VP networks are told an index that begins at 0
    print(table(plan, schedule, lambda t: steps * t - first))
    for sentence in unsafe_rows(plan, schedule):
        print(f"warning: {sentence}")
    print(
        f"{plan.nfe} evaluations, {plan.steps} accepted steps, t from {plan.t[0]:.6g} to {plan.t_next[-1]:.6g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
