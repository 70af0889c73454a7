"""Errors by width, shift and end; the crossovers in them; and a line through crossovers and law."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import optimize, special

from configs.order import Config
from experiments.lab import solvers
from experiments.lab.truth import make_cell
from flowjax import Linear, Plan, fields, grids, plans

QUESTION = "crossover"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "DPM++ 3M published")
PAIRS = (  # (the higher order, the lower order, the order of the law)
    ("DPM++ 2M", "Euler", 2),
    ("DPM++ 3M exact", "DPM++ 2M", 3),
    ("DPM++ 3M published", "DPM++ 2M", 3),
)
# How the end is read: as the run has it (None), or solved from the last node that lies at most so
# far past the event in log-SNR.
ENDS = {"own": None, "solved": 1.0, "solved sooner": 0.0, "solved later": 2.0}
STATISTICS = ("rms", "median")
BAND = 0.02


# ---- cells


def cells(config: Config) -> list[dict]:
    """One cell a width, shift, reading of the end and number of evaluations."""
    return [
        {"question": QUESTION, "std": std, "shift": shift, "end": end, "nfe": nfe}
        for std in config.stds
        for end in ENDS
        for shift in config.shifts
        for nfe in config.crossover_nfe
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): RMS and median error of each solver."""
    for std in dict.fromkeys(key["std"] for key in todo):
        field = fields.ring(Linear(), std=std)
        cell = make_cell(field, config.seeds, config.samples, steps=config.reference_steps)
        for end in ENDS:
            # Readings of the end differ in their plans and have the same exact endpoints.
            keys = [key for key in todo if (key["std"], key["end"]) == (std, end)]
            if not keys:
                continue
            made = [plan_of(solver, key) for key in keys for solver in SOLVERS]
            made = two_lengths(made, max(plan.rows for plan in made))
            errors = cell.errors(solvers.run_plans(field, cell.noise, made))
            errors = errors.reshape(len(keys), len(SOLVERS), -1)  # (keys, solvers, B)
            for key, own in zip(keys, errors, strict=True):
                rms = np.sqrt(np.mean(own**2, axis=1)).tolist()
                median = np.median(own, axis=1).tolist()
                yield (
                    key,
                    {
                        "rms": dict(zip(SOLVERS, rms, strict=True)),
                        "median": dict(zip(SOLVERS, median, strict=True)),
                        "doubling": cell.doubling,
                    },
                )


def two_lengths(made: Sequence[Plan], longest: int) -> list[Plan]:
    """The plans padded to `longest` rows, or to a third of it where that is enough.

    Two lengths make two programs: these fields are cheap, and compiling is not.
    """
    # Plans of at most a third of the rows would waste two thirds of them.
    short = longest // 3
    return [plans.pad(plan, longest if 3 * plan.rows > longest else short) for plan in made]


def plan_of(solver: str, key: dict) -> Plan:
    """The solver on the grid of a cell.

    Unless the end is read as the run has it, the solver runs only until past the event, and fine
    steps of RK4 go on to the data.
    """
    schedule = Linear()
    grid = grids.uniform(key["nfe"], shift=key["shift"])
    found = solvers.SOLVERS[solver]
    past = ENDS[key["end"]]
    if past is None:
        return found.build(schedule, grid)
    # The mode is resolved at log-SNR -log(std).
    event = -np.log(key["std"])
    cut = max(int(np.sum(schedule.log_snr(grid) <= event + past)) - 1, 1)
    start = grid[: cut + 1]
    head = found.build(schedule, start) if cut >= found.order else plans.euler(start)
    return plans.concat(head, _fine_end(float(grid[cut])))


@functools.lru_cache(maxsize=1000)  # all solvers of a cell use the same one
def _fine_end(start: float) -> Plan:
    """RK4 from `start` to 0, in steps so fine that the error left is that of the run before."""
    schedule = Linear()
    low = float(schedule.log_snr(start))
    fine = schedule.time_of_log_snr(np.linspace(low, max(9.0, low + 2), 26)[1:])
    return plans.rk4(np.concatenate([[start], fine, [0.0]]))


