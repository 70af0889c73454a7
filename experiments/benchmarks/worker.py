"""A contender in a process of its own, which calls when it is told to.

Each contender has its own process and they take turns, because PyTorch and XLA each keep a pool of threads as large as
the machine, because peak memory belongs to a process, and because imports and compilers of one must not warm up the
other. A worker that waits for its turn sleeps on its standard input.

The worker answers one line of JSON for each line that it is given:

    {"do": "build", "case": {...}}     -> {"first": seconds of building and the first call, "error": ..., "device": name}
    {"do": "call"}                     -> {"wall": seconds, "cpu": seconds of all its threads}
    {"do": "memory"}                   -> {"memory": peak bytes: of the device on a GPU, else of the process}
    {"do": "prepare", ...}, {"do": "peak", "n": 8192}      the reference alone

and {"failed": sentence} where that went wrong.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from experiments.benchmarks.case import Case, error

JAX, TORCH = ("flowjax", "JAX loop"), ("torch compile", "torch eager")
REFERENCE = "reference"
GRACE = 0.2  # seconds that the last contender's threads get to fall asleep

os.environ.setdefault(
    "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
)  # processes share a GPU, this one among them


class Worker:
    """A contender's process, seen from the one that gives the turns; leave it by `close`, or use it in `with`."""

    def __init__(self, contender, folder, *, x64=False, python=sys.executable):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.contender, self._log = contender, folder / f"{contender.replace(' ', '_')}.log"
        settings = {  # first calls are compiled here and now
            "JAX_ENABLE_COMPILATION_CACHE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "JAX_ENABLE_X64": str(int(x64)),
        }  # fmt: skip
        root = pathlib.Path(__file__).parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "experiments.benchmarks.worker", contender.split(",")[0]],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **settings, "PYTHONPATH": path},
            )  # fmt: skip

    def ask(self, do, **message):
        """The worker's answer, a dict; RuntimeError with its sentence where it failed."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **message}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"failed": f"its process ended; see {self._log}"}
        if "failed" in answer:
            raise RuntimeError(f"{self.contender}: {answer['failed']}")
        return answer

    def build(self, case):
        """Build a case and call it once."""
        return self.ask("build", case=dataclasses.asdict(case))

    def kill(self):
        """End the process at once, whatever it does; a thread that waits for its answer is told so."""
        self._process.kill()

    def close(self):
        """Let the process end."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # it ended before it read its last line
            pass
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.close()


def taking_turns(workers, rounds):
    """{name: answers to "call"}: `rounds` rounds in which every worker calls once, each round from another start."""
    found = {name: [] for name in workers}
    names = list(workers)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            time.sleep(GRACE)
            found[name].append(workers[name].ask("call"))
    return found


def missing(contenders, needs_cuda=False):
    """{contender: the reason why it cannot run here}; PyTorch is optional."""
    try:
        import diffusers  # noqa: F401
        import torch
    except ImportError as reason:
        text = f"{reason}; pip install -e '.[parity]' adds it"
    else:
        text = (
            "PyTorch is here without CUDA" if needs_cuda and not torch.cuda.is_available() else None
        )
    return {name: text for name in contenders if name in TORCH and text}


def elsewhere(python):
    """{contender: Python} for flowjax under another Python: "flowjax, JAX 0.12.0"; ValueError where it has no JAX."""
    try:
        code = "import importlib.metadata as m; print(m.version('jax'))"
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if asked.returncode:
            raise OSError(asked.stderr.strip().splitlines()[-1])
    except OSError as error:
        raise ValueError(f"python={python!r} cannot be asked for its JAX: {error}.") from error
    return {f"flowjax, JAX {asked.stdout.strip()}": python}


def _device(module):
    if module.__name__.endswith("with_torch"):
        return module.torch.cuda.get_device_name() if module.DEVICE == "cuda" else processor()
    device = module.jax.devices()[0]
    return processor() if device.platform == "cpu" else device.device_kind


def processor():
    """The processor's name and the number of cores this process may use."""
    lines = (
        pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if os.path.exists("/proc/cpuinfo")
        else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {len(os.sched_getaffinity(0))} cores"


def _answers(contender):
    """A function message -> answer, which keeps the case that was built last."""
    module = importlib.import_module(
        f"experiments.benchmarks.{'with_torch' if contender in TORCH else 'with_jax'}"
    )
    call = memory = None

    def timed():
        wall, cpu = time.perf_counter(), time.process_time()
        x = module.wait(call())
        return x, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def answer(message):
        nonlocal call, memory
        if message["do"] == "build":
            case, start = Case(**message["case"]), time.perf_counter()
            call, memory = module.BUILD[contender](case)
            x, _ = timed()
            return {
                "first": time.perf_counter() - start,
                "error": error(case, x),
                "device": _device(module),
            }
        if message["do"] == "call":
            return timed()[1]
        if message["do"] == "memory":
            return {"memory": memory() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        if message["do"] == "prepare":
            module.prepare(Case(**message["case"]), message["export"])
            return {}
        return {"peak": module.matmul_peak(message["n"])}

    return answer


def serve(contender, lines, answers):
    """Answer every line of `lines` on `answers`; a failure is an answer, and the worker goes on."""
    answer = _answers(contender)
    for line in lines:
        try:
            told = answer(json.loads(line))
        except (
            Exception
        ) as failure:  # whatever a library raises ends up as one line in the table's notes
            told = {"failed": f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    serve(sys.argv[1], sys.stdin, pipe)
