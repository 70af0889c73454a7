"""Sampling over a mesh: collectives and bytes beside the formulas, buffers, compile seconds.

Where the devices are real it adds the seconds of sampling. Virtual devices of a CPU show numbers
and the structure of programs, not speed.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

import flowjax
from experiments.benchmarks.pmap import sample_pmap
from experiments.cli.run import main, progress
from experiments.lab.timing import interleaved
from flowjax import Plan, grids, models, parallel, plans, records
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import Collective, collectives
from flowjax.parallel.stale import rows as stale

if TYPE_CHECKING:
    from configs.bench_parallel import Config

# Virtual devices of the CPU.
VIRTUAL = 8
# {branch of the compiled program: the kind of plan row that takes it}
BRANCHES = {stale.SYNC: "synchronous", stale.EXCHANGE: "exchange", stale.HOLD: "hold"}
HEADER = (
    "devices, contender, kind of row: collectives a row; bytes received (formula); "
    "bytes kept between rows; compile s"
)


class Setup(NamedTuple):
    """What every contender samples: the first four arguments of `parallel.sample`."""

    model: models.Model
    noise: np.ndarray
    label: np.ndarray
    plan: Plan


def setup(config: "Config") -> Setup:
    """Random weights, noise, labels and the plan of a config."""
    sizes = models.preset(config.network)
    shape = (*sizes.size, sizes.channels)
    noise = flowjax.draw_noise(jax.random.key(1), range(config.batch), shape)
    return Setup(
        models.init(sizes, jax.random.key(0)),
        np.asarray(noise, np.float32),
        np.arange(config.batch) % sizes.classes,
        plans.adams_bashforth(grids.uniform(config.steps), 2),
    )


def contenders(devices: int) -> dict[str, tuple[dict, dict]]:
    """{name: (sizes of the mesh, options of parallel.sample)} for `devices` that share an image."""
    exact = {
        name: ({"seq": devices}, {"attention": name}) for name in ("gather", "ulysses", "ring")
    }
    # Two devices in a ring, and at least two that exchange heads.
    if devices % 2 == 0 and devices > 2:
        exact["ulysses_ring"] = ({"seq": (devices // 2, 2)}, {"attention": "ulysses_ring"})
    options = {
        "late": {},
        "early": {"gather": "early"},
        "every second step": {"refresh": 2},
        "frozen": {"refresh": None},
    }
    return exact | {
        f"stale, {name}": ({"seq": devices}, {"attention": "stale", **each})
        for name, each in options.items()
    }


# -- what the compiled program does


def per_row(found: Sequence[Collective], rows: int, branch: int | None) -> dict:
    """The collectives inside the scan over `rows` rows, in one branch.

    Returns:
      {"collectives": {operation: number a row}, "bytes": received a row, "waiting": how many a row
      wait for a matrix product}.
    """
    inside = [each for each in found if each.times >= rows and each.branch == branch]
    numbers = {}
    for each in inside:
        numbers[each.operation] = numbers.get(each.operation, 0) + each.times
    return {
        "collectives": {operation: number // rows for operation, number in numbers.items()},
        "bytes": sum(each.times * each.received for each in inside) // rows,
        "waiting": sum(each.times for each in inside if each.waits) // rows,
    }


def structure(
    what: Setup, sizes: dict, options: dict
) -> tuple[list[dict], Callable[[], flowjax.Solution]]:
    """(a row for each kind of plan row, a function that runs the compiled program).

    Args:
      what: the model and the call.
      sizes: of the mesh.
      options: of `parallel.sample`.
    """
    network, shape, dtype = what.model.card.config, what.noise.shape, what.noise.dtype
    mesh = parallel.make_mesh(**sizes)
    attention, refresh = options["attention"], options.get("refresh", 1)
    is_stale = attention == "stale"

    # Trace, then compile.
    run, args, _ = parallel.program(*what, mesh, **options)
    began = time.perf_counter()
    lowered = run.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"trace_seconds": traced - began, "compile_seconds": time.perf_counter() - traced}

    # What the formulas say.
    layer = traffic.received(network, shape, mesh, attention, 1.0, dtype)
    gather = options.get("gather") or ("late" if refresh == 1 else "early")
    buffer = traffic.buffer(network, shape, mesh, gather, 1.0, dtype) if is_stale else 0

    # What the program does.
    found = collectives(compiled.as_text())
    kinds = stale.kinds_of(refresh) if is_stale else (stale.SYNC,)
    rows = [
        {
            "kind": BRANCHES[kind],
            **per_row(found, what.plan.rows, branch if is_stale else None),
            "formula": 0 if kind == stale.HOLD else layer * network.depth,
            "buffer": buffer,
            "temporary": compiled.memory_analysis().temp_size_in_bytes,
            **seconds,
        }
        for branch, kind in enumerate(kinds)
    ]
    return rows, lambda: compiled(*args)


# -- seconds, on real devices


def data_parallel(what: Setup, counts: Sequence[int]) -> dict[tuple[int, str], Callable]:
    """{(devices, name): call} of `jax.pmap` and of the mesh's data axis."""

    def on_mesh(placed, mesh):
        return lambda: parallel.sample(placed, *what[1:], mesh).x

    def by_pmap(n):
        return lambda: sample_pmap(*what, devices=n)

    calls = {}
    for n in counts:
        # The batch is divided, so it must divide.
        if n > len(jax.devices()) or len(what.noise) % n:
            continue
        mesh = parallel.make_mesh(data=n)
        calls[n, "data axis"] = on_mesh(parallel.place(what.model, mesh), mesh)
        calls[n, "pmap"] = by_pmap(n)
    return calls


