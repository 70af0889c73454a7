"""Throughput of a large transformer on one GPU, as a share of what the card can do, beside torch.compile."""

import os
import pathlib
import statistics
import tempfile
import threading
import time

import jax

from experiments.benchmarks import flops, overlap, worker
from experiments.benchmarks.case import Case
from experiments.cli.run import main
from flowjax import models, records

CONTENDERS = ("flowjax", "torch compile")
AGREE = 5e-2  # greatest relative error of bfloat16 to the float32 reference


def _case(config, folder, size, batch, dtype="bfloat16"):
    return Case(
        str(folder),
        size,
        config.width,
        config.depth,
        config.heads,
        batch,
        config.steps,
        config.guidance,
        dtype,
    )


def operations(config, size):
    """Operations of one guided image: two forward passes a step."""
    sizes = models.DiTConfig(
        (size, size), 4, 2, config.width, config.depth, config.heads, 1000, out_channels=8
    )
    return 2 * config.steps * flops.forward(sizes)


def _measure(config, case, workers):
    """{contender: values, or {"failed": sentence}} of one case."""
    found = {}
    for name, each in workers.items():
        try:
            found[name] = each.build(case)
        except RuntimeError as reason:  # most often: out of memory
            found[name] = {"failed": str(reason)}
    running = {name: each for name, each in workers.items() if "failed" not in found[name]}
    for name, answers in worker.taking_turns(running, config.repeats).items():
        wall = statistics.median(answer["wall"] for answer in answers)
        found[name] |= workers[name].ask("memory")
        found[name] |= {
            "wall": wall,
            "images_per_second": case.batch / wall,
            "agrees": found[name]["error"] <= AGREE,
        }
        found[name] |= {"flops": operations(config, case.size) * case.batch / wall}
    return found


class Clock:
    """The time that is left; when it is up, the workers given to `end` are killed, and what they were asked fails."""

    def __init__(self, seconds):
        self.end_at, self.workers, self.up = time.monotonic() + seconds, [], False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self):
        self.up = True
        for each in self.workers:
            each.kill()

    def left(self):
        """Seconds."""
        return self.end_at - time.monotonic()

    def stop(self):
        """Count no further and let the workers end."""
        self._timer.cancel()
        for each in self.workers:
            each.kill()
            each.close()


def _start(config, folder, contenders, clock):
    """({contender: worker}, the peak): writes the shared inputs first, with a reference in a process that then ends."""
    reference = worker.Worker(worker.REFERENCE, folder)
    clock.workers.append(reference)
    for i, size in enumerate(config.sizes):
        export = i == 0 and len(contenders) > 1
        reference.ask(
            "prepare", case=vars(_case(config, folder, size, 1, "float32")), export=export
        )
    peak = reference.ask("peak", n=config.peak)["peak"]
    reference.kill()
    workers = {name: worker.Worker(name, folder) for name in contenders}
    clock.workers += workers.values()
    return workers, peak


def _cases(config, kept):
    cells = [{"size": size, "batch": batch} for batch in config.batches for size in config.sizes]
    return [cell for cell in cells if not kept.done(cell)]


def _go(config, kept, folder, contenders, clock):
    """Measure what is left while time is left; a case that the end of the time cuts short leaves no row."""
    workers, peak = _start(config, folder, contenders, clock)
    longest = 0.0
    for cell in _cases(config, kept):
        if clock.left() < longest:
            return
        start = time.monotonic()
        found = _measure(config, _case(config, folder, **cell), workers)
        if clock.up:
            return
        for name, values in found.items():
            kept.add({**cell, "contender": name}, peak=peak, **values)
        longest = max(longest, time.monotonic() - start)


def _gathers(config, kept):
    """Where several GPUs are, what gathering keys and values a layer ahead hides: beside the text, the seconds."""
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    if len(gpus) < 2 or kept.done({"gpus": len(gpus)}):
        return
    sizes = models.DiTConfig(
        (max(config.sizes),) * 2,
        4,
        2,
        config.width,
        config.depth,
        config.heads,
        1000,
        out_channels=8,
        dtype="bfloat16",
    )
    kept.add({"gpus": len(gpus)}, **overlap.measured(sizes, 2, config.steps, config.repeats, gpus))


def run(config, workdir):
    """Measure the cases that `workdir` does not hold yet, for at most `config.seconds`, and return all rows."""
    if config.gpus and not any(device.platform == "gpu" for device in jax.devices()):
        raise ValueError(
            f"this benchmark needs an NVIDIA GPU and jax sees {jax.devices()[0].platform} alone; install the extra cuda12 or "
            "cuda13 where a GPU is, or show that it runs by --config=configs/bench_gpu.py:quick."
        )
    kept = records.Records(workdir, config)
    absent = worker.missing(CONTENDERS, needs_cuda=config.gpus > 0)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")
    clock = Clock(config.seconds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if _cases(config, kept):
                _go(
                    config, kept, folder, [name for name in CONTENDERS if name not in absent], clock
                )
            if clock.left() > 120:  # three programs to compile
                _gathers(config, kept)
    except RuntimeError:
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
            f"the {config.seconds:.0f} s are up; left out: {listed}. The same command goes on from the rows."
        )
        raise SystemExit(0)  # not an error, and not finished: `main` must not mark the run complete
    return kept.rows


def markdown(rows, command):
    """The table for the README."""
    lines = [
        "| image, batch | contender | images/s | TFLOP/s | share of peak | memory, GB | first call, s | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    several = [row for row in rows if "gpus" in row]
    rows = [row for row in rows if "gpus" not in row]
    for row in rows:
        cell = f"| {8 * row['size']}, {row['batch']} | {row['contender']} |"
        if "failed" in row:
            lines.append(f"{cell} {row['failed']} | | | | | |")
            continue
        note = "" if row["agrees"] else " (another result)"
        lines.append(
            f"{cell} {row['images_per_second']:.3g} | {row['flops'] / 1e12:.4g} | {row['flops'] / row['peak']:.1%} | "
            f"{row['memory'] / 1e9:.2f} | {row['first']:.3g} | {row['error']:.1e}{note} |"
        )
    said = [
        f"{row['gpus']} GPUs that share an image: {1e3 * row['gather']:.3g} ms a row that waits for its gathers, "
        f"{1e3 * row['late']:.3g} where they go a layer ahead, {1e3 * row['frozen']:.3g} without them, so {row['hidden']:.0%} of "
        f"their time is hidden; the compiler laid {row['share']:.0%} of a layer's products under each."
        for row in several
    ]
    device = next((row["device"] for row in rows if "device" in row), "no device")
    return "\n".join(
        [
            *lines,
            "",
            *said,
            f"{device}, bfloat16 matmul peak {rows[0]['peak'] / 1e12:.4g} TFLOP/s; `{command}`",
            "",
        ]
    )


def table(workdir):
    """Print the table and write it to table.md."""
    path = pathlib.Path(workdir) / "table.md"
    command = f"python -m experiments.benchmarks.gpu --config=configs/bench_gpu.py --workdir={os.fspath(workdir)}"
    text = markdown(records.read(workdir), command)
    print(text)
    records.write_text(path, text)
    return [path]


if __name__ == "__main__":
    main(run, table)
