"""Does order pay again where the network receives a smooth time?

Two networks have one size, data, seed and training; they differ in the clock, the number that they
receive for the time. One receives 1000 t, through frequencies of which the fastest turns once in
2 pi/1000 of the path, as DiT, SD3 and SANA do. The other receives 1 - t, through frequencies of at
most 1, as SiT does. The same plans run on the same noise, and the truth is each network's own ODE.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from configs.order import Config
from experiments import report
from experiments.lab import subjects
from experiments.order import clock, drawing, learned, nfe

# ---- numbers

QUESTION = "smooth"
# The solvers whose orders are read.
SHOWN = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "AB2", "AB3")
EXACT = "the exact field"


def _of_twins(config: Config) -> Config:
    """The configuration of `learned` for the two networks, with evaluations where orders show."""
    return dataclasses.replace(
        config,
        networks=(config.networks[0], *config.smooth),
        # Without guidance the network alone is read.
        network_scales=(1.0,),
        network_nfe=(*config.network_nfe, 2 * max(config.network_nfe)),
        network_steps=2 * config.network_steps,
    )


def check(config: Config) -> None:
    """Refuse a twin that is not there, and twins of nothing."""
    subjects.check_networks("smooth", config.smooth)
    if config.smooth and not config.networks:
        raise ValueError(
            f"--config.smooth: {config.smooth!r} are twins of the first of networks, and networks "
            "is empty; name that network, or give smooth=()."
        )


def cells(config: Config) -> list[dict]:
    """The cells of `learned` for the twins, and one a network for its second differences."""
    if not config.smooth:
        return []
    twins = _of_twins(config)
    # Second differences tell how rough each network is in its time.
    keys = [{"question": QUESTION, "part": "clock", "model": name} for name in twins.networks]
    # The errors are those of the question `learned`, under this question's name.
    return keys + [{**cell, "question": QUESTION} for cell in learned.cells(twins)]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values)."""
    for key in (key for key in todo if key["part"] == "clock"):
        yield key, {"differences": clock.network_differences(key["model"])}
    yield from learned.measure(_of_twins(config), [key for key in todo if key["part"] != "clock"])


def error_cells(rows: list[dict]) -> dict[str, list[dict]]:
    """{network or exact field: its error cells}, the networks by the order of the rows."""
    # Networks first.
    errors = [row for row in rows if row["question"] == QUESTION and row["part"] == "error"]
    names = dict.fromkeys(row["model"] for row in errors)
    found = {name: [row for row in errors if row["model"] == name] for name in names}
    # The exact field has the name of the first network: both are of the digits.
    first = next(iter(found))
    seen = {(row["shift"], row["nfe"]) for row in errors}
    exact = [row for row in rows if row["question"] == nfe.QUESTION and row["field"] == first]
    exact = [row for row in exact if (row["shift"], row["nfe"]) in seen]
    return ({EXACT: exact} if exact else {}) | found


def _error(cells: list[dict], shift: float, n: int, solver: str, statistic: str = "rms") -> float:
    """The error of a solver in the cell with this shift and `n` evaluations, NaN without it."""
    for row in cells:
        if (row["shift"], row["nfe"]) == (shift, n):
            for line in row["solvers"]:
                if line["solver"] == solver:
                    return line[statistic]
    return np.nan


def orders(rows: list[dict]) -> list[dict]:
    """How steep errors fall late, between the two largest numbers of evaluations.

    Returns:
      [{shift, statistic, solver, NFE, field: order, ...}]. Means over shifts would hide where an
      order comes back and where it does not.
    """
    groups = error_cells(rows)
    # The two largest numbers of evaluations.
    low, high = sorted({row["nfe"] for cells in groups.values() for row in cells})[-2:]
    shifts = sorted({row["shift"] for cells in groups.values() for row in cells})
    table = []
    for shift in shifts:
        for statistic in ("rms", "median"):
            for solver in SHOWN:
                line = {"shift": shift, "statistic": statistic, "solver": solver}
                line["NFE"] = f"{low} to {high}"
                for name, cells in groups.items():
                    early, late = (_error(cells, shift, n, solver, statistic) for n in (low, high))
                    # error ~ NFE^-order
                    line[name] = float(np.log(early / late) / np.log(high / low))
                table.append(line)
    return table


def order_of(table: list[dict], solver: str, shift: float, statistic: str = "rms") -> dict:
    """The line of `orders` with this solver, shift and statistic."""
    wanted = (solver, shift, statistic)
    return next(
        line for line in table if (line["solver"], line["shift"], line["statistic"]) == wanted
    )


def gains(rows: list[dict]) -> list[dict]:
    """[{shift, NFE, solver, error on each network, and over Euler's}]."""
    # The exact field has other errors: only the two networks are compared.
    groups = {name: cells for name, cells in error_cells(rows).items() if name != EXACT}
    first = next(iter(groups.values()))
    table = []
    for shift, n in dict.fromkeys((row["shift"], row["nfe"]) for row in first):
        for solver in SHOWN:
            errors = {name: _error(cells, shift, n, solver) for name, cells in groups.items()}
            line = {"shift": shift, "NFE": n, "solver": solver}
            line |= {f"error, {name}": error for name, error in errors.items()}
            line |= {
                f"over Euler, {name}": error / _error(groups[name], shift, n, "Euler")
                for name, error in errors.items()
            }
            table.append(line)
    return table


