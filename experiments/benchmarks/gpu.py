"""Throughput of a large transformer on one GPU: images a second, and the fraction of the peak."""

import os
import pathlib
import statistics
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import jax

from experiments.benchmarks import overlap, tables, with_jax, worker
from experiments.benchmarks.case import Case
from experiments.cli.run import main
from flowjax import models, records

if TYPE_CHECKING:
    from configs.bench_gpu import Config

CONTENDERS = ("flowjax", "torch compile")
# The greatest relative error of bfloat16 to the float32 reference.
AGREE = 5e-2
# Seconds that compiling the three programs of `_gathers` may take.
COMPILING = 120
HEADER = (
    "| image, batch | contender | images/s | TFLOP/s | share of peak | memory, GB | "
    "first call, s | error |"
)


def _case(
    config: "Config", folder: str | os.PathLike, size: int, batch: int, dtype: str = "bfloat16"
) -> Case:
    return Case.of(config, folder, size, batch, dtype)


def _network(config: "Config", size: int, dtype: str | None = None) -> models.DiTConfig:
    """The network at latents of `size` x `size`."""
    return models.DiTConfig(
        (size, size),
        channels=4,
        patch=2,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        classes=1000,
        out_channels=8,
        dtype=dtype,
    )


def _measure(
    config: "Config", case: Case, workers: dict[str, worker.Worker]
) -> dict[str, dict[str, object]]:
    """{contender: values, or {"failed": sentence}} of one case."""
    found = {}
    for name, each in workers.items():
        try:
            found[name] = each.build(case)
        except RuntimeError as reason:  # most often: out of memory
            found[name] = {"failed": str(reason)}
    # A contender that failed leaves a sentence, and the others go on.
    running = {name: each for name, each in workers.items() if "failed" not in found[name]}
    for name, answers in worker.taking_turns(running, config.repeats).items():
        wall = statistics.median(answer["wall"] for answer in answers)
        values = found[name]
        values |= workers[name].ask("memory")
        values["wall"] = wall
        values["images_per_second"] = case.batch / wall
        values["agrees"] = values["error"] <= AGREE
        values["flops"] = with_jax.operations(case) / wall
    return found


class Clock:
    """The time that is left; when it is over, the workers are killed, and their `ask` fails."""

    def __init__(self, seconds: float):
        self.end_at = time.monotonic() + seconds
        self.workers = []
        self.up = False
        self._timer = threading.Timer(seconds, self._end)
        # It must not hold the process after its end.
        self._timer.daemon = True
        self._timer.start()

    def _end(self):
        self.up = True
        for each in self.workers:
            each.kill()

    def left(self) -> float:
        """Seconds."""
        return self.end_at - time.monotonic()

    def stop(self) -> None:
        """Count no further and let the workers end."""
        self._timer.cancel()
        for each in self.workers:
            each.kill()
            each.close()


def _start(
    config: "Config", folder: str, contenders: list[str], clock: Clock
) -> tuple[dict[str, worker.Worker], float]:
    """({contender: worker}, the peak), after the reference has written the shared inputs."""
    reference = worker.Worker(worker.REFERENCE, folder)
    clock.workers.append(reference)
    for i, size in enumerate(config.sizes):
        case = _case(config, folder, size, 1, "float32")
        # One set of weights serves all sizes, and only PyTorch reads it.
        export = i == 0 and len(contenders) > 1
        reference.ask("prepare", case=vars(case), export=export)
    n = config.peak
    peak = reference.ask("peak", rows=n, width=n, hidden=n, dtype="bfloat16")["peak"]
    # It would hold memory of the GPU that the contenders need.
    reference.kill()
    workers = {name: worker.Worker(name, folder) for name in contenders}
    clock.workers += workers.values()
    return workers, peak


def _cases(config: "Config", kept: records.Records) -> list[dict[str, int]]:
    """The cells that are not measured yet."""
    cells = [{"size": size, "batch": batch} for batch in config.batches for size in config.sizes]
    return [cell for cell in cells if not kept.done(cell)]


