"""A certificate of overlap: what stands between the start and the end of every collective of a program for TPU or GPU."""

import functools
import os
import pathlib
import time

import jax

import flowjax
from experiments.benchmarks.parallel import BRANCHES
from experiments.cli.run import main, progress
from experiments.lab.timing import interleaved
from flowjax import grids, models, parallel, plans, records
from flowjax.errors import check_choice
from flowjax.parallel import traffic
from flowjax.parallel.analysis import overlap
from flowjax.parallel.stale import rows as stale

CONTENDERS = {
    "gather": {"attention": "gather"},
    "early": {"attention": "stale", "gather": "early"},
    "late": {"attention": "stale"},
    "ring": {"attention": "ring"},
    "ulysses": {"attention": "ulysses"},
}
WHOLE = "whole"  # the kind of the row that speaks of the program; it comes last, and says that the cell is done


def certificate(config, machine, contender):
    """Rows of one program: one for each collective, and one for the whole."""
    devices, flags = target(config, machine)
    sizes = models.preset(config.network, size=config.size, depth=config.layers, dtype=config.dtype)
    mesh = parallel.make_mesh(seq=len(devices), devices=devices)
    plan = plans.adams_bashforth(grids.uniform(config.steps), 2)
    options = CONTENDERS[contender]
    began = time.perf_counter()
    program = overlap.compiled(
        sizes, config.batch, plan, mesh, dtype=config.dtype, compiler_options=flags, **options
    )
    seconds, memory = time.perf_counter() - began, program.memory_analysis()
    is_stale = options["attention"] == "stale"
    found = [
        {"kind": BRANCHES.get(each.branch, "all") if is_stale else BRANCHES[stale.SYNC], "number": number,
         "loop": "layers" if each.times >= config.steps * config.layers else "rows" if each.times >= config.steps else None,
         **each._asdict(), "received": each.received, "share": each.share}
        for number, each in enumerate(overlap.overlaps(program.as_text()))
    ]  # fmt: skip
    shape = (config.batch, *config.size, sizes.channels)
    kept = (
        traffic.buffer(sizes, shape, mesh, options.get("gather", "late"), 1.0, config.dtype)
        if is_stale
        else 0
    )
    whole = {
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "buffer": kept,
    }
    return [*found, {"kind": WHOLE, "number": len(found), **whole, "seconds": seconds}]


def platform(machine):
    """What the compiler for a machine is asked under: "cuda" for "GPU:4", else "tpu"."""
    return "cuda" if machine.startswith("GPU:") else "tpu"


def target(config, machine):
    """(the devices of a machine, options of the compiler for it)."""
    if platform(machine) == "cuda":
        name = machine.replace("GPU:", "1x1x")
        return overlap.topology("cuda", name, target_config=config.gpu), config.gpu_flags
    name, _, flagged = machine.partition("+")
    return overlap.topology("tpu", name), config.flags if flagged else None


def run(config, workdir):
    """Certify what `workdir` does not hold yet, for the platforms whose compiler is here, and return all rows."""
    asked = [*config.programs, *(f"GPU:{program}" for program in config.gpus)]
    asked = [
        dict(zip(("machine", "contender"), program.rpartition(" ")[::2], strict=True))
        for program in asked
    ]
    for cell in asked:
        check_choice(
            "experiments.benchmarks.overlap", "contender", cell["contender"], tuple(CONTENDERS)
        )
    absent = {
        name: overlap.missing(name)
        for name in sorted({platform(cell["machine"]) for cell in asked})
    }
    here = [cell for cell in asked if not absent[platform(cell["machine"])]]
    if not here:
        raise ValueError("; ".join(absent.values()) + ".")
    print(*(f"left out: {reason}." for reason in absent.values() if reason), sep="\n")
    for cell in here:  # what cannot be compiled is refused before anything is
        target(config, cell["machine"])
    kept = records.Records(workdir, config)
    cells = [cell for cell in here if not kept.done({**cell, "kind": WHOLE})]
    for cell in progress(cells, lambda cell: f"{cell['contender']} for {cell['machine']}"):
        for row in certificate(config, **cell):
            key = {**cell, "kind": row.pop("kind"), "number": row.pop("number")}
            if not kept.done(key):  # of a cell that a killed run began
                kept.add(key, **row)
    if not all(kept.done({**cell, "kind": WHOLE}) for cell in asked):
        table(workdir)
        print("what was left out is asked by the same command, where its compiler is.")
        raise SystemExit(0)  # not an error, and not finished: `main` must not mark the run complete
    return kept.rows


