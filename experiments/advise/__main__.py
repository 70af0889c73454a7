"""`python -m experiments.advise`: see the package."""

from experiments.advise import QUESTIONS, make_report, run
from experiments.cli.run import main

if __name__ == "__main__":
    main(run, make_report, questions=QUESTIONS)
