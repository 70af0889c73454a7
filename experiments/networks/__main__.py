"""`python -m experiments.networks --config=configs/networks.py --workdir=results/networks`."""

import jax

# Errors of solvers are smaller than TF32 rounds, which is the default of NVIDIA GPUs. A CPU has no
# other precision than float32.
jax.config.update("jax_default_matmul_precision", "highest")

from experiments.cli.run import main  # noqa: E402
from experiments.networks import QUESTIONS, make_report, run  # noqa: E402

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