def measured(sizes, batch, steps, repeats, devices):
    """What a device's text cannot tell, on devices that are here: seconds of a row that waits for its gathers, gathers a layer
    ahead, or says nothing, and the share of the gathers' seconds that gathering ahead hides.

    Args:
      sizes: a `DiTConfig`.
      batch, steps: images and rows of the plan; all rows but the first are of the kind that is named.
      repeats: timed calls of each, in turn.
      devices: which share an image.

    Returns:
      {"gather", "late", "frozen": seconds of a row, "hidden": (gather - late) / (gather - frozen), "share": of a layer's
      products that the compiler laid under a late gather, with the kernels that it chose on these devices}.
    """
    mesh, plan = (
        parallel.make_mesh(seq=len(devices), devices=devices),
        plans.adams_bashforth(grids.uniform(steps), 2),
    )
    model = models.init(sizes, jax.random.key(0))
    model = model._replace(
        params=jax.tree.map(lambda leaf: leaf.astype(sizes.dtype or leaf.dtype), model.params)
    )
    noise = flowjax.draw_noise(jax.random.key(1), range(batch), (*sizes.size, sizes.channels))
    calls, shares = {}, {}
    for name in ("gather", "late", "frozen"):
        options = CONTENDERS.get(name, {"attention": "stale", "refresh": None})
        run, args, _ = parallel.program(model, noise, None, plan, mesh, **options)
        program = run.lower(*args).compile()
        inside = [
            each
            for each in overlap.overlaps(program.as_text())
            if each.times >= steps * sizes.depth
        ]
        shares[name] = min(
            (each.share for each in inside if each.branch == stale.EXCHANGE), default=0.0
        )
        calls[name] = functools.partial(program, *args)
    seconds = {name: steady / steps for name, (_, steady) in interleaved(calls, repeats).items()}
    hidden = (seconds["gather"] - seconds["late"]) / (seconds["gather"] - seconds["frozen"])
    return {**seconds, "hidden": hidden, "share": shares["late"]}


def markdown(rows, command):
    """The table: what hides under what in the loops over rows and layers."""
    lines = [
        "| machine | attention | loop | kind of row | collectives | MB received | GFLOP of a pass | behind each | temporary, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    machines, contenders = list(dict.fromkeys(row["machine"] for row in rows)), list(CONTENDERS)
    order = lambda item: (machines.index(item[0][0]), contenders.index(item[0][1]))
    for (machine, contender), cell in sorted(
        _grouped(rows, ("machine", "contender")).items(), key=order
    ):
        whole = next((row for row in cell if row["kind"] == WHOLE), None)
        if whole is None:  # a killed run began it
            continue
        inside = [row for row in cell if row.get("loop")]
        for (loop, kind), group in sorted(_grouped(inside, ("loop", "kind")).items()):
            said = ", ".join(sorted({row["operation"] for row in group}))
            shares = ", ".join(
                f"{row['share']:.1%}" if row["asynchronous"] else "synchronous" for row in group
            )
            lines.append(
                f"| {machine} | {contender} | {loop} | {kind} | {len(group)} {said} | "
                f"{sum(row['received'] for row in group) / 1e6:.3g} | {group[0]['body'] / 1e9:.1f} | {shares} | "
                f"{whole['temporary'] / 2**20:.0f} |"
            )
    return "\n".join([*lines, "", f"`{command}`", ""])


def _grouped(rows, by):
    """{values of the fields `by`: the rows that have them}, in order."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return groups


def table(workdir):
    """Print the table and write it to table.md."""
    path = pathlib.Path(workdir) / "table.md"
    command = f"python -m experiments.benchmarks.overlap --config=configs/overlap.py --workdir={os.fspath(workdir)}"
    text = markdown(records.read(workdir), command)
    print(text)
    records.write_text(path, text)
    return [path]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the machines that are compiled for are not here
    main(run, table)
