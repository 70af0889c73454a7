"""One image on many devices: what a device holds, receives and takes, by formula and compiled."""

import dataclasses
import functools
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from configs.scale import MACHINES, Machine
from experiments.benchmarks import certificate, scale_table, tables
from experiments.cli.run import main, progress
from experiments.latency import layouts, planning
from flowjax import grids, parallel, plans, records
from flowjax.errors import check_choice
from flowjax.models import networks
from flowjax.parallel import traffic
from flowjax.parallel.analysis import costs, latency, memory, overlap
from flowjax.parallel.analysis.latency import Seconds
from flowjax.parallel.mesh import without_devices

if TYPE_CHECKING:
    from configs.scale import Config

METHODS = ("exact", "stale")
LINEAR = {"exact": ("gather",), "stale": ("stale",)}
SOFTMAX = {"exact": planning.EXACT, "stale": ("stale",)}
# What sets the time of a layer, in the order of formula (1) of `analysis.latency`.
LIMITS = ("products", "weights", "floor")


# -- formulas


def paper(config: "Config", machine: str, network: str, devices: int, method: str) -> dict | None:
    """What one device holds, receives and takes; None where no layout has so many devices.

    Args:
      config: the sizes.
      machine: a key of `configs.scale.MACHINES`.
      network: as `certificate.network` takes it.
      devices: that share one image, and all work.
      method: one of `METHODS`; "exact" is the quickest exact attention.
    """
    sizes = certificate.network(config, network)
    here = MACHINES[machine]
    work = latency.work(sizes)
    fits = _layouts(sizes, work, devices, method)
    if not fits:
        return None
    layout = min(fits, key=lambda each: _step(config, each, work, sizes, here).total)
    step = _step(config, layout, work, sizes, here)
    rows = latency.masked(config.steps, config.warmup)
    run = layouts.seconds(layout, work, sizes.tokens, rows, here.device, samples=config.batch)
    mesh = without_devices(layout.seq, layout.cfg)
    shape = (config.batch, *sizes.size, sizes.channels)
    held = memory.of_device(sizes, shape, mesh, layout.attention, config.guidance, config.dtype)
    own = _own(layout, sizes)
    return {
        "layout": str(layout),
        "attention": layout.attention,
        "tokens": own,
        **held._asdict(),
        "total": held.total,
        "room": here.memory,
        "received": received(config, sizes, layout, mesh),
        "step": step.total,
        "compute": step.compute,
        "exposed": step.exposed,
        "seconds": run.total,
        "limit": limit(config, layout, work, sizes, here),
    }


def _layouts(sizes, work, devices, method) -> list[layouts.Layout]:
    """The layouts of exactly so many devices; rows of SANA's tokens stay on one device."""
    linear = networks.is_linear(sizes)
    every = (LINEAR if linear else SOFTMAX)[method]
    found = layouts.layouts(work, sizes.tokens, devices, 1, every)
    most = sizes.tokens // networks.tokens_together(sizes, sizes.size)
    return [each for each in found if np.prod(each.seq) <= most]


