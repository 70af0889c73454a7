"""A certificate of overlap: what a program for TPU or GPU computes during each collective."""

import functools
import os
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

import flowjax
from experiments.benchmarks import tables
from experiments.benchmarks.parallel import BRANCHES
from experiments.cli.run import main, progress
from experiments.lab.timing import interleaved
from flowjax import grids, models, parallel, plans, records
from flowjax.errors import check_choice
from flowjax.parallel import traffic
from flowjax.parallel.analysis import overlap
from flowjax.parallel.stale import rows as stale

if TYPE_CHECKING:
    from configs.overlap import Config

# {name: options of `parallel.sample`}
CONTENDERS = {
    "gather": {"attention": "gather"},
    "early": {"attention": "stale", "gather": "early"},
    "late": {"attention": "stale"},
    "ring": {"attention": "ring"},
    "ulysses": {"attention": "ulysses"},
    # A network with linear attention, whose devices exchange sums over keys.
    "linear": {"attention": "gather"},
    "linear-stale": {"attention": "stale"},
}
LINEAR = ("linear", "linear-stale")
# The kind of the row about the program itself. It comes last, so it shows that the cell is done.
PROGRAM = "whole"
HEADER = (
    "| machine | attention | loop | kind of row | collectives | MB received | GFLOP of a pass | "
    "behind each | temporary, MiB |"
)

# {"machine": ..., "contender": ...}
Cell = dict[str, str]


# -- programs for machines that are not here


def certificate(config: "Config", machine: str, contender: str) -> list[dict]:
    """Rows of one program: one for each collective, and one for the program itself.

    Args:
      config: the sizes.
      machine: the name of a TPU topology, or "GPU:4".
      contender: one of CONTENDERS.
    """
    devices, flags = target(config, machine)
    sizes = network(config, contender)
    mesh = parallel.make_mesh(seq=len(devices), devices=devices)
    plan = plans.adams_bashforth(grids.uniform(config.steps), 2)
    options = CONTENDERS[contender]
    is_stale = options["attention"] == "stale"

    # Compile.
    began = time.perf_counter()
    program = overlap.compiled(
        sizes, config.batch, plan, mesh, dtype=config.dtype, compiler_options=flags, **options
    )
    seconds = time.perf_counter() - began

    # One row for each collective.
    found = [
        {
            "kind": _kind(each.branch, is_stale),
            "number": number,
            "loop": _loop(each.times, config.steps, sizes.depth),
            **each._asdict(),
            "received": each.received,
            "share": each.share,
        }
        for number, each in enumerate(overlap.overlaps(program.as_text()))
    ]

    # And one for the program.
    memory = program.memory_analysis()
    buffer = 0
    if is_stale and contender not in LINEAR:
        shape = (config.batch, *config.size, sizes.channels)
        gather = options.get("gather", "late")
        buffer = traffic.buffer(sizes, shape, mesh, gather, 1.0, config.dtype)
    last = {
        "kind": PROGRAM,
        "number": len(found),
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "buffer": buffer,
        "seconds": seconds,
    }
    return [*found, last]


def network(config: "Config", contender: str) -> models.networks.Config:
    """The sizes of a contender's network; one with linear attention draws for labels here."""
    if contender in LINEAR:
        # The text has no part in what devices exchange.
        return models.preset(config.linear_network, dtype=config.dtype, classes=1000, caption=None)
    return models.preset(config.network, size=config.size, depth=config.layers, dtype=config.dtype)


def _kind(branch: int | None, is_stale: bool) -> str:
    """The kind of plan row that takes this branch; exact attention has no branches."""
    return BRANCHES.get(branch, "all") if is_stale else BRANCHES[stale.SYNC]


def _loop(times: int, steps: int, layers: int) -> str | None:
    """The loop that runs a collective so many times; None outside of the loops."""
    if times >= steps * layers:
        return "layers"
    return "rows" if times >= steps else None


def platform(machine: str) -> str:
    """The platform whose compiler knows a machine: "cuda" for "GPU:4", else "tpu"."""
    return "cuda" if machine.startswith("GPU:") else "tpu"


def target(config: "Config", machine: str) -> tuple[Sequence[jax.Device], dict | None]:
    """(the devices of a machine, options of the compiler for it)."""
    if platform(machine) == "cuda":
        name = machine.replace("GPU:", "1x1x")
        return overlap.topology("cuda", name, target_config=config.gpu), config.gpu_flags
    # "v5e:2x2+flags" is compiled with `config.flags`.
    name, _, flagged = machine.partition("+")
    return overlap.topology("tpu", name), config.flags if flagged else None