# ---- crossovers


def law(std: float, shift: float, order: int) -> float:
    """The predicted N*_k of the package's docstring."""
    # r + 2 + 1/r = 1 / (u (1 - u)) with u = 1 / (1 + r).
    ratio = shift / std
    return 2 * order / np.pi * (ratio + 2 + 1 / ratio)


def crossover(
    nfe: Sequence[float], ratios: Sequence[float], band: float = BAND
) -> tuple[float, str]:
    """The smallest N from which the ratio of errors stays at or below 1 + band.

    It is interpolated in log N against log ratio, between the N that were tried.

    Args:
      nfe: the numbers of evaluations tried, in any order.
      ratios: error of the higher order over that of the lower one, at each of them.
      band: the relative difference that counts as none.

    Returns:
      (N, side). `side` is "" where the crossover lies within the range tried. It is "below" where
      the ratio is never above the band: N is the least tried, and N* is there or lower. It is
      "above" where the ratio is above the band at the end: N is the largest tried.
    """
    order = np.argsort(nfe)
    nfe = np.asarray(nfe, float)[order]
    excess = np.log(np.asarray(ratios, float)[order]) - np.log1p(band)
    above = np.flatnonzero(~(excess <= 0))  # NaN counts as above
    if not len(above):
        return float(nfe[0]), "below"
    # The last N at which the ratio is above the band.
    i = above[-1]
    if i == len(nfe) - 1:
        return float(nfe[-1]), "above"
    # Where log ratio crosses log(1 + band), between two N.
    fraction = excess[i] / (excess[i] - excess[i + 1]) if np.isfinite(excess[i]) else 1.0
    return float(nfe[i] * (nfe[i + 1] / nfe[i]) ** fraction), ""


def reach_of(rows: list[dict]) -> tuple[int, int]:
    """The least and the largest number of evaluations tried."""
    return min(row["nfe"] for row in rows), max(row["nfe"] for row in rows)


def observed(rows: list[dict]) -> list[dict]:
    """Every crossover, those that are only bounds included.

    Returns:
      [{end, statistic, pair, order, std, shift, law, judged, N*, side}]. `judged`: the law lies
      within the range tried. Where it lies beyond, the range ends before the event that the law
      speaks of, and a ratio that happens to be below 1 at its end is no crossover.
    """
    table = []
    least, most = reach_of(rows)
    # One curve of ratios over N for each reading, width and shift.
    groups = {}
    for row in rows:
        groups.setdefault((row["end"], row["std"], row["shift"]), []).append(row)
    for (end, std, shift), own in sorted(groups.items()):
        for statistic in STATISTICS:
            for a, b, order in PAIRS:
                ratios = [row[statistic][a] / row[statistic][b] for row in own]
                found, side = crossover([row["nfe"] for row in own], ratios)
                predicted = float(law(std, shift, order))
                table.append(
                    {
                        "end": end,
                        "statistic": statistic,
                        "pair": f"{a} below {b}",
                        "order": order,
                        "std": std,
                        "shift": shift,
                        "law": predicted,
                        "judged": least <= predicted <= most,
                        "N*": found,
                        "side": side,
                    }
                )
    return table


# ---- a line through crossovers and bounds


def _loss(
    x: np.ndarray, y: np.ndarray, side: np.ndarray, height: float, slope: float, log_scatter: float
) -> float:
    """Minus the log likelihood of a line with normal scatter (Tobin 1958)."""
    # Points exactly on a line have no scatter, and then an infinite likelihood.
    log_scatter = max(log_scatter, -5.0)
    z = (y - height - slope * x) / np.exp(log_scatter)
    density = -(z**2) / 2 - 0.5 * np.log(2 * np.pi) - log_scatter
    parts = (density, special.log_ndtr(-z), special.log_ndtr(z))
    return -np.sum(np.select([side == "", side == "above", side == "below"], parts))


