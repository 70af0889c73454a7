"""A certificate of the program for one GPU: claims, each held against the compiled text."""

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

import flowjax
from experiments.benchmarks import tables
from experiments.cli.run import main, progress
from flowjax import Plan, grids, guidance, models, plans, records
from flowjax.models import networks
from flowjax.models.attention import fused_attention
from flowjax.parallel.analysis import costs, kernels, overlap

if TYPE_CHECKING:
    from configs.certificate import Config

# Plans of one length, which must have one program.
PLANS: dict[str, Callable[[int], Plan]] = {
    "DPM-Solver++ 2M": lambda n: plans.dpm_solver_pp(flowjax.Linear(), grids.uniform(n), 2),
    "Adams-Bashforth 3, shift 3": lambda n: plans.adams_bashforth(grids.uniform(n, shift=3), 3),
    "UniPC 3": lambda n: plans.unipc(flowjax.Linear(), grids.uniform(n), 3),
}
# Temporary memory may be this many times the widest array of a layer in float32, and what
# libraries work in. Both numbers were set before a program was looked at.
ARRAYS = 4
WORKSPACE = 64 * 2**20
# Behind the name of a program that has no fused attention; the certificate must notice it.
PLAIN = " plain"
CARD = re.compile(r"device_memory_size: (\d+)")
# {claim: the title of its column}
CLAIMS = {
    "attention": "fused attention",
    "products": "large products in bfloat16",
    "host": "never waits for the host",
    "memory": "temporary memory within the bound",
    "card": "fits the card",
    "plans": "one program for all plans",
}


class Program(NamedTuple):
    """A program for the card, and what it was made from.

    Attributes:
      sizes: of the network.
      lowered: {plan: the text before compilation}.
      compiled: of the first plan.
      seconds: of the compilation.
    """

    sizes: networks.Config
    lowered: dict[str, str]
    compiled: jax.stages.Compiled
    seconds: float


# -- the program


