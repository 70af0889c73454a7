"""The command line of an experiment, end to end on a toy: what it refuses, what it resumes, what it leaves behind."""

import dataclasses
import io
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from configs.common import shrink
from experiments.cli.run import main, progress
from flowjax import records

CONFIG = """
    import dataclasses
    from configs.common import shrink

    @dataclasses.dataclass
    class Inner:
        depth: int = 3

    @dataclasses.dataclass
    class Config:
        steps: tuple[int, ...] = (4, 8, 16)
        samples: int = 100
        rate: float = 0.5
        solver: str = "euler"
        inner: Inner = dataclasses.field(default_factory=Inner)

    def get_config(arg=""):
        return shrink(Config(), arg, quick={"steps": (4, 8), "samples": 10})
"""


class Toy:
    """An experiment that counts what it measures; `stop` interrupts it within that cell."""

    def __init__(self):
        self.measured, self.drawn, self.stop = [], 0, None

    def run(self, config, workdir):
        held = records.Records(workdir, config)
        if config.solver == "unknown":
            raise ValueError("toy.run: there is no solver 'unknown'; take 'euler'.")
        cells = [{"steps": steps} for steps in config.steps]
        for key in progress([key for key in cells if not held.done(key)]):
            if key["steps"] == self.stop:
                raise KeyboardInterrupt
            self.measured.append(key["steps"])
            held.add(key, error=config.rate / key["steps"])
        return held.rows

    def report(self, workdir):
        self.drawn += 1
        path = f"{workdir}/report.html"
        records.write_text(path, f"{len(records.read(workdir))} rows")
        return path


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy_config.py").write_text(textwrap.dedent(CONFIG))
    toy = Toy()
    toy.workdir = tmp_path / "runs" / "toy"

    def call(*words, variant="", workdir=True):
        path = f"--config={tmp_path}/toy_config.py{variant}"
        main(
            toy.run,
            toy.report,
            ["toy.py", path, *([f"--workdir={toy.workdir}"] if workdir else []), *words],
        )

    toy.call = call
    return toy


def fails(call, capsys, *words, status=2, **options):
    """The sentence on stderr of a command that must fail."""
    with pytest.raises(SystemExit) as stopped:
        call(*words, **options)
    assert stopped.value.code == status
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    return text.splitlines()[-1]


def test_run_measures_draws_and_says_where(toy, capsys):
    toy.call("--config.samples=7", "--config.inner.depth=5")
    out = capsys.readouterr().out
    assert toy.measured == [4, 8, 16] and toy.drawn == 1
    assert (
        f"3 rows in {toy.workdir}/rows.jsonl" in out and f"drawn: {toy.workdir}/report.html" in out
    )
    config = records.read_config(toy.workdir)
    assert (config["samples"], config["inner"]["depth"], config["rate"]) == (7, 5, 0.5)
    summary = records.read_summary(toy.workdir)
    assert summary["rows"] == 3 and "--config.samples=7" in summary["command"]


def test_quick_shrinks(toy):
    toy.call(variant=":quick")
    assert toy.measured == [4, 8] and records.read_config(toy.workdir)["samples"] == 10


def test_finished_run_is_only_drawn_again(toy, capsys):
    toy.call()
    summary = records.read_summary(toy.workdir)
    toy.call()
    assert toy.measured == [4, 8, 16] and toy.drawn == 2
    assert "only drawn again" in capsys.readouterr().out
    assert records.read_summary(toy.workdir) == summary


def test_torn_run_goes_on_from_its_whole_rows(toy, capsys):
    toy.call()
    path = toy.workdir / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    toy.call()
    assert toy.measured == [4, 8, 16, 16] and len(records.read(toy.workdir)) == 3
    assert "goes on from there" in capsys.readouterr().out


def test_interrupted_run_goes_on(toy, capsys):
    toy.stop = 8
    assert "goes on" in fails(toy.call, capsys, status=130)
    toy.stop = None
    toy.call()
    assert toy.measured == [4, 8, 16]


