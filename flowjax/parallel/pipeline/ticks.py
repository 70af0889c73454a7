"""The schedule of a pipeline: which patch of which row every stage works on in every tick.

It is a table, made on the host. The patches m = 0 .. M-1 of a row follow each other through n
stages. A patch that enters stage 0 in tick a is

    at stage s          in tick a + h s
    back at the solver  at the end of tick a + h n - 1, so its next row may enter in tick a + h n

where h is the number of ticks that a hop takes: 1 if the next stage waits for the message, or 2 if
the message travels for one tick while the stages work on other patches. A row may also be
synchronous: then the pipeline drains, and one tick takes the whole image through all stages. A
patch enters as soon as stage 0 is free and the patch has come back from its row before. So T stale
rows in succession take

    M T + h n - 1 ticks    where M >= h n; every stage works in M T of them,
                           so the utilisation is M T / (M T + h n - 1),
    h n T + M - 1 ticks    where M < h n: the next row of the first patch waits until the patch
                           has come around.
"""

from typing import NamedTuple

import numpy as np


class Ticks(NamedTuple):
    """What happens in each of the ticks. A pytree of arrays.

    Place s < n is stage s. Place n is the solver, at the end of the tick.

    Attributes:
      synchronous: (ticks,) bool, the tick takes the whole image of row[tick, 0] through all stages,
        and through the solver.
      busy: (ticks, n+1) bool, whether a patch is at this place. Elsewhere row and patch are 0 and
        mean nothing.
      row, patch: (ticks, n+1) int32, the row and the patch at this place.
    """

    synchronous: np.ndarray
    busy: np.ndarray
    row: np.ndarray
    patch: np.ndarray

    @property
    def utilisation(self) -> float:
        """The fraction of stages that work, in ticks that take patches; NaN without such ticks."""
        busy = self.busy[~self.synchronous, :-1]
        return busy.mean() if busy.size else np.nan

    def of_rows(self, rows: int) -> np.ndarray:
        """(N,) the ticks of each row: from the entry of its first patch to that of the next row."""
        row_at_entry = np.where(self.busy[:, 0], self.row[:, 0], 0)
        newest = np.maximum.accumulate(row_at_entry)
        return np.bincount(newest, minlength=rows)


def schedule(
    synced: np.ndarray,
    patches: int,
    stages: int,
    hop: int = 1,
) -> Ticks:
    """The `Ticks` of a run.

    Args:
      synced: (N,) bool, which rows are synchronous.
      patches: M.
      stages: n.
      hop: h, 1 or 2.
    """
    free = 0  # the tick in which stage 0 is free
    ready = np.zeros(patches, int)  # the tick in which the state of each patch is ready
    images = []  # (tick, row) of synchronous rows
    entries = []  # (tick, row, patch) of stale rows
    for row, synchronous in enumerate(synced):
        if synchronous:
            tick = max(free, ready.max())
            images.append((tick, row))
            free = tick + 1
            ready[:] = tick + 1
            continue
        for patch in range(patches):
            tick = max(free, ready[patch])
            entries.append((tick, row, patch))
            free = tick + 1
            ready[patch] = tick + hop * stages

    total = max(free, ready.max())
    places = (total, stages + 1)
    table = Ticks(
        synchronous=np.zeros(total, bool),
        busy=np.zeros(places, bool),
        row=np.zeros(places, np.int32),
        patch=np.zeros(places, np.int32),
    )
    for tick, row in images:
        table.synchronous[tick] = True
        table.busy[tick] = True
        table.row[tick] = row
    for entry, row, patch in entries:
        for place in range(stages + 1):
            # The solver acts at the end of the tick in which the last hop arrives.
            tick = entry + hop * place - (place == stages)
            table.busy[tick, place] = True
            table.row[tick, place] = row
            table.patch[tick, place] = patch
    return table
