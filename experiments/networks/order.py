"""Order: errors of solvers on each network, to the network's own converged endpoints."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import flowjax
from experiments.lab import solvers, statistics, subjects
from experiments.lab.truth import Cell
from experiments.networks import catalogue, training
from experiments.networks.catalogue import check
from experiments.order import learned

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["PAIRS", "QUESTION", "SOLVERS", "cells", "check", "measure"]

QUESTION = "order"
SOLVERS = ("Euler", "DPM++ 2M", "AB2", "AB3", "DPM++ 3M exact")
PAIRS = (("DPM++ 2M", "Euler"), ("DPM++ 3M exact", "DPM++ 2M"), ("AB2", "Euler"))
# Of a ratio that is on record: value, and the ends of its interval over starts.
READ = ("rms_ratio", "rms_low", "rms_high")


def cells(config: "Config") -> list[dict]:
    """One cell a network."""
    return catalogue.cells(QUESTION, config)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors, orders and ratios on the uniform grid, without guidance."""
    for key in todo:
        yield key, _values(config, training.model_of(config, key["network"]))


def _values(config: "Config", name: str) -> dict:
    """The values of the network at `name`, a folder or a name."""
    cell = _cell(config, name)
    # (B,) errors of each solver and number of evaluations.
    errors = {
        (solver, n): _errors(cell, solver, n) for solver in SOLVERS for n in sorted(config.nfe)
    }
    return {
        "errors": [
            {"solver": solver, "nfe": n, **statistics.summary(found, cell.seed)}
            for (solver, n), found in errors.items()
        ],
        "ratios": [
            {"a": a, "b": b, "nfe": n, **_ratio(errors[a, n], errors[b, n], cell)}
            for a, b in PAIRS
            for n in sorted(config.nfe)
        ],
        "orders": [_order(solver, errors, cell) for solver in SOLVERS],
        "doubling": cell.doubling,
        "starts": len(cell.noise),
    }


def _cell(config: "Config", name: str) -> Cell:
    """The network with its starts and converged endpoints; every start is its own seed."""
    starts = np.arange(config.network_starts)
    drawn = flowjax.draw_noise(jax.random.key(0), starts, subjects.image_shape(name))
    noise = np.asarray(drawn, np.float32)
    field = subjects.make_network(name, 1.0, len(starts))
    exact, doubling, _ = learned.reference(field, noise, config.network_steps)
    return Cell(field, noise, exact, starts, doubling)


def _errors(cell: Cell, solver: str, nfe: int) -> np.ndarray:
    """Relative errors (B,) of a solver."""
    plan = solvers.plan_of(solver, cell.field.schedule, solvers.shifted(1.0), nfe)
    path, _ = learned.run(cell.field, cell.noise, plan)
    return cell.errors(np.asarray(path[-1:], np.float64))[0]


def _ratio(above: np.ndarray, below: np.ndarray, cell: Cell) -> dict[str, float]:
    """The ratio of two RMS errors, with its interval over starts."""
    found = statistics.paired(above, below, cell.seed)
    return dict(zip(("ratio", "low", "high"), (found[name] for name in READ), strict=True))


def _order(solver: str, errors: dict[tuple[str, int], np.ndarray], cell: Cell) -> dict[str, Any]:
    """The order of a solver between the two largest numbers of evaluations.

    error ~ NFE^-order, so it is the logarithm of the ratio of two errors to the base of the ratio
    of their evaluations.
    """
    few, many = sorted({n for _, n in errors})[-2:]
    found = _ratio(errors[solver, few], errors[solver, many], cell)
    powers = {name: float(np.log(value) / np.log(many / few)) for name, value in found.items()}
    return {
        "solver": solver,
        "nfe": [few, many],
        "order": powers["ratio"],
        "low": powers["low"],
        "high": powers["high"],
    }
