"""What can be done about a rough clock without training? The network receives other times.

A network whose velocity is rough in the time that it receives keeps a high order from paying (see
`clock`). Its user may not train it again, but chooses the label times: the times that it receives.
Two ways are measured, each against the network's own converged solution and with as many
evaluations:

    rounded    the label times are multiples of several steps
    averaged   the mean of the velocities at the label times t - d and t + d: two evaluations a step
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import flowjax
from configs.order import Config
from experiments import report
from experiments.lab import solvers, statistics, subjects
from experiments.order import drawing
from experiments.order.learned import numbers as learned
from flowjax import distances
from flowjax.schedules import Schedule

# ---- numbers

QUESTION = "label-times"
SOLVERS = ("AB2", "AB3", "DPM++ 2M")
EVALUATIONS = (10, 20, 40)
AS_IT_IS = "as it is"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelabelledField:
    """A network that receives other times than those at which it is evaluated.

    Attributes:
      field: the network, with velocity(x, t) and schedule.
      spacing: the label times are multiples of it; 0 leaves them.
      offset: the label times are t - offset and t + offset, and the velocity is the mean of both;
        with 0 the network receives t alone.
    """

    field: Any
    spacing: float = dataclasses.field(metadata={"static": True}, default=0.0)
    offset: float = dataclasses.field(metadata={"static": True}, default=0.0)

    def velocity(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Velocity (B, *D)."""
        t = jnp.round(t / self.spacing) * self.spacing if self.spacing else t
        if not self.offset:
            return self.field.velocity(x, t)
        # No network was trained beyond 0 and 1.
        both = (jnp.clip(t + sign * self.offset, 0, 1) for sign in (-1, 1))
        return sum(self.field.velocity(x, at) for at in both) / 2

    @property
    def schedule(self) -> Schedule:
        """The path of the network."""
        return self.field.schedule


# {what the network receives: (steps between the label times, offset)}
WAYS = {
    AS_IT_IS: (0, 0.0),
    "rounded to 2 steps": (2, 0.0),
    "rounded to 4 steps": (4, 0.0),
    "averaged over 1/160": (0, 1 / 160),
    "averaged over 1/80": (0, 1 / 80),
    "averaged over 1/40": (0, 1 / 40),
    "averaged over 1/20": (0, 1 / 20),
}


def check(config: Config) -> None:
    """Refuse a network that is not there."""
    subjects.check_networks("label_networks", config.label_networks)


