"""What a guided sample of a transformer costs beside a Python loop and beside PyTorch, with one network for all."""

import os
import pathlib
import statistics
import sys
import tempfile

from experiments.benchmarks import worker
from experiments.benchmarks.case import Case
from experiments.cli.run import main
from flowjax import records

CONTENDERS = ("flowjax", "JAX loop", "torch compile", "torch eager")
AGREE = {
    "float32": 1e-4,
    "bfloat16": 5e-2,
}  # greatest relative error to the reference of contenders that agree


def _case(config, folder, batch, dtype):
    return Case(
        str(folder),
        config.size,
        config.width,
        config.depth,
        config.heads,
        batch,
        config.steps,
        config.guidance,
        dtype,
    )


def measure(config, folder, contenders, batch, dtype):
    """{contender: values} of one batch and dtype; the contenders are built one after the other, then take turns.

    Args:
      contenders: {name: the Python that runs it}.
    """
    case, workers, found = _case(config, folder, batch, dtype), {}, {}
    try:
        for name, python in contenders.items():
            workers[name] = worker.Worker(name, folder, python=python)
            found[name] = workers[name].build(case)
        for name, answers in worker.taking_turns(workers, config.repeats).items():
            for clock in ("wall", "cpu"):
                found[name][clock] = statistics.median(answer[clock] for answer in answers)
            found[name] |= workers[name].ask("memory")
            found[name] |= {
                "agrees": found[name]["error"] <= AGREE[dtype],
                "load": os.getloadavg()[0],
            }
    finally:
        for each in workers.values():
            each.kill()
            each.close()
    return found


def run(config, workdir):
    """Measure the cases that `workdir` does not hold yet and return all rows."""
    kept = records.Records(workdir, config)
    absent = worker.missing(CONTENDERS)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")
    contenders = dict.fromkeys((name for name in CONTENDERS if name not in absent), sys.executable)
    contenders |= worker.elsewhere(config.python) if config.python else {}
    cases = [(batch, dtype) for dtype in config.dtypes for batch in config.batches]
    cases = [
        (batch, dtype) for batch, dtype in cases if not kept.done({"batch": batch, "dtype": dtype})
    ]
    with tempfile.TemporaryDirectory() as folder:
        if cases:
            with worker.Worker(worker.REFERENCE, folder, x64=True) as reference:
                case = _case(config, folder, max(config.batches), "float64")
                reference.ask("prepare", case=vars(case), export=len(absent) < 2)
        for batch, dtype in cases:
            for name, values in measure(config, folder, contenders, batch, dtype).items():
                kept.add({"batch": batch, "dtype": dtype, "contender": name}, **values)
    return kept.rows


def markdown(rows, command):
    """The table for the README: each case's contenders with their ratio to flowjax."""
    base = {(row["batch"], row["dtype"]): row for row in rows if row["contender"] == "flowjax"}
    lines = [
        "| dtype, images | contender | seconds | times flowjax | CPU seconds | first call, s | peak memory, GB | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row["wall"] / base[row["batch"], row["dtype"]]["wall"]
        lines.append(
            f"| {row['dtype']}, {row['batch']} | {row['contender']} | {row['wall']:.3g} | "
            f"{f'{ratio:.2f}' if row['agrees'] else 'another result'} | {row['cpu']:.3g} | {row['first']:.3g} | "
            f"{row['memory'] / 1e9:.2f} | {row['error']:.1e} |"
        )
    device, load = rows[0]["device"], max(row["load"] for row in rows)
    return "\n".join(
        [*lines, "", f"{device}; load of the machine up to {load:.1f}; `{command}`", ""]
    )


def table(workdir):
    """Print the table and write it to table.md."""
    path = pathlib.Path(workdir) / "table.md"
    command = (records.read_summary(workdir) or {}).get("command", "an unfinished run")
    text = markdown(records.read(workdir), command)
    print(text)
    records.write_text(path, text)
    return [path]


if __name__ == "__main__":
    main(run, table)
