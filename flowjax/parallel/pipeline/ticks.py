"""A pipeline is a table: which patch of which row every stage works on in every tick, made on the host.

Row i of a plan in patches m = 0 .. M-1, one behind the other through n stages. A patch that enters stage 0 in tick a is

    at stage s              in tick a + h s
    back at the solver      at the end of tick a + h n - 1, so its next row may enter in tick a + h n

where h is what a hop takes: 1, if the next stage waits for it, or 2, if a message is on its way for one tick while the
stages work on others. A row may also be synchronous: the pipe drains, and one tick takes the whole image through all
stages. A patch enters as soon as stage 0 is free and the row before has come back. So S stale rows in a row take

    M S + h n - 1 ticks  where M >= h n,    of which every stage works in M S:    utilisation M S / (M S + h n - 1)

and h n S + M - 1 ticks where M is less: the first patch's next row then waits for it to come round.
"""

from typing import NamedTuple

import numpy as np


class Ticks(NamedTuple):
    """What happens in each of T ticks. A pytree of arrays. Place s < n is stage s, place n the solver, at the tick's end.

    Attributes:
      whole: (T,) bool, the tick takes the whole image of row[tick, 0] through all stages, and through the solver.
      busy: (T, n+1) bool, a patch is at this place; else row and patch there mean nothing (they are 0).
      row, patch: (T, n+1) int32, which.
    """

    whole: np.ndarray
    busy: np.ndarray
    row: np.ndarray
    patch: np.ndarray

    @property
    def utilisation(self):
        """The share of stages and ticks with work, of the ticks that take patches; NaN where there is none."""
        busy = self.busy[~self.whole, :-1]
        return busy.mean() if busy.size else np.nan

    def of_rows(self, rows):
        """(rows,) how many ticks each row takes: those from its first patch's entry to that of the next row."""
        newest = np.maximum.accumulate(np.where(self.busy[:, 0], self.row[:, 0], 0))
        return np.bincount(newest, minlength=rows)


def schedule(synced, patches, stages, hop=1):
    """`Ticks` of a run.

    Args:
      synced: (N,) bool, which rows are synchronous.
      patches, stages: M and n.
      hop: h, 1 or 2.
    """
    free, ready = 0, np.zeros(patches, int)  # when stage 0 is, and when the state of each patch is
    whole, entries = [], []
    for row, synchronous in enumerate(synced):
        if synchronous:
            at = max(free, ready.max())
            whole.append((at, row))
            free, ready[:] = at + 1, at + 1
        for patch in range(0 if synchronous else patches):
            at = max(free, ready[patch])
            entries.append((at, row, patch))
            free, ready[patch] = at + 1, at + hop * stages
    total = max(free, ready.max())
    made = Ticks(
        np.zeros(total, bool),
        *(np.zeros((total, stages + 1), kind) for kind in (bool, np.int32, np.int32)),
    )
    for at, row in whole:
        made.whole[at], made.busy[at], made.row[at] = True, True, row
    for at, row, patch in entries:
        for place in range(stages + 1):
            tick = at + hop * place - (place == stages)
            made.busy[tick, place], made.row[tick, place], made.patch[tick, place] = (
                True,
                row,
                patch,
            )
    return made