def network(config: "Config", program: str) -> networks.Config:
    """The sizes of the network of a program, such as "DiT-XL/2 512" or "SANA-1.6B/1024"."""
    name, _, pixels = program.removesuffix(PLAIN).partition(" ")
    changes = {"dtype": config.dtype}
    if pixels:
        # The autoencoder of DiT makes one latent of 8 x 8 pixels.
        changes["size"] = (int(pixels) // 8,) * 2
    sizes = models.preset(name, **changes)
    return dataclasses.replace(sizes, depth=min(sizes.depth, config.layers))


def compiled(config: "Config", program: str) -> Program:
    """The `Program` of guided sampling as the README writes it: one jit with all as arguments."""
    sizes = network(config, program)
    card = models.Card(program, sizes)
    # The process has no GPU, so the network would not choose the fused kernel by itself.
    is_plain = networks.is_linear(sizes) or program.endswith(PLAIN)
    attention = None if is_plain else fused_attention

    def run(params, condition, noise, plan):
        def velocity(x, t, condition):
            return card.velocity(params, x, t, condition, attention=attention)

        branches = card.branches(condition)
        model = guidance.classifier_free(velocity, *branches, config.guidance)
        return flowjax.sample(model, noise, plan).x

    (device,) = overlap.topology("cuda", "1x1x1", target_config=config.gpu)
    place = jax.sharding.SingleDeviceSharding(device)
    jitted = jax.jit(run, in_shardings=place, out_shardings=place)
    # Plans are arguments with their numbers, as a user passes them.
    shapes = arguments(config, sizes)
    lowered = {name: jitted.lower(*shapes, make(config.steps)) for name, make in PLANS.items()}
    began = time.perf_counter()
    found = next(iter(lowered.values())).compile(config.gpu_flags)
    seconds = time.perf_counter() - began
    texts = {name: each.as_text() for name, each in lowered.items()}
    return Program(sizes, texts, found, seconds)


def arguments(config: "Config", sizes: networks.Config) -> tuple:
    """Shapes of (parameters, condition, noise): nothing is computed."""

    def number(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

    batch = config.batch
    params = jax.tree.map(
        lambda leaf: number(*leaf.shape, dtype=config.dtype), networks.network(sizes).shapes()
    )
    condition = number(batch, dtype="int32")
    if networks.takes_text(sizes):
        text = number(batch, costs.TEXT, sizes.caption), number(batch, costs.TEXT)
        condition = models.Condition(*text, *text)
    return params, condition, number(batch, *sizes.size, sizes.channels)


# -- the claims


def bound(sizes: networks.Config, batch: int) -> int:
    """Bytes that the temporary memory of a guided program may have.

    4 times the widest array of a layer in float32, which is the input of the MLP's activation,
    (2 B, L, hidden), and 64 MiB in which libraries work.

    Args:
      sizes: of the network.
      batch: B.
    """
    if networks.is_linear(sizes):
        hidden = 2 * sizes.hidden  # before the gate
    else:
        hidden = int(sizes.mlp_ratio * sizes.width)
    return ARRAYS * 2 * batch * sizes.tokens * hidden * 4 + WORKSPACE


def certificate(config: "Config", program: Program) -> list[dict]:
    """One row for each of CLAIMS: what was found, what was wanted, and whether the claim holds."""
    text, sizes = program.compiled.as_text(), program.sizes
    found = kernels.products(text)
    memory = program.compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes
    on_card = temporary + memory.argument_size_in_bytes + memory.output_size_in_bytes
    most = bound(sizes, config.batch)
    room = int(CARD.search(config.gpu)[1])
    texts = len(set(program.lowered.values()))
    stops = kernels.stops(text)
    return [
        {"claim": "attention", **_attention(found, sizes, config.steps)},
        {"claim": "products", **_products(config, found, sizes)},
        {"claim": "host", "found": stops, "holds": not stops},
        {"claim": "memory", "found": temporary, "wanted": most, "holds": temporary <= most},
        {"claim": "card", "found": on_card, "wanted": room, "holds": on_card <= room},
        {"claim": "plans", "found": texts, "wanted": 1, "holds": texts == 1},
    ]


def _attention(found: list[kernels.Product], sizes: networks.Config, rows: int) -> dict:
    """Calls of the fused kernel: one in each layer and row; None is wanted of linear attention."""
    calls = sum(each.times for each in found if each.form == kernels.FUSED_ATTENTION)
    if networks.is_linear(sizes):
        return {"found": calls, "wanted": None, "holds": None}
    return {"found": calls, "wanted": rows * sizes.depth, "holds": calls == rows * sizes.depth}


def _products(config: "Config", found: list[kernels.Product], sizes: networks.Config) -> dict:
    """How many large products there are, those that do not multiply `config.dtype`, and the rest.

    `share` is the fraction of the operations of all products that are in `config.dtype`.
    """
    work = costs.work(sizes)
    layer = sizes.tokens * (work.token + sizes.tokens * work.pair) + work.sample
    least = config.large * 2 * config.batch * layer
    wanted = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[config.dtype]
    large = [each for each in found if each.operations >= least]
    others = [each for each in large if set(each.types) != {wanted}]

    def operations(group):
        return sum(each.operations * each.times for each in group)

    return {
        "found": len(large),
        "others": [each._asdict() for each in others],
        "least": least,
        "forms": sorted({each.form for each in large}),
        "share": operations([e for e in found if set(e.types) == {wanted}]) / operations(found),
        "wanted": 0,
        # A program in which no product is recognised would prove nothing.
        "holds": bool(large) and not others,
    }


# -- the run


def check(config: "Config") -> None:
    """Refuse a program that no network has."""
    for program in config.programs:
        network(config, program)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Certify the programs that `workdir` lacks, and return all rows."""
    check(config)
    reason = overlap.missing("cuda")
    if reason:
        raise ValueError(f"{reason}.")
    kept = records.Records(workdir, config)
    last = list(CLAIMS)[-1]
    todo = [name for name in config.programs if not kept.done({"program": name, "claim": last})]
    for name in progress(todo):
        program = compiled(config, name)
        for row in certificate(config, program):
            key = {"program": name, "claim": row.pop("claim")}
            # A run that was killed may have written a part of them.
            if not kept.done(key):
                kept.add(key, **row, seconds=program.seconds, layers=program.sizes.depth)
    return kept.rows


# -- the table


def markdown(rows: list[dict], command: str) -> str:
    """A line for each program and a column for each claim, with what was found."""
    programs = list(dict.fromkeys(row["program"] for row in rows))
    lines = [
        f"| program | {' | '.join(CLAIMS.values())} | compiled in, s |",
        "|---|" + "---|" * (len(CLAIMS) + 1),
    ]
    for program in programs:
        own = {row["claim"]: row for row in rows if row["program"] == program}
        cells = [_cell(own[claim]) if claim in own else "" for claim in CLAIMS]
        seconds = next(iter(own.values()))["seconds"]
        lines.append(f"| {program} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join([*lines, "", f"`{command}`", ""])


def _cell(row: dict) -> str:
    """Whether a claim holds, and what was found, in words."""
    verdict = {True: "yes", False: "**no**", None: "none"}[row["holds"]]
    return f"{verdict}: {WORDS[row['claim']](row)}"


def _attention_words(row: dict) -> str:
    if row["wanted"] is None:
        return "linear attention"
    return f"{row['found']} calls of {row['wanted']}"


def _product_words(row: dict) -> str:
    kinds = sorted({"x".join(each["types"]) for each in row["others"]})
    others = f", {len(row['others'])} of them {', '.join(kinds)}" if kinds else ""
    return f"{row['found']} large{others}; {row['share']:.2%} of operations"


def _host_words(row: dict) -> str:
    found = row["found"]
    return ", ".join(f"{n} {name}" for name, n in found.items()) or "no transfer, no open loop"


def _memory_words(row: dict) -> str:
    return f"{row['found'] / 1e9:.2f} of {row['wanted'] / 1e9:.2f} GB"


def _plan_words(row: dict) -> str:
    return f"{row['found']} for {len(PLANS)} solvers"


# {claim: what was found, in words}
WORDS: dict[str, Callable[[dict], str]] = {
    "attention": _attention_words,
    "products": _product_words,
    "host": _host_words,
    "memory": _memory_words,
    "card": _memory_words,
    "plans": _plan_words,
}


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    return tables.write(workdir, markdown)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the card that is compiled for is not here
    main(run, table, check=check)