# -- the command


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet and return all rows."""
    kept = records.Records(workdir, config)
    is_real = jax.default_backend() != "cpu"
    # One network and one noise for all contenders.
    what = setup(config)
    cells = [
        (n, name, *mesh_and_options)
        for n in config.devices
        if n <= len(jax.devices())
        for name, mesh_and_options in contenders(n).items()
        if not kept.done({"devices": n, "contender": name, "kind": "synchronous"})
    ]
    calls = {}
    for n, name, mesh, options in progress(cells, lambda cell: f"{cell[1]} on {cell[0]}"):
        rows, call = structure(what, mesh, options)
        if is_real:
            calls[n, name] = call
        # The synchronous row comes last: it shows that the cell is done.
        for row in reversed(rows):
            kept.add({"devices": n, "contender": name, "kind": row.pop("kind")}, **row)
    if is_real:
        calls |= data_parallel(what, config.devices)
        for (n, name), (first, steady) in interleaved(calls, config.repeats).items():
            key = {"devices": n, "contender": name, "kind": "seconds"}
            kept.add(key, first=first, steady=steady)
    return kept.rows


def table(workdir: str | os.PathLike) -> list:
    """Print the rows; nothing is drawn."""
    found = records.read(workdir)
    if not any(row["kind"] == "seconds" for row in found):
        print("Devices of a CPU: numbers and the structure of the programs, not speed.")
    print(HEADER)
    for row in found:
        name = f"{row['devices']} {row['contender']:24} {row['kind']:12}"
        if row["kind"] == "seconds":
            print(f"{name} first {row['first']:.3f} s, steady {row['steady']:.4f} s")
        else:
            print(f"{name} {_numbers(row)}")
    return []


def _numbers(row: dict) -> str:
    """The numbers of a row of `structure`, in one line."""
    listed = ", ".join(f"{count} {operation}" for operation, count in row["collectives"].items())
    waiting = f" ({row['waiting']} wait for a product)" if row["collectives"] else ""
    return (
        f"{listed or 'none'}{waiting}; {row['bytes']:,} ({row['formula']:,}); "
        f"{row['buffer']:,}; {row['compile_seconds']:.1f}"
    )


if __name__ == "__main__":
    # Before anything asks for devices; other platforms do not read it.
    jax.config.update("jax_num_cpu_devices", VIRTUAL)
    main(run, table)
