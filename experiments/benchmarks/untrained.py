"""The DiT-S/2 of the benchmark `transformer` in a folder, so that other commands take it.

    python -m experiments.benchmarks.untrained runs/dit-s-2

Its parameters are random, so its samples show nothing; it has the size of a public network and an
ODE of its own. It receives 1 - t, since with 1000 t a network that was not trained is rough in time
and no solver gains from its order.
"""

import os
import sys

from configs import bench_transformer
from experiments.benchmarks import with_jax
from experiments.benchmarks.case import Case
from flowjax import models

CLOCK = "1 - t"


def write(folder: str | os.PathLike, config: bench_transformer.Config) -> models.Model:
    """Save the network of a configuration of `transformer`, and return it."""
    case = Case.of(config, folder, config.size, batch=1, dtype="float32")
    card, params = with_jax.network_of(case)
    card = models.Card("DiT-S/2 with random parameters", card.config, clock=CLOCK)
    model = models.model(card, params)
    models.save(folder, model)
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("python -m experiments.benchmarks.untrained FOLDER: wanted one folder.")
    write(sys.argv[1], bench_transformer.get_config())
    print(f"written: {sys.argv[1]}")
