"""`python -m experiments.staleness --config=configs/staleness.py:quick --workdir=runs/staleness-quick`."""

import jax

jax.config.update(
    "jax_enable_x64", True
)  # the exact field is computed in float64; set before the first array exists

from experiments.cli.run import main
from experiments.staleness import QUESTIONS, make_report, run  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
