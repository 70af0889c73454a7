"""What does staleness cost on several devices, and which mode is the quickest?

Stale attention is emulated on this machine with the numbers that the devices would compute, and
seconds come from the latency model for the link that is named.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from configs.advise import Config
from configs.latency import DEVICES
from experiments import report
from experiments.advise import budget, setting
from experiments.lab import statistics, subjects
from experiments.tune import unseen
from flowjax import Plan
from flowjax.distances import rms
from flowjax.errors import check_choice
from flowjax.models import Model, networks
from flowjax.parallel import traffic
from flowjax.parallel.analysis import latency
from flowjax.parallel.emulation.network import emulate_with, exchange, tokens_of
from flowjax.parallel.mesh import without_devices

QUESTION = "devices"
# {the name of a link: a machine of configs/latency.py that has it}
LINKS = {
    "pcie4": "A100 PCIe",
    "nvlink3": "A100 NVLink",
    "nvlink4": "H100 NVLink",
    "tpu-v5e": "TPU v5e",
}
# {a forecast in words: options of `flowjax.parallel.sample`}
FORECASTS = {
    "held": {"forecast": 0},
    "corrected": {"forecast": "tuned"},
}
EXACT = ("gather", "ulysses", "ring")
# Linear attention exchanges sums over keys: held as they are, and added up in one way.
LINEAR_FORECASTS = {"held": FORECASTS["held"]}
LINEAR_EXACT = ("gather",)
# Stale sums are advised where they are at least so many times as fast as those of this step.
LINEAR_PAYS = 1.1


def check(config: Config) -> None:
    """Refuse a link and numbers of devices that there are not."""
    budget.check(config)
    check_choice("advise", "link", config.link, LINKS)
    if config.factor <= 1:
        raise ValueError(
            f"--config.factor: {config.factor:g}; wanted more than 1, times the solver's own error."
        )


def cells(config: Config) -> list[dict]:
    """One cell a number of devices above 1; none for an exact field, which has no attention."""
    if not budget.subject_of(config).is_network:
        return []
    many = [n for n in dict.fromkeys(config.devices) if n > 1]
    return [
        {"question": QUESTION, "model": config.model, "guidance": config.guidance, "devices": n}
        for n in many
    ]


def warmups(steps: int) -> list[int]:
    """Numbers of synchronous steps that are tried: 1, and about 1/10, 1/5 and 2/5 of the steps."""
    return sorted({1, *(max(1, round(steps * part)) for part in (0.1, 0.2, 0.4))})


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors by forecast and synchronous steps, and seconds by mode."""
    made = budget.subject_of(config)
    steps = max(config.steps)
    count = config.sizes["device_starts"]
    tuning = budget.tuning_config(config, config.sizes["starts"])
    test = unseen.unseen(tuning, made)
    # The published plan that is best on one device.
    solver, shift, plan = setting.best_published(config, steps)
    if plan.rows != plan.steps:
        raise ValueError(f"advise.devices: {solver} has several rows a step.")
    noise, exact = made.own_starts(tuning.unseen_seed, count), test.exact[:count]
    model = subjects.load(config.model)
    sizes = model.card.config
    is_linear = networks.is_linear(sizes)
    stale = runner(model, config.guidance, made.own_plan(plan), noise, made.labels(count))
    for key in todo:
        n = key["devices"]
        refused = refusal(sizes, n)
        if refused:
            yield key, {"refused": refused}
            continue

        run = functools.partial(stale, n)

        def error(found: np.ndarray, other: np.ndarray) -> float:
            away = statistics.row_norms(found - other)
            return float(rms(away / statistics.scale_of(exact)))

        own = run(warmup=steps)
        lines = []
        for forecast, options in (LINEAR_FORECASTS if is_linear else FORECASTS).items():
            for warmup in warmups(steps):
                found = run(warmup=warmup, **options)
                lines.append(
                    {
                        "forecast": forecast,
                        "synchronous": warmup,
                        "staleness": error(found, own),
                        "total": error(found, exact),
                        "seconds": _seconds(config, model, steps, warmup, "stale", n),
                    }
                )
        yield (
            key,
            {
                "refused": None,
                "solver": solver,
                "shift": shift,
                "steps": steps,
                "starts": count,
                "own": error(own, exact),
                "lines": lines,
                "exact_seconds": {
                    mode: _seconds(config, model, steps, steps, mode, n)
                    for mode in (LINEAR_EXACT if is_linear else EXACT)
                },
                "sums": received(sizes, n, config.guidance) if is_linear else None,
                "one_device": _seconds(config, model, steps, steps, "gather", 1),
                "factor": config.factor,
                "link": config.link,
            },
        )