def differences(rows: list[dict]) -> dict[str, dict]:
    """{network: the row of its second differences}."""
    own = [row for row in rows if row["question"] == QUESTION and row["part"] == "clock"]
    return {row["model"]: row for row in own}


# ---- figures


def _draw(rows: list[dict]) -> report.Picture:
    groups = error_cells(rows)
    fig, axes = report.canvas(1, len(groups), width=3.6 * len(groups), height=4.0)
    axes = np.atleast_1d(axes)
    # One panel a network, and the exact field before them.
    for ax, (title, cells) in zip(axes, groups.items(), strict=True):
        drawn = [
            {"nfe": row["nfe"], **line}
            for row in cells
            if row["shift"] == 1.0
            for line in row["solvers"]
            if line["solver"] in SHOWN
        ]
        report.log_log(ax, drawn, x="nfe", y="rms")
        ax.set_title(title)
    drawing.same_height(axes)
    return report.picture(
        fig,
        f"Relative RMS error against NFE on {', '.join(groups)}.",
        "Shift 1, no guidance. The two networks differ in the clock only.",
        title=claim(rows),
    )


# ---- words


def _twins(rows: list[dict]) -> tuple[str, str]:
    """The network with the fast clock and its twin with the slow one."""
    first, second = list(differences(rows))[:2]
    return first, second


def claim(rows: list[dict]) -> str:
    """The claim of the figure: the order of the last solver on both networks, at shift 1."""
    first, second = _twins(rows)
    shifts = sorted({line["shift"] for line in orders(rows)})
    line = order_of(orders(rows), SHOWN[-1], shifts[0])
    return (
        f"With a slow clock {SHOWN[-1]} falls with order {report.sig(line[second])} instead of "
        f"{report.sig(line[first])} (shift {shifts[0]:g})"
    )


def answer(rows: list[dict]) -> str:
    """The answer as sentences: orders shift by shift, and how rough both networks are in time."""
    table, rough = orders(rows), differences(rows)
    first, second = _twins(rows)
    parts = []
    for shift in dict.fromkeys(line["shift"] for line in table):
        each = []
        for solver in SHOWN:
            rms, median = (order_of(table, solver, shift, name) for name in ("rms", "median"))
            each.append(
                f"{solver} {report.sig(rms[first])} → **{report.sig(rms[second])}** (median "
                f"{report.sig(median[first])} → {report.sig(median[second])})"
            )
        parts.append(f"at shift {shift:g} {', '.join(each)}")
    # At the step of the first of the two numbers of evaluations.
    low = int(table[0]["NFE"].split()[0])
    step = min(
        (line["h"] for line in rough[first]["differences"][:-1]), key=lambda h: abs(h - 1 / low)
    )
    falls = " and ".join(
        f"{report.sig(clock.shrinkage(rough[name], step)['time alone'])} ({name})"
        for name in (first, second)
    )
    return (
        f"From {table[0]['NFE']} evaluations errors fall with these orders, with the fast clock "
        f"1000 t and with the slow clock 1 - t: {'; '.join(parts)}. At a step of "
        f"1/{round(1 / step)} halving it divides the second difference in time by {falls}; 4 is "
        "smooth."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page, from this question's rows and those of `nfe`."""
    # Rows of `nfe` are read too; these are the question's own.
    own = [row for row in rows if row["question"] == QUESTION]
    paths = {row["model"]: row for row in own if row["part"] == "path"}
    first, second = list(paths)[:2]
    starts = paths[first]["starts"]
    moved = max(row["doubling"] for row in paths.values())

    table = gains(own)
    last = max(line["NFE"] for line in table)
    # Without a shift, at the most evaluations.
    plain = {line["solver"]: line for line in table if (line["shift"], line["NFE"]) == (1.0, last)}
    worth = "; ".join(
        f"{name} {report.sig(plain[name][f'over Euler, {first}'])} → "
        f"{report.sig(plain[name][f'over Euler, {second}'])}"
        for name in SHOWN[1:]
    )
    second_differences = [
        {"model": name, **line}
        for name, row in differences(own).items()
        for line in row["differences"]
    ]
    return report.Section(
        question="Does order pay again where the network receives a smooth time?",
        expected="If the roughness in time is what takes the order away, a twin that receives a "
        "slow clock has it back, with the same loss.",
        answer=f"{answer(rows)}\nError over Euler's with {last} evaluations at shift 1: {worth}.",
        figures=(_draw(rows),),
        table={
            "Orders by shift": orders(rows),
            "Errors, and errors over Euler's": table,
            "Second differences": second_differences,
        },
        caveat=f"One pair of networks with one training seed, {starts} starts on shared noise, no "
        "guidance. Order 2 keeps its order also with the fast clock where both numbers of a solver "
        "above are near 2; a mean over shifts would hide that. Each network's error is to its own "
        f"ODE, whose reference moved by at most {report.sig(moved)} when its steps doubled. "
        "DPM++ 2M and 3M end with a first-order "
        "jump, which AB2 and AB3 do not have.",
        command=command,
    )
