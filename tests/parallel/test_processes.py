"""Several processes sample as one; when one of them dies the others end, soon and with an error."""

import pathlib
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from flowjax import parallel
from tests.parallel import process_worker

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
WORKER = "tests.parallel.process_worker"


@pytest.fixture
def workers(tmp_path):
    """Two processes that have compiled, and the files that they write."""
    # A port that nobody uses now.
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    files = [tmp_path / f"{rank}.npy" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", WORKER, str(rank), "2", str(port), str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    for process in processes:
        wait_for(process, "compiled")
    yield processes, files
    # A test may have failed while they ran.
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process, word):
    """Read the lines of the process until one is `word`; the library gloo prints lines too."""
    while (line := process.stdout.readline().strip()) != word:
        assert line or process.poll() is None, process.stderr.read()


def say(processes, command):
    """Write a command to the standard input of each."""
    for process in processes:
        process.stdin.write(command + "\n")
        process.stdin.flush()


def test_two_processes_sample_what_one_does(workers):
    processes, files = workers
    say(processes, "once")
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    found = parallel.sample(*process_worker.setting(), attention="stale", key=jax.random.key(3))
    for file in files:
        np.testing.assert_allclose(np.load(file), found.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_dies_the_other_ends_with_an_error(workers, victim):
    """Within the two limits of the worker, and ten seconds for a busy machine."""
    processes, _ = workers
    say(processes, "forever")
    wait_for(processes[1 - victim], "sampled")
    processes[victim].kill()
    start = time.monotonic()
    status = processes[1 - victim].wait(120)
    assert status != 0
    assert time.monotonic() - start < 2 * process_worker.LIMIT + 10
