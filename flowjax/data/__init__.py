"""Images to train on, and the batch of every step as a function of (seed, step).

A run that is stopped and goes on sees what it would have seen: no iterator has a state. Step s
takes the positions s B .. (s+1) B - 1 of the permutations of epoch 0, 1, 2, ... laid end to end, so
each epoch holds every image once, and a batch may straddle two. What is drawn on the host comes
from numpy by `seeds.generator(stream, seed, n)`, the same on every machine with one version of
numpy; the noise of independent couplings is drawn in the training step instead.

How noise is coupled to data bends the paths, and with them what a solver's order is worth:

    independent   noise and data are independent of each other (arXiv:2210.02747)
    ot            minibatch optimal transport pairs noise and data at the least cost
                  (arXiv:2302.00482)
    reflow        pairs made by a trained model: its noise, and the sample that it made from it
                  (arXiv:2209.03003)
"""

from flowjax.data.batches import COUPLINGS, NOISE, Batches, pair
from flowjax.data.data_set import Data, to_float
from flowjax.data.sources import load

__all__ = ["COUPLINGS", "NOISE", "Batches", "Data", "load", "pair", "to_float"]