def test_other_configuration_is_refused_and_overwritten_on_request(toy, capsys):
    toy.call()
    text = fails(toy.call, capsys, "--config.rate=0.25")
    assert (
        str(toy.workdir) in text and "rate: 0.5 there, 0.25 now" in text and "--overwrite" in text
    )
    assert len(toy.measured) == 3 and records.read_config(toy.workdir)["rate"] == 0.5
    toy.call("--config.rate=0.25", "--overwrite")
    assert len(toy.measured) == 6 and records.read_config(toy.workdir)["rate"] == 0.25


@pytest.mark.parametrize(
    "words, said",
    [
        (["--config.smaples=3"], "config has no field 'smaples'; did you mean 'samples'?"),
        (["--config.inner.depht=3"], "config.inner has no field 'depht'; did you mean 'depth'?"),
        (["--config.samples.x=3"], "config.samples has no field 'x'"),
        (["--config.samples=many"], "config.samples=many"),
        (["--config.steps=4,many"], "'4,many' is no int"),
        (["--config.steps=4,8.5"], "8.5 is no int"),
        (["--wrkdir=x"], "Did you mean: workdir"),
        (["quick"], "'quick' is no flag"),
    ],
)
def test_wrong_command_writes_nothing(toy, capsys, words, said):
    assert said in fails(toy.call, capsys, *words)
    assert not toy.workdir.parent.exists() and not toy.measured


def test_misspelt_variant_names_the_known_ones(toy, capsys):
    text = fails(toy.call, capsys, variant=":qiuck")
    assert "no variant 'qiuck'; did you mean 'quick'? The choices are 'quick'." in text
    assert not toy.workdir.exists()


def test_missing_flags_and_files_are_named(toy, capsys, tmp_path):
    assert "--workdir is needed" in fails(toy.call, capsys, workdir=False)
    assert "there is no file" in fails(toy.call, capsys, variant="x")
    assert "--config is needed" in fails(lambda: main(toy.run, None, ["toy.py"]), capsys)
    (tmp_path / "dict.py").write_text("def get_config():\n    return {}\n")
    assert "dict" in fails(
        lambda: main(toy.run, None, ["toy.py", f"--config={tmp_path}/dict.py"]), capsys
    )


def test_error_of_the_run_is_one_sentence(toy, capsys):
    assert fails(toy.call, capsys, "--config.solver=unknown").endswith(
        "there is no solver 'unknown'; take 'euler'."
    )
    with pytest.raises(ValueError, match="no solver"):
        toy.call("--config.solver=unknown", "--traceback")


def test_run_without_rows_is_no_success(toy, capsys):
    assert "left no rows" in fails(toy.call, capsys, "--config.steps=()")
    assert not (toy.workdir / "done.json").exists()


def test_program_ends_with_its_exit_status(toy, tmp_path):
    root = pathlib.Path(__file__).parents[3]
    (tmp_path / "toy.py").write_text(
        "import test_run\ntoy = test_run.Toy()\ntest_run.main(toy.run, toy.report)\n"
    )
    command = [
        sys.executable,
        tmp_path / "toy.py",
        f"--config={tmp_path}/toy_config.py:qiuck",
        f"--workdir={tmp_path}/w",
    ]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (
        done.returncode == 2
        and done.stderr.startswith("toy.py: --config=")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("live", [False, True])
def test_progress_counts_and_estimates(live):
    stream, now = io.StringIO(), iter(range(0, 1000, 10))
    stream.isatty = lambda: live
    assert list(progress("abc", stream=stream, clock=lambda: next(now))) == ["a", "b", "c"]
    text = stream.getvalue()
    assert "0/3 done" in text and "2/3 done" in text and "left: c" in text and "3/3 done" in text
    assert text.count("\n") == (1 if live else 4)


def test_progress_is_sparing_in_a_file():
    stream = io.StringIO()
    list(progress(range(1000), stream=stream, clock=lambda: 0.0))
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize(
    "sizes", [{"steps": (1, 2, 3)}, {"samples": 5}, {"name": "b"}, {"stpes": (1,)}, {"on": False}]
)
def test_variant_only_shrinks(sizes):
    config = dataclasses.make_dataclass(
        "C", [("steps", tuple, (1, 2)), ("samples", int, 4), ("name", str, "a"), ("on", bool, True)]
    )()
    with pytest.raises(ValueError, match="variant 'quick'"):
        shrink(config, "quick", quick=sizes)
