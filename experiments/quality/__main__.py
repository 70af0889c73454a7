"""`python -m experiments.quality --config=configs/quality.py --workdir=runs/quality`."""

from experiments.cli.run import main
from experiments.quality import check, make_report, run

if __name__ == "__main__":
    main(run, make_report, check=check)