def _go(
    config: "Config", kept: records.Records, folder: str, contenders: list[str], clock: Clock
) -> None:
    """Measure what is left while time is left; a case that is cut short leaves no row."""
    workers, peak = _start(config, folder, contenders, clock)
    longest = 0.0
    for cell in _cases(config, kept):
        # The next case takes at least about as long as the longest one before it.
        if clock.left() < longest:
            return
        start = time.monotonic()
        found = _measure(config, _case(config, folder, **cell), workers)
        if clock.up:
            return
        for name, values in found.items():
            kept.add({**cell, "contender": name}, peak=peak, **values)
        longest = max(longest, time.monotonic() - start)


def _gathers(config: "Config", kept: records.Records) -> None:
    """Where several GPUs are, how much of the gathers' time hides when they run a layer ahead."""
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    if len(gpus) < 2 or kept.done({"gpus": len(gpus)}):
        return
    network = _network(config, max(config.sizes), "bfloat16")
    found = overlap.measured(network, 2, config.steps, config.repeats, gpus)
    kept.add({"gpus": len(gpus)}, **found)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet, for at most `config.seconds`; return all rows."""
    # Before anything is written.
    if config.gpus and not any(device.platform == "gpu" for device in jax.devices()):
        raise ValueError(
            f"this benchmark needs an NVIDIA GPU and jax sees {jax.devices()[0].platform} alone; "
            "install the extra cuda12 or cuda13 where a GPU is, or show that it runs by "
            "--config=configs/bench_gpu.py:quick."
        )
    kept = records.Records(workdir, config)
    absent = worker.missing(CONTENDERS, needs_cuda=config.gpus > 0)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")
    present = [name for name in CONTENDERS if name not in absent]

    clock = Clock(config.seconds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if _cases(config, kept):
                _go(config, kept, folder, present, clock)
            if clock.left() > COMPILING:
                _gathers(config, kept)
    except RuntimeError:
        # A worker that the clock has killed fails; any other failure is an error.
        if not clock.up:
            raise
    finally:
        clock.stop()

    left = _cases(config, kept)
    if left:
        if kept.rows:
            table(workdir)
        listed = ", ".join(f"{8 * cell['size']} px batch {cell['batch']}" for cell in left)
        print(
            f"the {config.seconds:.0f} s are up; left out: {listed}. "
            "The same command goes on from the rows."
        )
        raise SystemExit(0)  # not an error, and not finished: `main` must not mark the run complete
    return kept.rows


def _line(row: dict) -> str:
    """The line of one case and contender in the table."""
    cell = f"| {8 * row['size']}, {row['batch']} | {row['contender']} |"
    if "failed" in row:
        return f"{cell} {row['failed']} | | | | | |"
    note = "" if row["agrees"] else " (another result)"
    return (
        f"{cell} {row['images_per_second']:.3g} | {row['flops'] / 1e12:.4g} | "
        f"{row['flops'] / row['peak']:.1%} | {row['memory'] / 1e9:.2f} | {row['first']:.3g} | "
        f"{row['error']:.1e}{note} |"
    )


def _sentence(row: dict) -> str:
    """What several GPUs showed, from a row of `_gathers`."""
    return (
        f"{row['gpus']} GPUs that share an image: {1e3 * row['gather']:.3g} ms a row that waits "
        f"for its gathers, {1e3 * row['late']:.3g} where they go a layer ahead, "
        f"{1e3 * row['frozen']:.3g} without them, so {row['hidden']:.0%} of their time is hidden; "
        f"the compiler laid {row['share']:.0%} of a layer's products under each."
    )


def markdown(rows: list[dict], command: str) -> str:
    """The table for the README."""
    # The row of `_gathers` stands below the table.
    several = [row for row in rows if "gpus" in row]
    single = [row for row in rows if "gpus" not in row]
    lines = [HEADER, "|---|---|---|---|---|---|---|---|", *map(_line, single)]
    device = next((row["device"] for row in single if "device" in row), "no device")
    peak = f"{single[0]['peak'] / 1e12:.4g}"
    last = f"{device}, bfloat16 matmul peak {peak} TFLOP/s; `{command}`"
    return "\n".join([*lines, "", *map(_sentence, several), last, ""])


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    # A run that time cuts short has no summary with its command.
    program = "python -m experiments.benchmarks.gpu --config=configs/bench_gpu.py"
    return tables.write(workdir, markdown, program)


if __name__ == "__main__":
    main(run, table)
