"""Sampling over a mesh: collectives and bytes of a step beside the formulas, buffers, seconds of compiling; and seconds of
sampling where the devices are real. Virtual devices of a CPU show numbers and the structure of programs, not speed."""

import time

import jax
import numpy as np

import flowjax
from experiments.benchmarks.pmap import sample_pmap
from experiments.cli.run import main, progress
from experiments.lab.timing import interleaved
from flowjax import grids, models, parallel, plans, records
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.stale import rows as stale

VIRTUAL = 8
BRANCHES = {stale.SYNC: "synchronous", stale.EXCHANGE: "exchange", stale.HOLD: "hold"}


def contenders(devices):
    """{name: (sizes of the mesh, options of parallel.sample)} with an image shared by `devices`."""
    exact = {
        name: ({"seq": devices}, {"attention": name}) for name in ("gather", "ulysses", "ring")
    }
    if devices % 2 == 0 and devices > 2:
        exact["ulysses_ring"] = ({"seq": (devices // 2, 2)}, {"attention": "ulysses_ring"})
    options = {
        "late": {},
        "early": {"gather": "early"},
        "every second step": {"refresh": 2},
        "frozen": {"refresh": None},
    }
    return exact | {
        f"stale, {k}": ({"seq": devices}, {"attention": "stale", **o}) for k, o in options.items()
    }


def per_row(found, rows, branch):
    """Of the collectives inside the scan over `rows` rows: their number a row, the bytes received, how many wait for a product."""
    inside = [c for c in found if c.times >= rows and c.branch == branch]
    return {
        "collectives": {
            op: sum(c.times for c in inside if c.operation == op) // rows
            for op in {c.operation for c in inside}
        },
        "bytes": sum(c.times * c.received for c in inside) // rows,
        "waiting": sum(c.times for c in inside if c.waits) // rows,
    }


def structure(setup, sizes, options):
    """Rows of what the compiled program does in each kind of row, and a function that runs it."""
    model, noise, label, plan = setup
    config, mesh = model.card.config, parallel.make_mesh(**sizes)
    run, args, _ = parallel.program(model, noise, label, plan, mesh, **options)
    began = time.perf_counter()
    lowered = run.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"trace_seconds": traced - began, "compile_seconds": time.perf_counter() - traced}
    temporary = compiled.memory_analysis().temp_size_in_bytes
    found = collectives(compiled.as_text())
    is_stale = options["attention"] == "stale"
    kinds = stale.kinds_of(options.get("refresh", 1)) if is_stale else (stale.SYNC,)
    one = traffic.received(config, noise.shape, mesh, options["attention"], 1.0, noise.dtype)
    gather = options.get("gather") or ("late" if options.get("refresh", 1) == 1 else "early")
    buffer = traffic.buffer(config, noise.shape, mesh, gather, 1.0, noise.dtype) if is_stale else 0
    result = [
        {"kind": BRANCHES[kind], **per_row(found, plan.rows, branch if is_stale else None),
         "formula": 0 if kind == stale.HOLD else one * config.depth, "buffer": buffer, "temporary": temporary, **seconds}
        for branch, kind in enumerate(kinds)
    ]  # fmt: skip
    return result, lambda: compiled(*args)


def run(config, workdir):
    """Measure what `workdir` does not hold yet and return all rows."""
    kept = records.Records(workdir, config)
    real = jax.default_backend() != "cpu"
    sizes = models.preset(config.network)
    model = models.init(sizes, jax.random.key(0))
    shape = (*sizes.size, sizes.channels)
    noise = np.asarray(
        flowjax.draw_noise(jax.random.key(1), range(config.batch), shape), np.float32
    )
    label = np.arange(config.batch) % sizes.classes
    plan = plans.adams_bashforth(grids.uniform(config.steps), 2)
    setup = model, noise, label, plan
    cells = [
        (n, name, *what)
        for n in config.devices
        if n <= len(jax.devices())
        for name, what in contenders(n).items()
        if not kept.done({"devices": n, "contender": name, "kind": "synchronous"})
    ]
    calls = {}
    for n, name, mesh, options in progress(cells, lambda cell: f"{cell[1]} on {cell[0]}"):
        measured, call = structure(setup, mesh, options)
        if real:
            calls[n, name] = call
        for row in reversed(measured):  # the synchronous one last: it says that the cell is done
            kept.add({"devices": n, "contender": name, "kind": row.pop("kind")}, **row)
    if real:
        for (n, name), (first, steady) in interleaved(
            calls | data_parallel(setup, config.devices), config.repeats
        ).items():
            kept.add(
                {"devices": n, "contender": name, "kind": "seconds"}, first=first, steady=steady
            )
    return kept.rows


def data_parallel(setup, counts):
    """{(devices, name): call} of `jax.pmap` and of the mesh's data axis."""
    calls = {}
    for n in (n for n in counts if n <= len(jax.devices()) and len(setup[1]) % n == 0):
        mesh = parallel.make_mesh(data=n)
        placed = parallel.place(setup[0], mesh)
        calls[n, "data axis"] = lambda mesh=mesh, placed=placed: (
            parallel.sample(placed, *setup[1:], mesh).x
        )
        calls[n, "pmap"] = lambda n=n: sample_pmap(*setup, devices=n)
    return calls


def table(workdir):
    """Print the rows; nothing is drawn."""
    found = records.read(workdir)
    if not any(row["kind"] == "seconds" for row in found):
        print("Devices of a CPU: numbers and the structure of the programs, not speed.")
    print(
        "devices, contender, kind of row: collectives a row; bytes received (formula); bytes kept between rows; compile s"
    )
    for row in found:
        name = f"{row['devices']} {row['contender']:24} {row['kind']:12}"
        if row["kind"] == "seconds":
            print(f"{name} first {row['first']:.3f} s, steady {row['steady']:.4f} s")
            continue
        said = (
            ", ".join(f"{count} {operation}" for operation, count in row["collectives"].items())
            or "none"
        )
        waiting = f" ({row['waiting']} wait for a product)" if row["collectives"] else ""
        print(
            f"{name} {said}{waiting}; {row['bytes']:,} ({row['formula']:,}); {row['buffer']:,}; {row['compile_seconds']:.1f}"
        )
    return []


if __name__ == "__main__":
    jax.config.update(
        "jax_num_cpu_devices", VIRTUAL
    )  # before anything asks for devices; no other platform minds
    main(run, table)
