"""`python -m experiments.order --config=configs/order.py:quick --workdir=runs/demo/order`."""

import jax

# Orders are measured in float64, which must be set before the first array exists.
jax.config.update("jax_enable_x64", True)

from experiments.cli.run import main  # noqa: E402
from experiments.order import QUESTIONS, make_report, run  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