def censored_line(
    x: Sequence[float], y: Sequence[float], side: Sequence[str]
) -> tuple[float, float, float, float]:
    """A line through points of which some are only bounds, by maximum likelihood.

    The scatter is normal: a point counts with its density, a bound with the chance of lying beyond
    it (Tobin 1958). The 95 % interval of the slope is that of the likelihood ratio. A fit without
    the bounds would be too flat.

    Args:
      x, y: (n,) numbers, three at least.
      side: (n,) "" for a point, "above" or "below" for a bound.

    Returns:
      (height at the mean of x, slope, low, high), the last two the interval of the slope.
    """
    x, y, side = np.asarray(x, float), np.asarray(y, float), np.asarray(side)
    # Centred, height and slope are nearly independent.
    x = x - x.mean()

    def profile(slope: float) -> optimize.OptimizeResult:
        """The best height and scatter for a slope."""
        start = [np.mean(y), np.log(np.std(y - slope * x) + 1e-3)]
        return optimize.minimize(
            lambda p: _loss(x, y, side, p[0], slope, p[1]), start, method="BFGS"
        )

    # The slope by a search over profiles, which is robust against poor starts.
    found = optimize.minimize_scalar(
        lambda slope: profile(slope).fun, bounds=(-10, 10), method="bounded"
    )
    slope = found.x
    best = profile(slope)

    def excess(at: float) -> float:
        # 1.92 is half of the 95 % point of chi squared with one degree of freedom.
        return profile(at).fun - best.fun - 1.92

    def end(far: float) -> float:
        if excess(far) > 0:
            return optimize.brentq(excess, slope, far, xtol=1e-3)
        return np.sign(far) * np.inf

    return float(best.x[0]), float(slope), float(end(slope - 20)), float(end(slope + 20))


def fits(table: list[dict]) -> list[dict]:
    """Log N* against log law, where judged: a line for each end, statistic and pair.

    Returns:
      [{end, statistic, pair, seen, below, above, beyond, slope, low, high, factor}]; the last four
      are None with fewer than three crossovers at different laws.
    """
    result = []
    for case in dict.fromkeys((r["end"], r["statistic"], r["pair"]) for r in table):
        every = [r for r in table if (r["end"], r["statistic"], r["pair"]) == case]
        own = [r for r in every if r["judged"]]
        sides = [r["side"] for r in own]
        line = dict(zip(("end", "statistic", "pair"), case, strict=True))
        line |= {
            "seen": sides.count(""),
            "below": sides.count("below"),
            "above": sides.count("above"),
            "beyond": len(every) - len(own),
        }
        fit = {"slope": None, "low": None, "high": None, "factor": None}
        if len({r["law"] for r in own if not r["side"]}) > 2:
            laws, found = (np.log([r[name] for r in own]) for name in ("law", "N*"))
            height, slope, low, high = censored_line(laws, found, sides)
            factor = float(np.exp(height - laws.mean()))
            fit = {"slope": slope, "low": low, "high": high, "factor": factor}
        result.append(line | fit)
    return result


def _bounds(row: dict) -> tuple[float, float]:
    """The least and the largest value that N* can have."""
    low = 0.0 if row["side"] == "below" else row["N*"]
    high = np.inf if row["side"] == "above" else row["N*"]
    return low, high


def ranks(table: list[dict], third: str = "DPM++ 3M exact") -> tuple[int, int, int]:
    """(holds, fails, open): whether N*_3 > N*_2 at each width and shift.

    A crossover that is only a bound counts as that bound.
    """
    # Holds only where every value that the bounds allow agrees.
    holds = fails = unknown = 0
    keyed = {(r["end"], r["statistic"], r["pair"], r["std"], r["shift"]): r for r in table}
    for (end, statistic, pair, std, shift), row in keyed.items():
        if row["order"] != 3 or not pair.startswith(third):
            continue
        other = keyed[end, statistic, "DPM++ 2M below Euler", std, shift]
        (low3, high3), (low2, high2) = _bounds(row), _bounds(other)
        if not (row["judged"] and other["judged"]):
            unknown += 1
        elif low3 >= high2 and high3 > high2:
            holds += 1
        elif high3 <= low2 and low3 < low2:
            fails += 1
        else:
            unknown += 1
    return holds, fails, unknown
