"""When does an error of copies grow from row to row? The loop gain of forecasts, on networks.

In a row each device sees, of the others, W(K1, K2, ...), and computes keys and values with it; from
these the next rows are forecast. An error goes round that loop, by way of the layers of one row and
by way of the state that moves. The gain of the loop is that of the row's derivative: with the state
x, the last velocity and the keys and values of three rows as one vector,

    copy = sum_m w_m dK_m,    (dv, dK) = d(velocity, K)(x, copy) (dx, copy),
    dx' = dx - h (3/2 dv - 1/2 dv'),

repeated at one time of one path. The rate at which that grows, its spectral radius, is to be
compared with the path's own.

What to expect: for an oscillation z^-i with |z| = 1 the relative error of a forecast with weights W
is at most max |1 - W|, and of that each layer sees a part. Let e_j be the miss of part j, and
attention even. Then part i errs by what it sees of the others, corrected by a fraction c of its own
miss (`attention.corrected`):

    (n-1)/n c e_i - sum over j != i of e_j / n,

a map of (e_1, ... e_n) with two eigenvalues: (1 - c) (n-1)/n where all misses are alike, and
1/n + c (n-1)/n where they differ. The larger one times max |1 - W| is the `push` of a loop. It is
least, 1/2 for every n, at c = (n - 2)/(2 n - 2).
"""

from experiments.staleness.loop.gain import SAMPLES
from experiments.staleness.loop.numbers import (
    QUESTION,
    WEIGHTS,
    cells,
    check,
    grows,
    is_plain,
    measure,
    rate_of,
    seen,
    swing,
)
from experiments.staleness.loop.words import section, split, splits

__all__ = [
    "QUESTION",
    "SAMPLES",
    "WEIGHTS",
    "cells",
    "check",
    "grows",
    "is_plain",
    "measure",
    "rate_of",
    "section",
    "seen",
    "split",
    "splits",
    "swing",
]
