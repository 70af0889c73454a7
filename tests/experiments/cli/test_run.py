"""The command line of an experiment on a toy: what it refuses, resumes, measures and leaves."""

import dataclasses
import io
import os
import pathlib
import subprocess
import sys
import textwrap
import types

import pytest

from configs.common import shrink
from experiments.cli import flags
from experiments.cli.run import ask, check_names, main, progress
from flowjax import files, records

CONFIG = """
    import dataclasses
    from configs.common import shrink
    from flowjax.records import unrecorded

    @dataclasses.dataclass
    class Inner:
        depth: int = 3

    @dataclasses.dataclass
    class Config:
        steps: tuple[int, ...] = (4, 8, 16)
        samples: int = 100
        rate: float = 0.5
        solver: str = "euler"
        names: tuple[str, ...] = ("a",)
        questions: tuple[str, ...] = unrecorded(())
        model: str = unrecorded("", is_named=True)
        inner: Inner = dataclasses.field(default_factory=Inner)

    def get_config(arg=""):
        return shrink(Config(), arg, quick={"steps": (4, 8), "samples": 10})
"""


class Toy:
    """An experiment that notes what it measures; `stop` interrupts it within that cell."""

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
        files.write_text(path, f"{len(records.read(workdir))} rows")
        return path


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy_config.py").write_text(textwrap.dedent(CONFIG))
    toy = Toy()
    toy.workdir = tmp_path / "runs" / "toy"

    def call(*words, variant="", workdir=True, run=toy.run, **options):
        path = f"--config={tmp_path}/toy_config.py{variant}"
        where = [f"--workdir={toy.workdir}"] if workdir else []
        main(run, toy.report, ["toy.py", path, *where, *words], **options)

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


# ---- one run


def test_run_measures_draws_and_says_where(toy, capsys):
    toy.call("--config.samples=7", "--config.inner.depth=5")
    out = capsys.readouterr().out
    assert toy.measured == [4, 8, 16] and toy.drawn == 1
    assert f"3 rows in {toy.workdir}/rows.jsonl" in out
    assert f"drawn: {toy.workdir}/report.html" in out
    config = records.read_config(toy.workdir)
    assert (config["samples"], config["inner"]["depth"], config["rate"]) == (7, 5, 0.5)
    summary = records.read_summary(toy.workdir)
    assert summary["rows"] == 3 and "--config.samples=7" in summary["command"]


def test_quick_shrinks(toy):
    toy.call(variant=":quick")
    assert toy.measured == [4, 8] and records.read_config(toy.workdir)["samples"] == 10


@pytest.mark.parametrize(
    "words",
    [
        ["--config.names=b, c,DPM++ 2M"],
        ["--config.names", "b,c,DPM++ 2M"],
        ["--config.names='b','c','DPM++ 2M'"],
        ["--config.names=b,c,'DPM++ 2M'"],
    ],
)
def test_names_are_separated_by_commas_and_may_have_spaces(toy, words):
    toy.call(*words)
    assert records.read_config(toy.workdir)["names"] == ["b", "c", "DPM++ 2M"]


def test_nothing_after_the_equals_sign_is_an_empty_tuple_of_any_type(toy, capsys):
    fails(toy.call, capsys, "--config.steps=", "--config.names=")
    config = records.read_config(toy.workdir)
    assert config["steps"] == [] and config["names"] == []


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
    assert str(toy.workdir) in text and "--overwrite" in text
    assert "rate: 0.5 there, 0.25 now" in text
    assert len(toy.measured) == 3 and records.read_config(toy.workdir)["rate"] == 0.5
    toy.call("--config.rate=0.25", "--overwrite")
    assert len(toy.measured) == 6 and records.read_config(toy.workdir)["rate"] == 0.25


# ---- mistakes


