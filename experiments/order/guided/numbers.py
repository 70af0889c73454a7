"""The guided field of a mixture, its errors by scale, and where its crossovers move."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from configs.order import Config
from experiments.lab import solvers, statistics, subjects
from experiments.lab.statistics import geometric_mean
from experiments.lab.truth import Cell, fine_grid, make_cell
from experiments.order.crossover.numbers import crossover, two_lengths
from flowjax import Plan, geometry, guidance, plans
from flowjax.schedules import Schedule

QUESTION = "guided"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published", "DPM++ 3M exact", "AB2", "AB3", "UniPC2")
PAIRS = (
    ("DPM++ 3M exact", "DPM++ 2M"),
    ("DPM++ 3M published", "DPM++ 2M"),
    ("DPM++ 2M", "Euler"),
    ("AB3", "AB2"),
)
FIELDS = ("ring", "mixture-16", "mixture-2")  # those of them that the configuration has
SHIFTS = (1.0, 3.0)
CLASS = slice(0, 2)  # modes of the condition
STARTS = 32  # a seed
WATCHED = 64  # starts on which rho and the paths are read
LONG_STEP = 10  # evaluations at which the log-SNR grid is known to break order 3
SIDES = ("below", "", "above")  # of a crossover, in the order of its size


# ---- the guided field


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guided:
    """The guided field; its scale is a leaf like the arrays, so that all scales share a program.

    Attributes:
      conditional: the field of some modes.
      field: the field of all modes.
      scale: of the guidance.
    """

    conditional: Any
    field: Any
    scale: Any

    def velocity(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Guided velocity (B, *D)."""
        return guidance.combine(self.conditional.velocity, self.field.velocity, self.scale)(x, t)

    def data(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Guided data prediction (B, *D)."""
        p, q = self.schedule.prediction_weights("data", t)
        return p * x + q * self.velocity(x, t)

    def nearest(self, x: jax.Array) -> jax.Array:
        """Mode of the mixture of all modes that x is in: (B,)."""
        return self.field.nearest(x)

    @property
    def schedule(self) -> Schedule:
        """The path of both fields."""
        return self.field.schedule

    @property
    def means(self) -> jax.Array:
        """(K, *D), of the mixture of all modes."""
        return self.field.means


def make(name: str, scale: float) -> Guided:
    """The guided field of a mixture by its name."""
    field = subjects.make_field(name)
    return Guided(field.subset(CLASS), field, np.float64(scale))


# ---- cells


def grids_of(config: Config) -> dict[str, solvers.MakeGrid]:
    """{name: steps -> grid}."""
    # Large shifts are left out: the jump decides there, guided or not.
    shifted = {f"shift {s:g}": solvers.shifted(s) for s in config.shifts if s in SHIFTS}
    return shifted | {"log-SNR": solvers.log_snr_with_ends()}


def cells(config: Config) -> list[dict]:
    """One cell a field, scale, grid and evaluations, and one a field and scale for its paths."""
    # A subject is a field at one scale.
    subject = [
        {"field": field, "scale": scale}
        for field in FIELDS
        if field in config.fields
        for scale in config.scales
    ]
    paths = [{"question": QUESTION, "part": "path", **key} for key in subject]
    return paths + [
        {"question": QUESTION, "part": "error", **key, "grid": grid, "nfe": nfe}
        for key in subject
        for grid in grids_of(config)
        for nfe in config.nfe
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors, comparisons and rho_2 of each cell; shape of the exact paths."""
    for name, scale in dict.fromkeys((key["field"], key["scale"]) for key in todo):
        field = make(name, scale)
        # Each scale has its own converged solution, so starts are dear.
        starts = min(config.samples, STARTS)
        cell = make_cell(field, config.seeds, starts, steps=config.reference_steps)
        own = [key for key in todo if (key["field"], key["scale"]) == (name, scale)]
        for key in own:
            if key["part"] == "path":
                yield key, _path_values(cell)
        keys = [key for key in own if key["part"] == "error"]
        if keys:
            yield from _errors(config, cell, keys)


def _path_values(cell: Cell) -> dict:
    """The bend of the guided paths, the size of their endpoints, and how many end in the class."""
    # In which mode of the mixture each exact endpoint lies.
    mode = np.asarray(cell.field.nearest(jnp.asarray(cell.exact)))
    of_class = np.arange(len(cell.field.means))[CLASS]
    return {
        **_bend(cell.field, cell.noise[:WATCHED]),
        "size": statistics.scale_of(cell.exact),
        "doubling": cell.doubling,
        "in class": float(np.mean(np.isin(mode, of_class))),
    }


def _errors(config: Config, cell: Cell, keys: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values) of the error cells of one field and scale."""
    schedule = cell.field.schedule
    make_grids = grids_of(config)
    # All plans of the subject together, so that they share two compiled programs.
    jobs = []  # (number of the key, solver, plan)
    for i, key in enumerate(keys):
        for solver in SOLVERS:
            plan = solvers.plan_of(solver, schedule, make_grids[key["grid"]], key["nfe"])
            if plan is not None:
                jobs.append((i, solver, plan))

    longest = max(config.nfe)
    padded = two_lengths([plan for *_, plan in jobs], longest)
    errors = cell.errors(solvers.run_plans(cell.field, cell.noise, padded))
    # rho_2 of the runs of order 2.
    watched = [plan for _, solver, plan in jobs if solver == "DPM++ 2M"]
    rho = _rho(cell.field, cell.noise[:WATCHED], watched, longest)

    for i, key in enumerate(keys):
        own = {solver: e for (j, solver, _), e in zip(jobs, errors, strict=True) if j == i}
        summaries = [{"solver": s, **statistics.summary(e, cell.seed)} for s, e in own.items()]
        pairs = [
            {"a": a, "b": b, **statistics.paired(own[a], own[b], cell.seed)}
            for a, b in PAIRS
            if a in own and b in own
        ]
        yield (
            key,
            {
                "solvers": summaries,
                "pairs": pairs,
                "rho_2": rho[i],
                "doubling": cell.doubling,
            },
        )


# ---- paths


@jax.jit
def _predictions(field: Guided, noise: jax.Array, stack: Plan) -> jax.Array:
    """Data predictions (P, rows, B, *D) at the states of plans of one row a step."""

    def run(plan: Plan) -> jax.Array:
        path = flowjax.sample(field.velocity, noise, plan, save_path=True).path
        return jax.lax.map(lambda at: field.data(*at), (path[:-1], plan.t))

    return jax.vmap(run)(stack)


@jax.jit
def _path(field: Guided, noise: jax.Array, plan: Plan) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Times (M,), states and velocities (M, B, *D) of an RK4 run, one for each step."""
    solution = flowjax.sample(field.velocity, noise, plan, save_path=True)
    # A step of RK4 is four rows.
    times = jnp.concatenate([plan.t[:1], plan.t_next[3::4]])
    path = solution.path[: len(times)]
    return times, path, jax.lax.map(lambda at: field.velocity(*at), (path, times))


def _bend(field: Guided, noise: np.ndarray) -> dict[str, float]:
    """Median acceleration and curvature of the exact guided paths."""
    plan = plans.rk4(fine_grid(field.schedule, 120))
    found = geometry.path_geometry(*_path(field, noise, plan))
    return {name: float(np.median(getattr(found, name))) for name in ("acceleration", "curvature")}


def _rho(field: Guided, noise: np.ndarray, made: Sequence[Plan], rows: int) -> list[float]:
    """Median rho_2 of each run, NaN where a run is too short; all are padded to `rows` rows."""
    predictions = np.asarray(_predictions(field, noise, solvers.stacked(made, rows)))
    found = []
    for plan, data in zip(made, predictions, strict=True):
        added = geometry.order_increments(field.schedule, plan.grid, data[: plan.rows])
        found.append(float(np.median(geometry.rho(added, 2))))
    return found


# ---- crossovers


def errors_of(row: dict) -> dict[str, float]:
    """{solver: its RMS error} of an error cell."""
    return {line["solver"]: line["rms"] for line in row["solvers"]}


def crossovers(rows: list[dict]) -> list[dict]:
    """The NFE from which a is at most 2 % worse than b for good, within the range tried.

    Returns:
      [{field, grid, scale, pair, N*, side}].
    """
    table = []
    groups = {}
    for row in rows:
        if row["part"] == "error":
            groups.setdefault((row["field"], row["grid"], row["scale"]), []).append(row)
    for (field, grid, scale), own in groups.items():
        for a, b in PAIRS:
            # A pair needs both of its solvers in a cell.
            errors = [(row["nfe"], errors_of(row)) for row in own]
            ratios = [(n, e[a] / e[b]) for n, e in errors if a in e and b in e]
            if len(ratios) < 2:
                continue
            found, side = crossover(*zip(*ratios, strict=True))
            line = {"field": field, "grid": grid, "scale": scale, "pair": f"{a} below {b}"}
            table.append(line | {"N*": found, "side": side})
    return table


def _place(row: dict) -> tuple[int, float]:
    """What a crossover is sorted by: a bound "above" the range is later than one within."""
    return SIDES.index(row["side"]), row["N*"]


def middle(found: list[dict]) -> tuple[float, str]:
    """(N*, side) of the median crossover, bounds in their place; the lower middle of two."""
    # Bounds have their place among numbers, so a median exists.
    own = sorted(found, key=_place)[(len(found) - 1) // 2]
    return own["N*"], own["side"]


def moved(found: list[dict], scale: float, pair: str) -> tuple[int, int, int]:
    """How the N* of `pair` at `scale` compare with those at the least scale, cell by cell.

    Two bounds of one kind are open.

    Returns:
      (later, earlier, same or open).
    """
    least = min(row["scale"] for row in found)
    keyed = {(r["field"], r["grid"], r["scale"]): r for r in found if r["pair"] == pair}
    later = earlier = same = 0
    for (field, grid, at), row in keyed.items():
        if at != scale or (field, grid, least) not in keyed:
            continue
        # The same field and grid at the least scale, and at this one.
        before, after = _place(keyed[field, grid, least]), _place(row)
        later += after > before
        earlier += after < before
        same += after == before
    return later, earlier, same


def direction(counts: tuple[int, int, int]) -> str:
    """What (later, earlier, open) mean together: "later", "earlier" or "either way".

    One side must have more than twice the other.
    """
    later, earlier, _ = counts
    if later > 2 * earlier:
        return "later"
    return "earlier" if earlier > 2 * later else "either way"


# ---- tables


def marked(found: tuple[float, str]) -> str:
    """A crossover as text: "12", or "<= 4" and "> 80" where it is a bound."""
    number, side = found
    return {"": "", "below": "<= ", "above": "> "}[side] + f"{number:.3g}"


def wide(found: list[dict]) -> list[dict]:
    """One line a field, grid and scale with the crossovers of all pairs."""
    result = {}
    for row in found:
        key = {name: row[name] for name in ("field", "grid", "scale")}
        line = result.setdefault(tuple(key.values()), key)
        line[f"N*: {row['pair']}"] = marked((row["N*"], row["side"]))
    return list(result.values())


def rms_verdicts(cells: Iterable[dict], pair: tuple[str, str]) -> list[str]:
    """The verdicts of a pair by RMS error, one for each cell that has it."""
    return [
        statistics.verdict(p) for row in cells for p in row["pairs"] if (p["a"], p["b"]) == pair
    ]


def by_scale(rows: list[dict]) -> list[dict]:
    """One line a scale: verdicts and crossovers of every pair, rho_2, the bend of the paths."""
    found = crossovers(rows)
    table = []
    for scale in sorted({row["scale"] for row in rows}):
        own = [row for row in rows if row["scale"] == scale]
        errors = [row for row in own if row["part"] == "error"]
        line = {"scale": scale}
        for a, b in PAIRS:
            # How often the higher order wins, and from where on it does.
            verdicts = rms_verdicts(errors, (a, b))
            better, worse = (verdicts.count(v) for v in ("better", "worse"))
            neither = len(verdicts) - better - worse
            line[f"{a} against {b}"] = f"{better} better, {worse} worse, {neither} neither"
            pair = f"{a} below {b}"
            of_pair = [f for f in found if (f["scale"], f["pair"]) == (scale, pair)]
            line[f"N*: {pair}"] = marked(middle(of_pair))
        line["rho_2"] = float(np.nanmedian([row["rho_2"] for row in errors]))
        for name in ("acceleration", "curvature", "size"):
            line[name] = geometric_mean(row[name] for row in own if row["part"] == "path")
        table.append(line)
    return table


def long_steps(rows: list[dict]) -> list[dict]:
    """[{field, scale, nfe, Euler, 2M, ...}] on the log-SNR grid at about LONG_STEP evaluations."""
    own = [row for row in rows if row["part"] == "error" and row["grid"] == "log-SNR"]
    # The number that was measured and is nearest.
    nfe = min((row["nfe"] for row in own), key=lambda n: abs(n - LONG_STEP))
    return [
        {
            "field": row["field"],
            "scale": row["scale"],
            "nfe": nfe,
            **errors_of(row),
            "rho_2": row["rho_2"],
        }
        for row in own
        if row["nfe"] == nfe
    ]
