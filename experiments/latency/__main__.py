"""`python -m experiments.latency --config=configs/latency.py:quick --workdir=runs/latency-quick`."""

from experiments.latency import make_report, run
from experiments.run import main

if __name__ == "__main__":
    main(run, make_report)
