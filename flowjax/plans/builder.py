"""From rows to a plan: the Builder with which all plans are made, those of your own too."""

import operator
from collections.abc import Mapping

import numpy as np

from flowjax import schedules
from flowjax.errors import check_choice
from flowjax.plans import consistency, table
from flowjax.plans.table import DEPTH, Plan
from flowjax.schedules import PREDICTIONS, Linear, Schedule


class Builder:
    """Collects rows in the order of their evaluations; `build` checks them and returns the Plan.

    For example, the explicit midpoint method evaluates twice a step: where the step begins, and in
    its middle, from which it takes the whole step.

        rows = plans.Builder("midpoint")
        for t0, t1 in itertools.pairwise(grids.uniform(20)):
            first, h, middle = len(rows), t1 - t0, (t0 + t1) / 2
            rows.row(t0, middle, d={first: h / 2}, ends_step=False)
            rows.row(middle, t1, b={first + 1: h})
        plan = rows.build()

    The first row leaves the base where the step began, and places the next evaluation at base +
    h/2 m. The second row moves the base by h times the newest m.
    """

    def __init__(self, name: str, schedule: Schedule | None = None):
        """Start an empty plan.

        Args:
          name: the function that errors speak for.
          schedule: the path, which turns the network's velocity into the other predictions; the
            linear path if None.
        """
        if schedule is not None:
            schedules.check(schedule, name)
        self.name = name
        self.schedule = schedule or Linear()
        self._rows = []

    def __len__(self):
        """Rows so far: the index of the next one."""
        return len(self._rows)

    def row(
        self,
        t: float,
        t_next: float,
        *,
        kind: str = "velocity",
        a: float = 1.0,
        b: Mapping[int, float] | None = None,
        s: float = 0.0,
        c: float = 1.0,
        d: Mapping[int, float] | None = None,
        ends_step: bool = True,
    ) -> None:
        """Append a row (the equations stand in flowjax.plans.table).

        Args:
          t: the time of this evaluation, the `t_next` of the row before.
          t_next: the time at which the new state lies.
          kind: the prediction that enters the history, for example "velocity", "data" or "noise".
          a: weight of the base in its own update.
          b: weights of the history in it: {index of a row: weight}. The index of this row is
            `len(rows)` before the call; the three rows before it may be used too.
          s: weight of fresh noise in it.
          c: weight of the new base in the new state.
          d: weights of the history in the new state, as `b`.
          ends_step: whether the new state is accepted, or only a place to evaluate (a substep).

        Raises:
          ValueError: an unknown kind; an index of a row that does not exist yet, or that is too
            old for the history.
        """
        check_choice(self.name, "kind", kind, PREDICTIONS)
        b = self._by_age("b", b)
        d = self._by_age("d", d)
        self._rows.append((t, t_next, kind, a, b, s, c, d, ends_step))

    def _by_age(self, column, weights):
        """Weights by age, (4,) with the newest first, from weights by the index of their row."""
        # Age 0 is this row: its m is in the history when its base is updated.
        newest = len(self)
        by_age = np.zeros(DEPTH)
        for index, weight in (weights or {}).items():
            age = newest - self._checked_index(column, index)
            by_age[age] += weight
        return by_age

    def _checked_index(self, column, index):
        # A negative age would count from the oldest entry, and weight the wrong evaluation.
        newest = len(self)
        oldest = max(0, newest - DEPTH + 1)
        try:
            index = operator.index(index)
        except TypeError:
            raise ValueError(
                f"{self.name}: row {newest} has the key {index!r} in {column}; wanted the index of "
                "a row, a whole number."
            ) from None
        if oldest <= index <= newest:
            return index
        if index > newest:
            reason = "which does not exist yet"
        elif index < 0:
            reason = "and rows are counted from 0"
        else:
            reason = f"which is too old: the history holds the last {DEPTH} evaluations"
        raise ValueError(
            f"{self.name}: row {newest} weights row {index} in {column}, {reason}; wanted an index "
            f"from {oldest} to {newest}, where {newest} is the row itself."
        )

    def build(self, *, check: bool = True) -> Plan:
        """Return the plan of the rows.

        Args:
          check: refuse a plan that cannot be a solver: rows that do not follow each other in time,
            and weights that are not exact for constant predictions (of plans without noise in
            their steps). False leaves these checks out.

        Raises:
          ValueError: no rows; a coefficient that is not finite; what `check` refuses. The sentence
            names the row (the first is row 0) and the number.
        """
        if not self._rows:
            raise ValueError(f"{self.name}: the plan has no rows; call row() before build().")
        # Columns in place of rows
        t, t_next, kinds, a, b, s, c, d, ends_step = zip(*self._rows, strict=True)
        t, t_next, a, b, s, c, d = (
            np.array(column, np.float64) for column in (t, t_next, a, b, s, c, d)
        )
        ends_step = np.array(ends_step, bool)
        if check:
            consistency.check_times(self.name, t, t_next, ends_step)
        # m = p x + q velocity is the prediction of the row's kind.
        weights = self.schedule.prediction_weights
        pairs = [weights(kind, time) for kind, time in zip(kinds, t, strict=True)]
        p, q = np.array(pairs, np.float64).T
        # data = data_x x + data_v velocity, for the hooks of the data prediction
        data_x, data_v = weights("data", t)
        counted = np.ones(len(t), bool)
        plan = Plan(t, t, p, q, a, b, s, c, d, ends_step, t_next, data_x, data_v, counted)
        table.check_finite(plan, self.name)
        if check:
            consistency.check_exact(self.name, plan, kinds, self.schedule)
        return plan