@pytest.mark.parametrize(
    "words, message",
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
def test_wrong_command_writes_nothing(toy, capsys, words, message):
    assert message in fails(toy.call, capsys, *words)
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
    words = ["toy.py", f"--config={tmp_path}/dict.py"]
    assert "dict" in fails(lambda: main(toy.run, None, words), capsys)


def test_error_of_the_run_is_one_sentence(toy, capsys):
    message = fails(toy.call, capsys, "--config.solver=unknown")
    assert message.endswith("there is no solver 'unknown'; take 'euler'.")
    with pytest.raises(ValueError, match="no solver"):
        toy.call("--config.solver=unknown", "--traceback")


def test_run_without_rows_is_no_success(toy, capsys):
    assert "left no rows" in fails(toy.call, capsys, "--config.steps=()")
    assert not (toy.workdir / "done.json").exists()


def test_program_ends_with_its_exit_status(toy, tmp_path):
    here = pathlib.Path(__file__)
    program = tmp_path / "toy.py"
    program.write_text(
        "import test_run\ntoy = test_run.Toy()\ntest_run.main(toy.run, toy.report)\n"
    )
    config, workdir = f"--config={tmp_path}/toy_config.py:qiuck", f"--workdir={tmp_path}/w"
    paths = os.pathsep.join([str(here.parents[3]), str(here.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, program, config, workdir], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr.startswith("toy.py: --config=") and done.stderr.count("\n") == 1


def refuse_unknown_solvers(config):
    check_names("solver", config.solver, ("euler", "heun"))


def test_a_wrong_value_is_refused_before_anything_is_written_or_overwritten(toy, capsys):
    words = ["--config.solver=eulre"]
    message = fails(toy.call, capsys, *words, check=refuse_unknown_solvers)
    sentence = "--config.solver: 'eulre' is not known; did you mean 'euler'?"
    assert message.endswith(f"{sentence} The choices are 'euler', 'heun'.")
    assert not toy.workdir.exists()
    toy.call(check=refuse_unknown_solvers)
    fails(toy.call, capsys, *words, "--overwrite", check=refuse_unknown_solvers)
    assert len(records.read(toy.workdir)) == 3


def test_names_are_refused_with_the_near_one():
    check_names("fields", ("ring", "digits"), ("digits", "ring"))
    check_names("fields", (), ("ring",))
    with pytest.raises(ValueError, match="--config.fields: 'rnig' is not known; did you mean 'ri"):
        check_names("fields", ("digits", "rnig"), ("digits", "ring"))


# ---- questions


def question(name, count, measured):
    """A question of `count` cells that notes what it measures."""

    def cells(config):
        return [{"question": name, "cell": cell} for cell in range(count)]

    def measure(config, todo):
        for key in todo:
            measured.append((name, key["cell"]))
            yield key, {"error": config.rate}

    return types.SimpleNamespace(QUESTION=name, cells=cells, measure=measure)


@pytest.fixture
def survey(toy):
    """The toy as an experiment of questions; `survey.questions` may gain some."""
    toy.questions = [question("one", 2, toy.measured), question("two", 1, toy.measured)]

    def call(*words, **options):
        def run(config, workdir):
            return ask(config, workdir, toy.questions)

        toy.call(*words, run=run, questions=toy.questions, **options)

    return types.SimpleNamespace(call=call, toy=toy, questions=toy.questions, workdir=toy.workdir)


def test_a_new_question_of_a_finished_directory_is_measured(survey, capsys):
    survey.call()
    assert survey.toy.measured == [("one", 0), ("one", 1), ("two", 0)]
    survey.questions.append(question("three", 2, survey.toy.measured))
    survey.call()
    assert survey.toy.measured[3:] == [("three", 0), ("three", 1)]
    assert records.read_summary(survey.workdir)["rows"] == 5
    survey.call()
    assert len(survey.toy.measured) == 5 and "only drawn again" in capsys.readouterr().out


def test_a_new_cell_of_a_finished_directory_is_measured(survey):
    survey.call()
    survey.questions[1] = question("two", 3, survey.toy.measured)
    survey.call()
    assert survey.toy.measured[3:] == [("two", 1), ("two", 2)]


def test_only_the_selected_questions_are_measured(survey):
    survey.call("--config.questions=two")
    assert survey.toy.measured == [("two", 0)]
    survey.call("--config.questions=two,one")
    assert survey.toy.measured[1:] == [("one", 0), ("one", 1)]


def test_a_selection_changes_neither_the_configuration_nor_the_command(survey):
    survey.call("--config.questions=two", "--config.samples=7")
    assert "seconds" not in records.read_summary(survey.workdir)
    config = (survey.workdir / "config.json").read_bytes()
    assert b"questions" not in config
    survey.call("--config.questions", "one", "--config.samples=7")
    survey.call("--config.samples=7")
    assert (survey.workdir / "config.json").read_bytes() == config
    assert len({row["config"] for row in records.read(survey.workdir)}) == 1
    # The page gives this command for all its rows, so it must not measure a part of them, and the
    # seconds of a part are not its seconds.
    assert "seconds" not in records.read_summary(survey.workdir)
    command = records.read_summary(survey.workdir)["command"]
    assert "--config.samples=7" in command and "questions" not in command and "one" not in command


def test_the_command_names_what_the_default_does_not_contain(survey):
    survey.call("--config.model=runs/mine/model", "--config.questions=two")
    command = records.read_summary(survey.workdir)["command"]
    assert "--config.model=runs/mine/model" in command and "questions" not in command


def test_a_selection_of_a_finished_directory_is_only_drawn_again(survey, capsys):
    survey.call()
    summary = records.read_summary(survey.workdir)
    survey.call("--config.questions=two")
    assert "only drawn again" in capsys.readouterr().out and len(survey.toy.measured) == 3
    assert records.read_summary(survey.workdir) == summary


def test_an_unknown_question_is_refused_before_anything_is_written(survey, capsys):
    message = fails(survey.call, capsys, "--config.questions=one,tow")
    assert "--config.questions: 'tow' is not known; did you mean 'two'?" in message
    assert not survey.workdir.exists() and not survey.toy.measured


def test_a_misspelt_name_of_the_last_question_is_refused_before_the_first_is_measured(
    survey, capsys
):
    survey.questions[1].check = refuse_unknown_solvers
    assert "did you mean 'heun'?" in fails(survey.call, capsys, "--config.solver=huen")
    assert not survey.workdir.exists() and not survey.toy.measured
    # A question that is not asked has no say.
    survey.call("--config.solver=huen", "--config.questions=one")


def test_every_question_is_checked_without_the_command_line_too(survey, tmp_path):
    survey.questions[1].check = refuse_unknown_solvers
    config = types.SimpleNamespace(solver="huen", rate=1.0)
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        ask(config, tmp_path / "new", survey.questions)
    assert not (tmp_path / "new").exists()


# ---- progress


@pytest.mark.parametrize("live", [False, True])
def test_progress_counts_and_estimates(live):
    stream = io.StringIO()
    stream.isatty = lambda: live
    assert list(progress("abc", every=0.0, stream=stream)) == ["a", "b", "c"]
    text = stream.getvalue()
    assert "0/3 done" in text and "2/3 done" in text and "left, c" in text and "3/3 done" in text
    if live:
        assert text.count("\n") == 1 and "\r" in text
    else:
        lines = text.splitlines()
        assert "\r" not in text and lines[0] == "0/3 done, 00:00 spent, ? left, a"
        assert lines[-1].startswith("3/3 done") and lines[-1].endswith("finished")


def test_progress_is_sparing_in_a_file():
    stream = io.StringIO()
    list(progress(range(1000), every=1000.0, stream=stream))
    assert stream.getvalue().count("\n") == 2


def test_progress_of_nothing_is_silent():
    stream = io.StringIO()
    assert list(progress([], stream=stream)) == [] and not stream.getvalue()


def test_an_interrupted_bar_does_not_claim_to_be_finished():
    stream = io.StringIO()
    bar = progress("abc", every=0.0, stream=stream)
    next(bar)
    bar.close()
    assert "finished" not in stream.getvalue()


# ---- variants


@pytest.mark.parametrize(
    "sizes", [{"steps": (1, 2, 3)}, {"samples": 5}, {"name": "b"}, {"stpes": (1,)}, {"on": False}]
)
def test_variant_only_shrinks(sizes):
    fields = [("steps", tuple, (1, 2)), ("samples", int, 4), ("name", str, "a"), ("on", bool, True)]
    config = dataclasses.make_dataclass("C", fields)()
    with pytest.raises(ValueError, match="variant 'quick'"):
        shrink(config, "quick", quick=sizes)


# ---- None


OPTIONAL = """
    import dataclasses

    @dataclasses.dataclass
    class Config:
        tile: int | None = 4
        share: float | None = 0.5
        gather: str | None = "late"
        name: str = "a"
        steps: int = 3

    def get_config():
        return Config()
"""


@pytest.fixture
def optional(tmp_path):
    """The function words -> the configuration of a command line, with fields that may be None."""
    (tmp_path / "optional.py").write_text(textwrap.dedent(OPTIONAL))

    def parse(*words):
        argv = ["toy", f"--config={tmp_path}/optional.py", "--workdir=w", *words]
        return flags.parse(argv)[0]

    return parse


@pytest.mark.parametrize("field", ["tile", "share", "gather"])
@pytest.mark.parametrize("text", ["None", "none"])
def test_none_is_a_value_of_a_field_that_may_be_none(optional, field, text):
    assert getattr(optional(), field) is not None
    assert getattr(optional(f"--config.{field}={text}"), field) is None
    assert getattr(optional(f"--config.{field}", text), field) is None


def test_none_is_text_or_a_mistake_for_other_fields(optional):
    assert optional("--config.name=None").name == "None"
    assert optional("--config.tile", "7", "--config.share=0.25").tile == 7
    with pytest.raises(ValueError, match="config.steps=None"):
        optional("--config.steps=None")
