"""A contender in a process of its own, which makes a call when it is asked to.

Each contender has its own process and they take turns, because PyTorch and XLA each keep a pool of
threads as large as the machine, because peak memory belongs to a process, and because imports and
compilers of one must not warm up the other. A worker that waits for its turn sleeps on its standard
input.

The worker answers one line of JSON for each line that it is given:

    {"do": "build", "case": {...}}   -> {"first": seconds, "error": number, "device": name}
                                        the seconds of building and of the first call
    {"do": "call"}                   -> {"wall": seconds, "cpu": seconds of all its threads,
                                        "error": number}
    {"do": "memory"}                 -> {"memory": peak bytes of the GPU, else of the process}
    {"do": "prepare", "case": {...}, "export": bool} -> {}                   the reference alone
    {"do": "peak", "rows": 512, "width": 384, "hidden": 1536, "dtype": "float32"}
                                     -> {"peak": operations a second of the library's own products}

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, TextIO

from experiments.benchmarks.case import Case, error

JAX, TORCH = ("flowjax", "JAX loop"), ("torch compile", "torch eager")
REFERENCE = "reference"
# Seconds that the last contender's threads get to fall asleep.
GRACE = 0.2
# First calls compile here and now, and not in an earlier run.
NO_CACHES = {"JAX_ENABLE_COMPILATION_CACHE": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
# Asks another Python for the version of its JAX.
JAX_VERSION = "import importlib.metadata as m; print(m.version('jax'))"

# Several processes hold memory on one GPU, this one among them, so none may take it all in advance.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


# -- seen from the process that gives the turns


class Worker:
    """A contender's process; end it by `close`, or use it in `with`."""

    def __init__(
        self,
        contender: str,
        folder: str | os.PathLike,
        *,
        x64: bool = False,
        python: str = sys.executable,
    ):
        """Start the process.

        Args:
          contender: one of JAX, TORCH and REFERENCE; after a comma its name may go on.
          folder: where its log goes.
          x64: whether JAX has float64.
          python: the Python that runs it.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.contender = contender
        self._log = folder / f"{contender.replace(' ', '_')}.log"
        root = pathlib.Path(__file__).parents[2]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        settings = {**NO_CACHES, "JAX_ENABLE_X64": str(int(x64)), "PYTHONPATH": path}
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "experiments.benchmarks.worker", contender.split(",")[0]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **settings},
            )

    def ask(self, do: str, **message: Any) -> dict:
        """The worker's answer, a dict; RuntimeError with its sentence where it failed."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **message}) + "\n")
            self._process.stdin.flush()
            # An empty line: the process has ended.
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"failed": f"its process ended; see {self._log}"}
        if "failed" in answer:
            raise RuntimeError(f"{self.contender}: {answer['failed']}")
        return answer

    def build(self, case: Case) -> dict:
        """Build a case and call it once."""
        return self.ask("build", case=dataclasses.asdict(case))

    def kill(self) -> None:
        """End the process at once; `ask` fails in a thread that waits for an answer."""
        self._process.kill()

    def close(self) -> None:
        """Let the process end."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:  # it ended before it read its last line
            pass
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.kill()
        self.close()


def taking_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict]]:
    """{name: answers to "call"}: in each round every worker calls once; another one begins it."""
    found = {name: [] for name in workers}
    names = list(workers)
    for i in range(rounds):
        first = i % len(names)
        # So that no contender always runs after the same other one.
        for name in names[first:] + names[:first]:
            time.sleep(GRACE)
            found[name].append(workers[name].ask("call"))
    return found


def missing(contenders: Sequence[str], needs_cuda: bool = False) -> dict[str, str]:
    """{contender: the reason why it cannot run here}; PyTorch is optional."""
    reason = None
    try:
        import diffusers  # noqa: F401
        import torch
    except ImportError as absent:
        reason = f"{absent}; pip install -e '.[parity]' adds it"
    else:
        if needs_cuda and not torch.cuda.is_available():
            reason = "PyTorch is here without CUDA"
    return {name: reason for name in contenders if name in TORCH and reason}


def elsewhere(python: str) -> dict[str, str]:
    """{contender: Python} of flowjax under another Python, named as "flowjax, JAX 0.12.0".

    Raises:
      ValueError: that Python has no JAX.
    """
    try:
        asked = subprocess.run([python, "-c", JAX_VERSION], capture_output=True, text=True)
        if asked.returncode:
            raise OSError(asked.stderr.strip().splitlines()[-1])
    except OSError as error:
        raise ValueError(f"python={python!r} cannot be asked for its JAX: {error}.") from error
    return {f"flowjax, JAX {asked.stdout.strip()}": python}


# -- seen from the contender's own process


def processor() -> str:
    """The processor's name and the number of cores this process may use."""
    information = pathlib.Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {len(os.sched_getaffinity(0))} cores"


def _device(module: ModuleType) -> str:
    """The name of the device that a contender's module runs on."""
    if module.__name__.endswith("with_torch"):
        return module.torch.cuda.get_device_name() if module.DEVICE == "cuda" else processor()
    device = module.jax.devices()[0]
    return processor() if device.platform == "cpu" else device.device_kind


class _Contender:
    """The answers of one contender, by the message's "do"; it holds the last case."""

    def __init__(self, name: str):
        # Only now, so that this process imports its own library and no other.
        library = "with_torch" if name in TORCH else "with_jax"
        self.name = name
        self.module = importlib.import_module(f"experiments.benchmarks.{library}")
        self.case = self.run = self.peak_memory = None

    def _timed(self):
        """(result, seconds) of one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        x = self.module.wait(self.run())
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return x, seconds

    def build(self, case):
        start = time.perf_counter()
        self.case = Case(**case)
        self.run, self.peak_memory = self.module.BUILD[self.name](self.case)
        x, _ = self._timed()
        first = time.perf_counter() - start
        return {"first": first, "error": error(self.case, x), "device": _device(self.module)}

    def call(self):
        x, seconds = self._timed()
        # After the clock has stopped.
        return seconds | {"error": error(self.case, x)}

    def memory(self):
        # Linux counts the resident set in KiB.
        own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"memory": self.peak_memory() or own}

    def prepare(self, case, export):
        self.module.prepare(Case(**case), export)
        return {}

    def peak(self, **sizes):
        return {"peak": self.module.matmul_peak(**sizes)}


def serve(contender: str, lines: Iterable[str], answers: TextIO) -> None:
    """Answer every line of `lines` on `answers`; a failure is an answer, and the worker goes on."""
    served = _Contender(contender)
    actions: dict[str, Callable[..., dict]] = {
        name: getattr(served, name) for name in ("build", "call", "memory", "prepare", "peak")
    }
    for line in lines:
        # Whatever a library raises ends up as one line in the table's notes.
        try:
            message = json.loads(line)
            answer = actions[message.pop("do")](**message)
        except Exception as failure:
            text = " ".join(str(failure).split())[:300]
            answer = {"failed": f"{type(failure).__name__}: {text}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log, not between the answers
    serve(sys.argv[1], sys.stdin, pipe)
