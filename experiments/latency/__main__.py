"""`python -m experiments.latency --config=configs/latency.py:quick --workdir=runs/latency`."""

from experiments.cli.run import main
from experiments.latency import QUESTIONS, make_report, run

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
