"""`python -m experiments.advise --config=configs/advise.py --workdir=runs/advise`."""

import jax

# Exact fields are measured in float64, which must be set before the first array exists. Networks
# stay in float32.
jax.config.update("jax_enable_x64", True)

from experiments.advise import QUESTIONS, make_report, run  # noqa: E402
from experiments.cli.run import main  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