def cells(config: "Config") -> list[Cell]:
    """All programs of a config; an unknown contender is refused."""
    programs = [*config.programs, *(f"GPU:{program}" for program in config.gpus)]
    programs += config.linear_programs
    found = []
    for program in programs:
        # "v5e:2x2 late": a machine and a contender.
        machine, _, contender = program.rpartition(" ")
        check_choice("experiments.benchmarks.overlap", "contender", contender, tuple(CONTENDERS))
        found.append({"machine": machine, "contender": contender})
    return found


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Certify what `workdir` lacks, for the platforms whose compiler is here; return all rows."""
    wanted = cells(config)

    # Which compilers are here.
    platforms = sorted({platform(cell["machine"]) for cell in wanted})
    absent = {name: overlap.missing(name) for name in platforms}
    here = [cell for cell in wanted if not absent[platform(cell["machine"])]]
    if not here:
        raise ValueError("; ".join(absent.values()) + ".")
    print(*(f"left out: {reason}." for reason in absent.values() if reason), sep="\n")
    # A machine that its compiler does not know is refused before anything is written.
    for cell in here:
        target(config, cell["machine"])

    # Compile and read what is not certified yet.
    kept = records.Records(workdir, config)
    todo = [cell for cell in here if not _certified(kept, cell)]
    for cell in progress(todo, lambda cell: f"{cell['contender']} for {cell['machine']}"):
        for row in certificate(config, **cell):
            key = {**cell, "kind": row.pop("kind"), "number": row.pop("number")}
            # A run that was killed may have written a part of the cell.
            if not kept.done(key):
                kept.add(key, **row)

    if not all(_certified(kept, cell) for cell in wanted):
        table(workdir)
        print("the same command measures what was left out, where its compiler is.")
        raise SystemExit(0)  # not an error, and not finished: `main` must not mark the run complete
    return kept.rows


def _certified(kept: records.Records, cell: Cell) -> bool:
    """Whether all rows of a cell are there."""
    return kept.done({**cell, "kind": PROGRAM})


# -- devices that are here


def measured(
    sizes: models.DiTConfig, batch: int, steps: int, repeats: int, devices: Sequence[jax.Device]
) -> dict[str, float]:
    """How much of the gathers' time hides when they run a layer ahead, on real devices.

    A compiled text does not show seconds. Three programs are timed: a row that waits for its
    gathers ("gather"), one that gathers a layer ahead ("late"), and one that sends nothing
    ("frozen").

    Args:
      sizes: a `DiTConfig`.
      batch, steps: images and rows of the plan; all rows but the first are of the kind that is
        named.
      repeats: timed calls of each, in turn.
      devices: which work on one image together.

    Returns:
      {"gather", "late", "frozen": seconds of a row, "hidden": (gather - late) / (gather - frozen),
      "share": the fraction of a layer's products that the compiler laid under a late gather, with
      the kernels for these devices}.
    """
    mesh = parallel.make_mesh(seq=len(devices), devices=devices)
    plan = plans.adams_bashforth(grids.uniform(steps), 2)
    model = models.init(sizes, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(sizes.dtype or leaf.dtype), model.params)
    model = model._replace(params=params)
    noise = flowjax.draw_noise(jax.random.key(1), range(batch), (*sizes.size, sizes.channels))

    calls, fractions = {}, {}
    for name in ("gather", "late", "frozen"):
        options = CONTENDERS.get(name, {"attention": "stale", "refresh": None})
        run, args, _ = parallel.program(model, noise, None, plan, mesh, **options)
        program = run.lower(*args).compile()
        calls[name] = functools.partial(program, *args)
        # The collectives in the loop over layers, in the branch of rows that exchange.
        inside = [
            each.share
            for each in overlap.overlaps(program.as_text())
            if each.times >= steps * sizes.depth and each.branch == stale.EXCHANGE
        ]
        fractions[name] = min(inside, default=0.0)

    seconds = {name: steady / steps for name, (_, steady) in interleaved(calls, repeats).items()}
    # Of the seconds that gathers add to a row, those that gathering ahead saves.
    hidden = (seconds["gather"] - seconds["late"]) / (seconds["gather"] - seconds["frozen"])
    return {**seconds, "hidden": hidden, "share": fractions["late"]}


# -- the table


def markdown(rows: list[dict], command: str) -> str:
    """The table: what hides under what in the loops over rows and layers."""
    lines = [HEADER, "|---|---|---|---|---|---|---|---|---|"]
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    contenders = list(CONTENDERS)

    def order(item):
        machine, contender = item[0]
        return machines.index(machine), contenders.index(contender)

    for (machine, contender), cell in sorted(
        _grouped(rows, ("machine", "contender")).items(), key=order
    ):
        program = next((row for row in cell if row["kind"] == PROGRAM), None)
        # A run that was killed may have begun it.
        if program is None:
            continue
        inside = [row for row in cell if row.get("loop")]
        for (loop, kind), group in sorted(_grouped(inside, ("loop", "kind")).items()):
            operations = ", ".join(sorted({row["operation"] for row in group}))
            lines.append(
                f"| {machine} | {contender} | {loop} | {kind} | {len(group)} {operations} | "
                f"{sum(row['received'] for row in group) / 1e6:.3g} | "
                f"{group[0]['body'] / 1e9:.1f} | {', '.join(map(_behind, group))} | "
                f"{program['temporary'] / 2**20:.0f} |"
            )
    return "\n".join([*lines, "", f"`{command}`", ""])


def _behind(row: dict) -> str:
    """How much of the loop's products stand behind a collective, in words."""
    return f"{row['share']:.1%}" if row["asynchronous"] else "synchronous"


def _grouped(rows: list[dict], by: Sequence[str]) -> dict[tuple, list[dict]]:
    """{values of the fields `by`: the rows that have them}, in order."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return groups


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    program = "python -m experiments.benchmarks.overlap --config=configs/overlap.py"
    return tables.write(workdir, markdown, program)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the machines that are compiled for are not here
    main(run, table, check=cells)