def refusal(sizes: networks.Config, devices: int) -> str:
    """Why so many devices cannot share an image of a network, or nothing."""
    # With linear attention a device holds whole rows of the image.
    parts = sizes.tokens // networks.tokens_together(sizes, sizes.size)
    if devices <= parts:
        return ""
    return f"{devices} devices for {parts} {'rows of tokens' if parts < sizes.tokens else 'tokens'}"


def runner(
    model: Model, guidance: float, plan: Plan, noise: np.ndarray, label: Any
) -> Callable[..., np.ndarray]:
    """(devices, **options) -> endpoints (B, *D) in float64 of the plan with stale attention.

    Args:
      model: the network.
      guidance: its scale.
      plan: of one row a step.
      noise: (B, *D).
      label: (B,) integers, or a `Condition`.
    """
    sizes = model.card.config
    tokens, together = tokens_of(model, noise), networks.tokens_together(sizes, sizes.size)

    @jax.jit
    def program(params: Any, noise: Any, label: Any, plan: Plan, given: Any) -> jax.Array:
        bound = model._replace(params=params)
        return emulate_with(bound, noise, label, plan, given, guidance=guidance).x

    def run(devices: int, **options: Any) -> np.ndarray:
        given = exchange(plan, tokens, devices, together=together, **options)
        return np.asarray(program(model.params, noise, label, plan, given), np.float64)

    return run


def _seconds(config: Config, model: Any, steps: int, synced: int, mode: str, n: int) -> float:
    """Seconds of one image by the latency model."""
    sizes = model.card.config
    device = DEVICES[LINKS[config.link]]
    shape = (1, *sizes.size, sizes.channels)
    found = latency.of_run(sizes, shape, steps, synced, mode, n, device, guidance=config.guidance)
    return float(found.total)


def received(sizes: networks.Config, devices: int, guidance: float) -> dict[str, int]:
    """Bytes that a device receives for one image in a synchronous row of linear attention.

    Returns:
      {sums: of sums and rows, keys: of keys and values with softmax attention instead}.
    """
    mesh = without_devices(devices)
    shape = (1, *sizes.size, sizes.channels)
    exchanges = np.ones(1, bool)
    sums = traffic.linear_rows(sizes, shape, mesh, guidance, np.float32, exchanges)
    # The formula for keys and values reads only sizes that this network has too.
    keys = traffic.exact_rows(sizes, shape, mesh, "gather", guidance, np.float32, 1)
    return {"sums": int(sums[0, 1]), "keys": int(keys[0, 1])}


# ---- words


def own(rows: list[dict]) -> list[dict]:
    """The rows of this question."""
    return [row for row in rows if row["question"] == QUESTION]


def choice(row: dict) -> dict:
    """The quickest mode whose total error is within the factor of the solver's own error.

    Returns:
      {mode, seconds, forecast, synchronous, total}; the last three are None for an exact mode.
    """
    mode = min(row["exact_seconds"], key=row["exact_seconds"].get)
    best = {
        "mode": mode,
        "seconds": row["exact_seconds"][mode],
        "forecast": None,
        "synchronous": None,
        "total": row["own"],
    }
    # What a little time is not worth: see `LINEAR_PAYS`.
    at_most = best["seconds"] / (LINEAR_PAYS if row.get("sums") else 1)
    for line in row["lines"]:
        allowed = line["total"] <= row["factor"] * row["own"]
        if allowed and line["seconds"] < min(at_most, best["seconds"]):
            best = {"mode": "stale"} | {
                name: line[name] for name in ("seconds", "forecast", "synchronous", "total")
            }
    return best


def fewest(row: dict) -> dict | None:
    """The line with the fewest synchronous steps within the factor, or None."""
    allowed = [line for line in row["lines"] if line["total"] <= row["factor"] * row["own"]]
    return min(allowed, key=lambda line: (line["synchronous"], line["total"]), default=None)


