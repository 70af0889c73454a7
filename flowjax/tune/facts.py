"""Which network a plan was made for, and whether it fits the one at hand.

A tuned table belongs to one network: to its path, its clock, its guidance and its kind of state.
`facts_of` describes these for `plans.save`, and `check_fits` compares them before a plan runs.
The tables that come with flowjax lie beside the weights, in assets/NETWORK/plans/, and `shipped`
finds them.
"""

import pathlib
from typing import Any, Protocol

import numpy as np

from flowjax import plans
from flowjax.plans.table import Plan
from flowjax.schedules import Schedule

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
PROBES = (0.25, 0.5, 0.75)  # times at which two paths are compared


class Card(Protocol):
    """What is read of a `flowjax.models.Card`."""

    name: str
    schedule: Schedule
    clock_name: str
    config: Any


def facts_of(card: Card, guidance: float) -> dict[str, Any]:
    """What a plan was made for, as facts for `plans.save`.

    Args:
      card: of the network.
      guidance: the scale of classifier-free guidance; 1 is none.
    """
    return {
        "network": card.name,
        "path": path_of(card.schedule),
        "clock": card.clock_name,
        "channels": int(card.config.channels),
        "guidance": float(guidance),
    }


def path_of(schedule: Schedule) -> dict[str, Any]:
    """A path as JSON: its name, and its log-SNR at three times, which tell its parameters."""
    log_snr = [float(schedule.log_snr(np.float64(t))) for t in PROBES]
    return {"name": type(schedule).__name__, "log_snr": log_snr}


def check_fits(facts: dict[str, Any], card: Card, guidance: float, source: str) -> list[str]:
    """Compare the facts of a plan with the network that it is to run with.

    Args:
      facts: as `plans.load_with_facts` returns them; what is missing in them is not compared.
      card: of the network.
      guidance: the scale at which the plan is to run.
      source: where the plan comes from, for messages.

    Returns:
      Warnings, a sentence each: the plan was made for another network or guidance, so it runs, but
      what was measured for it may not hold.

    Raises:
      ValueError: the plan was made for another path, clock or number of channels; or its guidance
        is no number.
    """
    wanted = facts_of(card, guidance)
    for name in ("path", "clock", "channels"):
        if name in facts and not _same(facts[name], wanted[name]):
            raise ValueError(
                f"{source}: the plan was made for a network whose {name} is {facts[name]!r}, and "
                f"that of {card.name} is {wanted[name]!r}; tune a plan for this network "
                "(python -m experiments.tune), or take a published solver."
            )
    warnings = []
    if facts.get("network", card.name) != card.name:
        warnings.append(
            f"{source}: the plan was made for {facts['network']!r} and runs with {card.name!r}; "
            "the error that was measured for it does not hold here."
        )
    made_at = facts.get("guidance", guidance)
    if not isinstance(made_at, int | float):
        raise ValueError(
            f"{source}: the plan was made for guidance={made_at!r}, which is no number; save the "
            "plan again with the facts of tune.facts_of."
        )
    if not _same(made_at, wanted["guidance"]):
        warnings.append(
            f"{source}: the plan was made for guidance {made_at:g} and runs at {guidance:g}; "
            "the error that was measured for it does not hold here."
        )
    return warnings


def shipped(card: Card, steps: int, guidance: float) -> tuple[Plan, dict[str, Any]]:
    """The tuned plan that comes with flowjax, with its facts.

    Args:
      card: of a network that comes with flowjax.
      steps: network evaluations.
      guidance: the scale that the plan was tuned at.

    Raises:
      ValueError: there is no such plan; the message lists those that are there.
    """
    path = shipped_path(card.name, steps, guidance)
    if not path.is_file():
        there = sorted((ASSETS / card.name / "plans").glob("w*-*.json"), key=_numbers)
        listed = [f"steps={n} at guidance={w:g}" for w, n in map(_numbers, there)]
        raise ValueError(
            f"tune.shipped: there is no tuned plan of {card.name} for steps={steps} at "
            f"guidance={guidance:g}; "
            + (f"there are {', '.join(listed)}. " if listed else "none comes with flowjax. ")
            + "python -m experiments.tune --config=configs/tune.py --workdir=runs/tune "
            f"--config.model={card.name} --config.steps={steps} --config.guidance={guidance:g} "
            "makes one, and --config.plan=FILE samples with it."
        )
    return plans.load_with_facts(path)


def shipped_path(network: str, steps: int, guidance: float) -> pathlib.Path:
    """Where the tuned plan of a network lies; the file need not exist."""
    return ASSETS / network / "plans" / f"w{guidance:g}-{steps}.json"


def _numbers(path: pathlib.Path) -> tuple[float, int]:
    """(guidance, steps) of a file such as w1.5-8.json."""
    scale, steps = path.stem[1:].rsplit("-", 1)
    return float(scale), int(steps)


def _same(a: Any, b: Any) -> bool:
    """Whether two facts agree; numbers within rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return bool(np.isclose(a, b, rtol=1e-9, atol=1e-12))
    return a == b
