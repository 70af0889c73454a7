"""`python -m experiments.staleness --config=configs/staleness.py --workdir=runs/staleness`."""

import jax

# The exact field is computed in float64. This must be set before the first array exists.
jax.config.update("jax_enable_x64", True)

from experiments.cli.run import main  # noqa: E402
from experiments.staleness import QUESTIONS, make_report, run  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