def _own(layout: layouts.Layout, sizes: networks.Config) -> int:
    """Tokens of one sample on one device."""
    return -(-sizes.tokens // int(np.prod(layout.seq)))


def _step(config, layout, work, sizes, here: Machine) -> Seconds:
    """The `Seconds` of one step far from the start."""
    longer, first = (
        layouts.seconds(
            layout, work, sizes.tokens, latency.masked(rows, 1), here.device, samples=config.batch
        )
        for rows in (config.steps + 1, 1)
    )
    return Seconds(*((a - b) / config.steps for a, b in zip(longer, first, strict=True)))


def limit(
    config: "Config",
    layout: layouts.Layout,
    work: costs.Work,
    sizes: networks.Config,
    here: Machine,
) -> str:
    """What sets the time of a layer: one of `LIMITS`."""
    samples = 2 * config.batch // layout.cfg
    own = _own(layout, sizes)
    only = here.device._replace(memory=np.inf, floor=0.0)
    products, _ = costs.layer(work, only, samples, own, sizes.tokens, 2)
    full, _ = costs.layer(work, here.device, samples, own, sizes.tokens, 2)
    if full == products:
        return LIMITS[0]
    return LIMITS[2] if full == here.device.floor else LIMITS[1]


def received(
    config: "Config",
    sizes: networks.Config,
    layout: layouts.Layout,
    mesh: jax.sharding.AbstractMesh,
) -> int:
    """Bytes that one device receives from others in one step, by `flowjax.parallel.traffic`."""
    shape = (config.batch, *sizes.size, sizes.channels)
    settings = sizes, shape, mesh
    if networks.is_linear(sizes):
        rows = traffic.linear_rows(*settings, config.guidance, config.dtype, np.ones(1, bool))
        return int(rows[0, 1])
    if layout.attention == "stale":
        return int(traffic.stale_row(*settings, config.guidance, config.dtype)[0])
    rows = traffic.exact_rows(*settings, layout.attention, config.guidance, config.dtype, 1)
    return int(rows[0, 0])


# -- compiled programs


def compiled(config: "Config", topology: str, attention: str, network: str) -> dict[str, Any]:
    """Arguments and temporary bytes of the program for a device, beside the formula.

    The two branches of guidance have their own devices. A SANA draws for labels here: the text has
    no part in what devices exchange.
    """
    sizes = certificate.network(config, network)
    if networks.is_linear(sizes):
        sizes = dataclasses.replace(sizes, classes=1000, caption=None)
    devices = overlap.topology("tpu", topology)
    mesh = parallel.make_mesh(cfg=2, seq=len(devices) // 2, devices=devices)
    plan = plans.adams_bashforth(grids.uniform(config.steps), 2)
    began = time.perf_counter()
    program = overlap.compiled(
        sizes,
        config.batch,
        plan,
        mesh,
        dtype=config.dtype,
        guidance=config.guidance,
        attention=attention,
    )
    found = program.memory_analysis()
    shape = (config.batch, *sizes.size, sizes.channels)
    held = memory.of_device(sizes, shape, mesh, attention, config.guidance, config.dtype)
    return {
        "devices": len(devices),
        "arguments": found.argument_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        **held._asdict(),
        "compiling": time.perf_counter() - began,
    }


# -- the run


def check(config: "Config") -> None:
    """Refuse machines and networks that there are not, before anything is computed."""
    for machine in config.machines:
        check_choice("scale", "machines", machine, MACHINES)
    for network in config.networks:
        certificate.network(config, network)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Compute what `workdir` lacks, compile what it lacks, and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    for machine in config.machines:
        for network in config.networks:
            for devices in config.devices:
                for method in METHODS:
                    key = dict(machine=machine, network=network, devices=devices, method=method)
                    found = None if kept.done(key) else paper(config, **key)
                    if found:
                        kept.add(key, **found)
    if not _compile(config, kept):
        table(workdir)
        print("the same command compiles what was left out, where the compiler is.")
        raise SystemExit(0)  # not an error, and not finished: `main` must not mark the run complete
    return kept.rows


def _compile(config: "Config", kept: records.Records) -> bool:
    """Compile the programs that are not kept, and return whether all are there now."""
    names = ("topology", "attention", "network")
    cells = [dict(zip(names, each.split(" ", 2), strict=True)) for each in config.programs]
    todo = [cell for cell in cells if not kept.done(cell)]
    reason = overlap.missing("tpu") if todo else None
    if reason:
        print(f"{len(todo)} programs are left out: {reason}.")
        return False
    for cell in progress(todo, lambda cell: " ".join(cell.values())):
        kept.add(cell, **compiled(config, **cell))
    return True


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the page and write it to table.md."""
    config = records.read_config(workdir)
    page = functools.partial(scale_table.markdown, shown=config["shown"], pays=config["pays"])
    # A run without the compiler for TPU has no summary with its command.
    program = "python -m experiments.benchmarks.scale --config=configs/scale.py"
    return tables.write(workdir, page, program)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the machines that are compiled for are not here
    main(run, table, check=check)
