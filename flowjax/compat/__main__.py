"""Print the plan of a scheduler_config.json: python -m flowjax.compat scheduler_config.json."""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from flowjax.compat import (
    diffusers_label,
    diffusers_plan,
    diffusers_schedule,
    table,
    unsafe_rows,
    without_effect,
)
from flowjax.compat.scheduler_config import read
from flowjax.compat.scheduler_hooks import correction_of

STEPS = 20  # without --steps and without a list


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a plan and the warnings about it.

    Args:
      argv: the arguments of the command; None takes those of the process.

    Returns:
      0, or 2 with a sentence on standard error where the file is not understood.
    """
    args = _parser().parse_args(argv)
    steps = args.steps
    # 0 is a number of steps, and it is refused.
    if steps is None and args.sigmas is None and args.timesteps is None:
        steps = STEPS
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
        plan = diffusers_plan(
            config,
            steps,
            mu=args.mu,
            eta=args.eta,
            strength=args.strength,
            sigmas=args.sigmas,
            timesteps=args.timesteps,
            labels=args.labels,
            grid=args.grid,
            third_order=args.third_order,
            with_hook=True,
        )
    except (OSError, ValueError) as error:
        print(f"flowjax.compat: {args.config}: {error}", file=sys.stderr)
        return 2

    # The table with the labels in the numbers of the network, then what is wrong with it.
    schedule = diffusers_schedule(config)
    path = type(schedule).__name__
    print(f"{config['_class_name']}, {plan.steps} steps: {plan.rows} rows, {path} path")
    print(table(plan, schedule, diffusers_label(config)))
    for sentence in unsafe_rows(plan, schedule):
        print(f"warning: {sentence}")

    # What the plan alone does not show.
    correction = correction_of(read("compat", config, {}))
    if correction:
        print(f"note: {correction.reason}; pass data_hook=compat.diffusers_data_hook(config, plan)")
    dropped = without_effect(config)
    if dropped:
        names = ", ".join(f"{key}={value!r}" for key, value in dropped.items())
        print(f"note: without effect in this class, as in diffusers: {names}")
    print(
        f"{plan.nfe} evaluations, {plan.steps} accepted steps, "
        f"t from {plan.t[0]:.6g} to {plan.t_next[-1]:.6g}"
    )
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m flowjax.compat", description=__doc__)
    parser.add_argument("config", type=pathlib.Path, help="a scheduler_config.json of diffusers")
    parser.add_argument("--steps", type=int, help=f"number of inference steps ({STEPS})")
    parser.add_argument(
        "--mu", type=float, help="exponent of the dynamic shift, where the config has one"
    )
    parser.add_argument("--eta", type=float, default=0.0, help="of DDIM, 0 (default) to 1")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="of image-to-image: the last steps alone"
    )
    for name in ("--sigmas", "--timesteps"):
        parser.add_argument(name, type=_numbers, help="numbers with commas, in place of --steps")
    parser.add_argument("--labels", default="continuous", help="continuous (default) or peers")
    parser.add_argument("--grid", default="corrected", help="corrected (default) or peers")
    parser.add_argument("--third-order", default="published", help="published (default) or exact")
    return parser


def _numbers(text):
    return [float(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