def cells(config: Config) -> list[dict]:
    """One cell a network."""
    return [{"question": QUESTION, "model": name} for name in config.label_networks]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the errors of every way, solver and number of evaluations."""
    starts = np.arange(config.network_starts)
    for key in todo:
        shape = subjects.image_shape(key["model"])
        noise = np.asarray(flowjax.draw_noise(jax.random.key(0), starts, shape), np.float32)
        field = subjects.make_network(key["model"], 1.0, len(starts))
        exact, doubling, _ = learned.reference(field, noise, config.network_steps)
        lines = [
            {"evaluations": n, "solver": solver, "way": way, **values}
            for n in EVALUATIONS
            for solver in SOLVERS
            for way, values in _errors(field, noise, exact, solver, n).items()
        ]
        yield key, {"lines": lines, "doubling": doubling, "starts": len(starts)}


def _errors(
    field: Any, noise: np.ndarray, exact: np.ndarray, solver: str, evaluations: int
) -> dict[str, dict]:
    """{way: its RMS error, and the ratio to the network as it is with an interval}."""
    found = {}
    for way, (apart, offset) in WAYS.items():
        # Two velocities cost two evaluations.
        steps = evaluations // 2 if offset else evaluations
        spacing = apart / steps
        plan = solvers.plan_of(solver, field.schedule, solvers.shifted(1.0), steps)
        end = np.float64(solvers.solve(RelabelledField(field, spacing, offset), noise, plan))
        found[way] = statistics.row_norms(end - exact) / statistics.scale_of(exact)
    seeds = np.arange(len(noise))
    return {
        way: {
            "rms": float(distances.rms(errors)),
            **statistics.paired(errors, found[AS_IT_IS], seeds),
        }
        for way, errors in found.items()
    }


# ---- figures

TICKS = (0.5, 1, 2, 5)


def _draw(row: dict) -> report.Picture:
    """Ratios of the errors to those of the network as it is, one panel a number of evaluations."""
    fig, axes = report.canvas(1, len(EVALUATIONS), width=3.6 * len(EVALUATIONS), height=3.6)
    ways = [way for way in WAYS if way != AS_IT_IS]
    colours = dict(zip(SOLVERS, (report.GREEN, report.AMBER, report.BLUE), strict=True))
    for ax, n in zip(np.atleast_1d(axes), EVALUATIONS, strict=True):
        for i, solver in enumerate(SOLVERS):
            lines = _lines(row, n, solver)
            at = np.arange(len(ways)) + 0.2 * (i - 1)
            ratio, low, high = (
                np.array([lines[way][f"rms_{name}"] for way in ways])
                for name in ("ratio", "low", "high")
            )
            ax.errorbar(
                ratio,
                at,
                xerr=np.maximum([ratio - low, high - ratio], 0),
                fmt="o",
                color=colours[solver],
                label=solver,
            )
        ax.axvline(1, color=report.GREY, linewidth=1)
        ax.set(xscale="log", title=f"{n} evaluations", xlabel="error over that as it is")
        ax.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_yticks(range(len(ways)), ways if n == EVALUATIONS[0] else [""] * len(ways))
        ax.invert_yaxis()
    drawing.legend_below(fig, np.atleast_1d(axes)[0], len(SOLVERS))
    return report.picture(
        fig,
        f"Error of {row['model']} when it receives other times, over that as it is.",
        "Bars: 95 % intervals over starts.",
        title=claim(row),
    )


# ---- words


def _lines(row: dict, evaluations: int, solver: str) -> dict[str, dict]:
    """{way: its values} at one number of evaluations with one solver."""
    wanted = (evaluations, solver)
    return {
        line["way"]: line
        for line in row["lines"]
        if (line["evaluations"], line["solver"]) == wanted
    }


def counts(row: dict, kind: str) -> dict[str, int]:
    """{verdict: in how many comparisons} of the ways whose name begins with `kind`."""
    verdicts = [line["rms_verdict"] for line in row["lines"] if line["way"].startswith(kind)]
    return {name: verdicts.count(name) for name in ("better", "worse", "tie")}


def claim(row: dict) -> str:
    """The claim of the figure."""
    better = sum(counts(row, kind)["better"] for kind in ("rounded", "averaged"))
    total = sum(sum(counts(row, kind).values()) for kind in ("rounded", "averaged"))
    return f"With other label times {row['model']} has a lower error in {better} of {total} cases"


def answer(row: dict) -> str:
    """How often each way helps, and its best case."""
    sentences = []
    for kind in ("rounded", "averaged"):
        found = counts(row, kind)
        best = min(
            (line for line in row["lines"] if line["way"].startswith(kind)),
            key=lambda line: line["rms_ratio"],
        )
        span = f"{report.sig(best['rms_low'])} to {report.sig(best['rms_high'])}"
        sentences.append(
            f"{row['model']}, {kind} times: better in **{found['better']}**, worse in "
            f"{found['worse']} of {sum(found.values())} comparisons; the best is {best['way']} "
            f"with {best['solver']} at {best['evaluations']} evaluations, "
            f"{report.sig(best['rms_ratio'])} times the error ({span})."
        )
    return "\n".join(sentences)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    names = ("evaluations", "solver", "way", "rms", "rms_ratio", "rms_low", "rms_high")
    moved = max(row["doubling"] for row in rows)
    return report.Section(
        question="Do other label times help a network with a rough clock?",
        expected="Rounded times make the velocity constant between their multiples, so the order "
        "of a multistep solver could rise while the solution moves away; the mean of two "
        "label times halves the roughness and the number of steps.",
        answer="\n".join(map(answer, rows)),
        figures=[_draw(row) for row in rows],
        table={
            f"Errors, {row['model']}": [
                {name.replace("_", " "): line[name] for name in names} for line in row["lines"]
            ]
            for row in rows
        },
        caveat=f"{rows[0]['starts']} starts on shared noise, shift 1, no guidance. The error is to "
        "the converged solution of the network as it is, which moved by at most "
        f"{report.sig(moved)} when its steps doubled.",
        command=command,
    )
