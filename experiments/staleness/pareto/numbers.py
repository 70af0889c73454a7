"""Policies: their cells, their measurement, and the numbers that compare them at equal steps."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from configs.latency import DEVICES
from experiments.staleness import comparison, subjects
from flowjax import Plan
from flowjax.models import dit
from flowjax.parallel.analysis import latency
from flowjax.parallel.stale import policies

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "pareto"
check = subjects.check_comparison
FORECASTS = (0, "tuned")
KINDS = ("warm-up", "sqrt rule", "cool-down", "window", "every", "tolerance")
# One synchronous step, which every other policy is compared with.
BASE = "warm-up 1"
# Of the modelled seconds: an image of 1024 x 1024.
MACHINE, NETWORK, SHAPE = "A100 PCIe", "DiT-XL/2", (1, 128, 128, 4)


# -- policies by name


def policy(name: str, plan: Plan) -> np.ndarray:
    """The policy called `name`: its kind and its number; of a window its first and last step."""
    kind, number = name.rsplit(" ", 1)
    steps = plan.steps
    if kind == "window":
        first, last = map(int, number.split("-"))
        return policies.window(plan, plan.t[first], plan.t[last])
    if kind == "sqrt rule":
        return policies.sqrt_rule(steps, float(number), subjects.DEVICES)
    if kind == "tolerance":
        return policies.tolerance(steps, float(number))
    make = {
        "warm-up": policies.warm_up,
        "cool-down": policies.cool_down,
        "every": policies.every,
    }[kind]
    return make(steps, int(number))


def names(config: "Config") -> list[str]:
    """The policies of a plan with `config.one_steps` steps.

    Windows of one length begin in every quarter of the plan, and are named by their steps.
    """
    steps = config.one_steps
    quarter = steps // 4
    spans = [(i, i + max(quarter - 2, 0)) for i in range(quarter, steps - quarter + 1, quarter)]
    # Two longer ones: the middle, and the second half.
    spans += [(quarter, 3 * quarter - 2), (2 * quarter, steps - 2)]
    found = (
        *(f"warm-up {max(round(steps * part), 1)}" for part in (0, 0.2, 0.4, 0.6)),
        *(f"sqrt rule {base}" for base in (1, 2)),
        *(f"cool-down {round(steps * part) - 1}" for part in (0.2, 0.4, 0.6)),
        *(f"window {first}-{last}" for first, last in spans),
        *(f"every {period}" for period in (2, 3, 5)),
        *(f"tolerance {tol:g}" for tol in config.tolerances),
    )
    # With few steps two names may be the same.
    return list(dict.fromkeys(found))


def kind(row: dict) -> str:
    """The kind of a row's policy."""
    return row["policy"].rsplit(" ", 1)[0]


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject, forecast and policy."""
    return [
        {"question": QUESTION, "subject": subject, "forecast": forecast, "policy": name}
        for forecast in FORECASTS
        for subject in config.compared_subjects
        for name in names(config)
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to one synchronous step and held keys and values."""
    plan = subjects.plan_of(config.one_solver, config.one_steps)

    def setup(key):
        return {"forecast": key["forecast"], "policy": policy(key["policy"], plan)}

    def base(key):
        return key | {"forecast": 0, "policy": BASE}

    return comparison.measured(config, todo, setup, base)


# -- numbers


def seconds(synced: int, steps: int, devices: int) -> float:
    """Modelled seconds of a guided image by `NETWORK` on `MACHINE`.

    Args:
      synced: how many of its steps are synchronous.
      steps: all of its steps.
      devices: that work on it.
    """
    network = dit.preset(NETWORK, size=SHAPE[1:3])
    machine = DEVICES[MACHINE]
    found = latency.of_run(network, SHAPE, steps, synced, "stale", devices, machine, guidance=4.0)
    return found.total


def groups(rows: list[dict]) -> dict[tuple, list[dict]]:
    """{(subject, forecast): its rows}."""
    found = {}
    for row in rows:
        found.setdefault((row["subject"], row["forecast"]), []).append(row)
    return found


def partly_stale(rows: list[dict]) -> list[dict]:
    """The rows in which not every step is synchronous."""
    return [row for row in rows if row["synced"] < row["steps"]]


def front(rows: list[dict]) -> list[dict]:
    """The partly stale rows that no other row beats in synchronous steps and in error.

    In the order of their synchronous steps.
    """
    best, found = np.inf, []
    for row in sorted(partly_stale(rows), key=lambda row: (row["synced"], row["sync_rms"])):
        if row["sync_rms"] < best:
            best = row["sync_rms"]
            found.append(row)
    return found


def duels(rows: list[dict]) -> list[dict]:
    """[{subject, forecast, policy, synced, error, by tolerance, ratio}].

    Each fixed policy stands against the tolerances of as many synchronous steps. Between two
    tolerances the error is interpolated, its logarithm linear in the number of steps, as a
    tolerance between them would reach it; beyond them there is no duel.
    """
    own = front([row for row in rows if kind(row) == "tolerance"])
    if not own:
        return []
    at = np.array([row["synced"] for row in own], float)
    error = np.log([row["sync_rms"] for row in own])
    table = []
    for row in rows:
        if kind(row) == "tolerance" or not at[0] <= row["synced"] <= at[-1]:
            continue
        reached = float(np.exp(np.interp(row["synced"], at, error)))
        named = {name: row[name] for name in ("subject", "forecast", "policy", "synced")}
        numbers = {
            "error": row["sync_rms"],
            "by tolerance": reached,
            "ratio": reached / row["sync_rms"],
        }
        table.append(named | numbers)
    return table


def regrets(rows: list[dict]) -> list[dict]:
    """[{forecast, policy, worst on, and its regret on each subject}] for each kind of policy.

    The regret of a row is its error over that of the best policy with as many synchronous steps or
    fewer; that of a kind on a subject is the geometric mean over its rows. The rule of sqrt(n) is a
    warm-up.
    """
    # {(forecast, kind): its row of the table}
    table = {}
    for (subject, forecast), own in groups(rows).items():
        own = [row for row in partly_stale(own) if row["synced"] > 1]
        for name in KINDS:
            mine = [row for row in own if kind(row).replace("sqrt rule", "warm-up") == name]
            if mine:
                named = {"forecast": forecast, "policy": name}
                found = table.setdefault((forecast, name), named)
                logs = [np.log(row["sync_rms"] / _best(own, row["synced"])) for row in mine]
                found[subject] = float(np.exp(np.mean(logs)))

    subjects_asked = dict.fromkeys(row["subject"] for row in rows)
    for found in table.values():
        found["worst on"] = max((s for s in subjects_asked if s in found), key=found.get)
    return list(table.values())


def _best(rows: list[dict], synced: int) -> float:
    """The least error of at most so many synchronous steps."""
    return min(row["sync_rms"] for row in rows if row["synced"] <= synced)
