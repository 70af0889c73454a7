"""How good are the shipped models? Class accuracy, distances on features, distances to the data.

    python -m experiments.quality --config=configs/quality.py --workdir=runs/quality

Every number stands beside what the data itself gives: a classifier beside its accuracy on images
that it has not seen, a distance beside that of two draws of the data, a nearest neighbour beside
the data's own. The classifiers are scikit-learn's, of a few thousand parameters, and never
Inception: no number here is an FID.
"""

from experiments.quality.measure import cells, check, run
from experiments.quality.page import make_report

__all__ = ["cells", "check", "make_report", "run"]
