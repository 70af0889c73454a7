"""What a guided sample of one transformer costs beside a Python loop and beside PyTorch."""

import os
import pathlib
import statistics
import sys
import tempfile
from typing import TYPE_CHECKING

from experiments.benchmarks import tables, with_jax, worker
from experiments.benchmarks.case import Case
from experiments.cli.run import main
from flowjax import records
from flowjax.errors import check_choice

if TYPE_CHECKING:
    from configs.bench_transformer import Config

CONTENDERS = ("flowjax", "JAX loop", "torch compile", "torch eager")
# {dtype: greatest relative error to the reference of contenders that compute the same thing}
AGREE = {"float32": 1e-4, "bfloat16": 5e-2}
HEADER = (
    "| dtype, images | contender | seconds | times flowjax | own products, GFLOP/s | "
    "share of matmul peak | CPU seconds | first call, s | peak memory, GB | error |"
)


def measure(
    config: "Config",
    folder: str | os.PathLike,
    contenders: dict[str, str],
    batch: int,
    dtype: str,
) -> dict[str, dict]:
    """{contender: values} of one batch and dtype; the contenders are built, then they take turns.

    Args:
      config: the sizes.
      folder: of the shared inputs and the workers' logs.
      contenders: {name: the Python that runs it}.
      batch, dtype: of the case.
    """
    case = Case.of(config, folder, config.size, batch, dtype)
    workers, found = {}, {}
    try:
        for name, python in contenders.items():
            workers[name] = worker.Worker(name, folder, python=python)
            found[name] = workers[name].build(case)
        for name, answers in worker.taking_turns(workers, config.repeats).items():
            values = found[name]
            for clock in ("wall", "cpu"):
                values[clock] = statistics.median(answer[clock] for answer in answers)
            # After the calls: it is the peak.
            values |= workers[name].ask("memory")
            values["agrees"] = values["error"] <= AGREE[dtype]
            values["load"] = os.getloadavg()[0]
            values["operations"] = with_jax.operations(case)
            values |= workers[name].ask("peak", **_product(config, batch, dtype))
    finally:
        # Also after an error: a worker that nobody asks would wait for ever.
        for each in workers.values():
            each.kill()
            each.close()
    return found


def _product(config: "Config", batch: int, dtype: str) -> dict[str, int | str]:
    """The largest matrix products of the network: those of the MLP, for both branches of guidance.

    The arguments of `matmul_peak`.
    """
    tokens = (config.size // 2) ** 2
    return {
        "rows": 2 * batch * tokens,
        "width": config.width,
        "hidden": 4 * config.width,
        "dtype": dtype,
    }


def check(config: "Config") -> None:
    """Refuse a dtype that no contender has, before anything is measured."""
    for dtype in config.dtypes:
        check_choice("experiments.benchmarks.transformer", "dtypes", dtype, tuple(AGREE))


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure the cases that `workdir` does not hold yet and return all rows."""
    check(config)
    kept = records.Records(workdir, config)

    # Who takes part.
    absent = worker.missing(CONTENDERS)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")
    contenders = {name: sys.executable for name in CONTENDERS if name not in absent}
    contenders |= worker.elsewhere(config.python) if config.python else {}

    # What is not measured yet.
    cases = [(batch, dtype) for dtype in config.dtypes for batch in config.batches]
    cases = [each for each in cases if not kept.done(dict(zip(("batch", "dtype"), each)))]
    with tempfile.TemporaryDirectory() as folder:
        if cases:
            # In a process of its own, which ends before anything is timed.
            with worker.Worker(worker.REFERENCE, folder, x64=True) as reference:
                case = Case.of(config, folder, config.size, max(config.batches), "float64")
                # The exported weights are for PyTorch alone; both its contenders may be absent.
                reference.ask("prepare", case=vars(case), export=len(absent) < 2)
        for batch, dtype in cases:
            for name, values in measure(config, folder, contenders, batch, dtype).items():
                kept.add({"batch": batch, "dtype": dtype, "contender": name}, **values)
    return kept.rows


def _cell(row: dict) -> tuple[int, str]:
    """Batch and dtype of a row."""
    return row["batch"], row["dtype"]


def markdown(rows: list[dict], command: str) -> str:
    """The table: each case's contenders with their ratio to flowjax.

    The matmul peak of a case is that of the contender whose own products are the fastest.
    """
    base = {_cell(row): row for row in rows if row["contender"] == "flowjax"}
    peaks = {cell: max(row["peak"] for row in rows if cell == _cell(row)) for cell in base}
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    for row in rows:
        ratio = row["wall"] / base[_cell(row)]["wall"]
        # Time without the right result is no result, so it gets no ratio.
        times = f"{ratio:.2f}" if row["agrees"] else "another result"
        share = row["operations"] / row["wall"] / peaks[_cell(row)]
        lines.append(
            f"| {row['dtype']}, {row['batch']} | {row['contender']} | {row['wall']:.3g} | "
            f"{times} | {row['peak'] / 1e9:.0f} | {share:.2f} | "
            f"{row['cpu']:.3g} | {row['first']:.3g} | "
            f"{row['memory'] / 1e9:.2f} | {row['error']:.1e} |"
        )
    device = rows[0]["device"]
    load = max(row["load"] for row in rows)
    return "\n".join(
        [*lines, "", f"{device}; load of the machine up to {load:.1f}; `{command}`", ""]
    )


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    return tables.write(workdir, markdown)


if __name__ == "__main__":
    main(run, table, check=check)
