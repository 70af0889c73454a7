"""(m) Does order pay again where the network is told a smooth time?

Two networks of one size, data, seed and training, but for what they are told as the time: 1000 t, through frequencies of
which the fastest turns once in 2 pi/1000 of the path, as DiT, SD3 and SANA are told it; and 1 - t, through frequencies of at
most 1, as SiT is. The same plans on the same noise, each network's own ODE as the truth.
"""

import dataclasses

import jax
import numpy as np

import flowjax
from experiments import report
from experiments.order import clock, learned, nfe

QUESTION = "smooth"
SHOWN = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "AB2", "AB3")
EXACT = "the exact field"


def _asked(config):
    """The configuration of `learned` that this question asks of the two networks, with evaluations where orders show."""
    return dataclasses.replace(
        config,
        networks=(config.networks[0], *config.smooth),
        network_scales=(1.0,),
        network_nfe=(*config.network_nfe, 2 * max(config.network_nfe)),
        network_steps=2 * config.network_steps,
    )


def cells(config):
    """The cells of `learned` for the twins, and one a network for its second differences; none without twins."""
    if not config.smooth:
        return []
    asked = _asked(config)
    differences = [
        {"question": QUESTION, "part": "clock", "model": name} for name in asked.networks
    ]
    return differences + [{**cell, "question": QUESTION} for cell in learned.cells(asked)]


def measure(config, todo):
    """Yield (key, values)."""
    for key in (key for key in todo if key["part"] == "clock"):
        size = learned.load(key["model"]).card.config
        noise = flowjax.draw_noise(
            jax.random.key(0), np.arange(clock.STARTS), (*size.size, size.channels)
        )
        field = learned.make(key["model"], 1.0, clock.STARTS)
        yield key, {"differences": clock.second_differences(field, np.asarray(noise, np.float32))}
    yield from learned.measure(_asked(config), [key for key in todo if key["part"] != "clock"])


def _errors(rows):
    """{network or exact field: its error cells}, the networks by the order of the rows."""
    own = [r for r in rows if r["question"] == QUESTION and r["part"] == "error"]
    found = {
        name: [r for r in own if r["model"] == name]
        for name in dict.fromkeys(r["model"] for r in own)
    }
    first, seen = next(iter(found)), {(r["shift"], r["nfe"]) for r in own}
    exact = [r for r in rows if r["question"] == nfe.QUESTION and r["field"] == first]
    exact = [r for r in exact if (r["shift"], r["nfe"]) in seen]
    return ({EXACT: exact} if exact else {}) | found


def _rms(cells, shift, n, solver):
    return next(
        (
            s["rms"]
            for r in cells
            if (r["shift"], r["nfe"]) == (shift, n)
            for s in r["solvers"]
            if s["solver"] == solver
        ),
        np.nan,
    )


def orders(rows):
    """[{solver, NFE, field: order, ...}]: how steep errors fall between the two largest numbers of evaluations, over all shifts."""
    groups = _errors(rows)
    low, high = sorted({r["nfe"] for cells in groups.values() for r in cells})[-2:]
    shifts = {r["shift"] for cells in groups.values() for r in cells}
    table = []
    for solver in SHOWN:
        line = {"solver": solver, "NFE": f"{low} to {high}"}
        for name, cells in groups.items():
            falls = [
                np.log(_rms(cells, shift, low, solver) / _rms(cells, shift, high, solver))
                for shift in shifts
            ]
            line[name] = float(np.mean(falls) / np.log(high / low))
        table.append(line)
    return table


def gains(rows):
    """[{shift, NFE, solver, error on each network, and over Euler's}]."""
    groups = {name: cells for name, cells in _errors(rows).items() if name != EXACT}
    return [
        {"shift": shift, "NFE": n, "solver": solver}
        | {f"error, {name}": _rms(cells, shift, n, solver) for name, cells in groups.items()}
        | {
            f"over Euler, {name}": _rms(cells, shift, n, solver) / _rms(cells, shift, n, "Euler")
            for name, cells in groups.items()
        }
        for shift, n in dict.fromkeys((r["shift"], r["nfe"]) for r in next(iter(groups.values())))
        for solver in SHOWN
    ]


def _differences(rows):
    return {r["model"]: r for r in rows if r["question"] == QUESTION and r["part"] == "clock"}


def verdict(rows):
    """The answer as a sentence: orders, and how rough the two are in the time they are told."""
    table, rough = orders(rows), _differences(rows)
    first, second = list(rough)[:2]
    said = ", ".join(
        f"{line['solver']} {report.sig(line[first])} → **{report.sig(line[second])}**"
        for line in table
        if line["solver"] != "AB2"
    )
    falls = " and ".join(
        f"{report.sig(clock.shrinkage(rough[name])['time alone'])} ({name})"
        for name in (first, second)
    )
    return (
        f"Trained alike but told 1 - t instead of 1000 t, the network has its order back: from {table[0]['NFE']} evaluations errors fall "
        f"with order {said}. At half the step its second differences in the time alone fall {falls} times, 4 being smooth."
    )


def _draw(rows):
    groups = _errors(rows)
    fig, axes = report.canvas(1, len(groups), width=2.6 * len(groups) + 0.6, height=3.8)
    axes = np.atleast_1d(axes)
    for ax, (title, cells) in zip(axes, groups.items(), strict=True):
        flat = [
            {"nfe": r["nfe"], **s}
            for r in cells
            if r["shift"] == 1.0
            for s in r["solvers"]
            if s["solver"] in SHOWN
        ]
        report.log_log(ax, flat, x="nfe", y="rms", ylabel="relative RMS error", xlabel="NFE")
        ax.set_title(title)
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
    return report.picture(
        fig, f"Relative RMS error against NFE on {', '.join(groups)}.", "Shift 1, no guidance."
    )


def section(rows, command):
    """The section of the page, from this question's rows and those of `nfe`."""
    own = [r for r in rows if r["question"] == QUESTION]
    paths = {r["model"]: r for r in own if r["part"] == "path"}
    most = max(r["doubling"] for r in paths.values())
    table = gains(own)
    last = max(line["NFE"] for line in table)
    first, second = list(paths)[:2]
    plain = {line["solver"]: line for line in table if (line["shift"], line["NFE"]) == (1.0, last)}
    worth = "; ".join(
        f"{name} {report.sig(plain[name][f'over Euler, {first}'])} → {report.sig(plain[name][f'over Euler, {second}'])}"
        for name in SHOWN[1:]
    )
    return report.Section(
        question="Does order pay again where the network is told a smooth time?",
        expected="If the roughness in the time told is what takes the order away, a twin that is told a slow clock has it back, with the same loss.",
        answer=f"{verdict(rows)} Error over Euler's with {last} evaluations: {worth}.",
        figures=(_draw(rows),),
        table=orders(rows) + table + [{"model": name, "kind": "second difference", **line} for name, r in _differences(own).items() for line in r["differences"]],
        caveat=f"One pair of networks, {next(iter(paths.values()))['starts']} starts on shared noise, no guidance. Each network's error is to its own ODE, whose reference moved by at most "
        f"{report.sig(most)} when its steps doubled. DPM++ 2M and 3M end with a first-order jump, which AB2 and AB3 do not have.",
        command=command,
    )  # fmt: skip