def _why_synchronous(row: dict) -> str:
    """Why sums of this step are advised, with the numbers; empty where stale attention is."""
    if not row.get("sums") or choice(row)["mode"] == "stale":
        return ""
    received = row["sums"]
    exact = min(row["exact_seconds"].values())
    stale = min(line["seconds"] for line in row["lines"])
    return (
        "synchronous, because linear attention exchanges sums: "
        f"{report.sig(received['sums'] / 1e3)} kB a step and device, where keys and values of as "
        f"many tokens would be {report.sig(received['keys'] / 1e3)} kB, and stale sums are at most "
        f"{report.sig(exact / stale, 3)} times as fast; "
    )


def _sentence(row: dict) -> str:
    if row["refused"]:
        return f"{row['refused']}; wanted no more devices than these."
    best, few = choice(row), fewest(row)
    settings = f'attention="{best["mode"]}"'
    if best["mode"] == "stale":
        settings += f", warmup={best['synchronous']}"
        settings += ', forecast="tuned"' if best["forecast"] == "corrected" else ""
    speed = row["one_device"] / best["seconds"]
    recommended = (
        f"{settings}: {report.sig(1e3 * best['seconds'])} ms an image by the latency model over "
        f"{row['link']}, {report.sig(speed)} times as fast as one device"
    )
    if speed <= 1:
        recommended = (
            f"stay on one device: the quickest mode, {settings}, takes {report.sig(1 / speed)} "
            f"times as long by the latency model over {row['link']}"
        )
    if few is None:
        stale = (
            f"no tried policy keeps the error within {row['factor']:g} times the solver's own "
            f"({report.sig(row['own'])})"
        )
    else:
        stale = (
            f"{few['synchronous']} of {row['steps']} synchronous steps with {few['forecast']} "
            f"values keep the total error at {report.sig(few['total'] / row['own'])} times the "
            "solver's own"
        )
    return f"{recommended}; {_why_synchronous(row)}{stale}."


def advice(rows: list[dict]) -> list[tuple[str, str]]:
    """(what, setting) for each number of devices."""
    return [(f"{row['devices']} devices", _sentence(row)) for row in own(rows)]


def section(rows: list[dict], command: str) -> report.Section | None:
    """The section of the page; None where there is nothing to say."""
    mine = [row for row in own(rows) if not row["refused"]]
    if not mine:
        return None
    lines = [
        {"devices": row["devices"], **line, "solver's own error": row["own"]}
        for row in mine
        for line in row["lines"]
    ]
    exact = [
        {"devices": row["devices"], "mode": mode, "seconds": seconds}
        for row in mine
        for mode, seconds in row["exact_seconds"].items()
    ]
    return report.Section(
        question="What on several devices?",
        answer="\n".join(f"**{name}**: {text}" for name, text in advice(rows)),
        figures=(_draw(mine),),
        table={"Stale attention": lines, "Exact attention": exact},
        caveat=f"{mine[0]['starts']} starts, {mine[0]['solver']} with shift "
        f"{mine[0]['shift']:g}. Seconds come from a model that was fitted to published "
        "measurements of large networks; in a small network every layer takes the floor.",
        command=command,
    )


def _draw(mine: list[dict]) -> report.Picture:
    """Total error over the solver's own against synchronous steps, a panel for each forecast."""
    forecasts = list(dict.fromkeys(line["forecast"] for row in mine for line in row["lines"]))
    fig, axes = report.canvas(1, len(forecasts), width=4.4 * len(forecasts), height=3.2)
    axes = np.atleast_1d(axes).ravel()
    for ax, forecast in zip(axes, forecasts, strict=True):
        for row in mine:
            points = [
                (line["synchronous"], line["total"] / row["own"])
                for line in row["lines"]
                if line["forecast"] == forecast
            ]
            ax.plot(
                *zip(*points, strict=True), "o-", markersize=3, label=f"{row['devices']} devices"
            )
        ax.axhline(mine[0]["factor"], color=report.RULE, linewidth=1)
        ax.set(yscale="log", xlabel="synchronous steps")
        ax.set_xticks(warmups(mine[0]["steps"]))
        ax.set_title(f"{forecast} values")
    axes[0].set_ylabel("total error / solver's own")
    axes[0].legend()
    few = fewest(mine[-1])
    title = (
        f"On {mine[-1]['devices']} devices {few['synchronous']} synchronous steps are enough"
        if few
        else f"On {mine[-1]['devices']} devices no tried warm-up is enough"
    )
    return report.picture(
        fig,
        "Total error over the solver's own error against the number of synchronous steps.",
        f"The line is the factor {mine[0]['factor']:g} that was allowed.",
        title=title,
    )
