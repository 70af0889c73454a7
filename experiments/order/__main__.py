"""`python -m experiments.order --config=configs/order.py:quick --workdir=runs/order-quick`."""

import jax

jax.config.update(
    "jax_enable_x64", True
)  # orders are measured in float64; set before the first array exists

from experiments.cli.run import main
from experiments.order import QUESTIONS, make_report, run  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
