"""`python -m experiments.networks --config=configs/networks.py --workdir=results/networks`."""

from experiments.cli.run import main
from experiments.networks import QUESTIONS, make_report, run

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
