"""Images by label from the command line: what an image depends on, what is refused, what lies in the work directory."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flowjax
from configs.sample import Config
from experiments import images, labels, sample
from flowjax import models
from flowjax.models import DiTConfig

ROOT = pathlib.Path(__file__).parents[1]
SIZES = DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)


def random_model(sizes=SIZES, **card):
    """A network whose every parameter is random: at its own start it returns zeros."""
    model = models.init(sizes, jax.random.key(0), **{"name": "toy", **card})
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.3 * jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(keys, leaves, strict=True)]
    return model._replace(params=jax.tree.unflatten(tree, drawn))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command on the toy model; returns the work directory."""
    model = random_model(details={"labels": ["circle, disc", "square", "star"]})
    monkeypatch.setattr(models, "load", lambda path: model, raising=False)
    monkeypatch.chdir(ROOT)
    workdir = tmp_path / "out"

    def run(*words, config="configs/sample_digits.py", workdir=workdir):
        quick = ["--config.steps=3", "--config.count=2", "--config.labels=0,1,2"]
        sample.main(["sample", f"--config={config}", f"--workdir={workdir}", *quick, *words])
        return workdir

    return run


def refused(run, capsys, *words, **options):
    """The one sentence with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        run(*words, **options)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "Traceback" not in said
    return said.splitlines()[-1]


def contents(workdir):
    with np.load(workdir / "samples.npz") as found:
        return {name: found[name] for name in found.files}


def by_name(workdir):
    found = contents(workdir)
    names = zip(found["labels"].tolist(), found["index"].tolist(), strict=True)
    return dict(zip(names, found["images"], strict=True))


def test_command_writes_png_numbers_and_settings(command, capsys):
    workdir = command()
    found = contents(workdir)
    assert found["images"].shape == (6, 4, 4, 1) and found["images"].dtype == np.float32 and np.all(found["finite"])
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2] and found["index"].tolist() == [0, 1] * 3
    assert np.all(np.abs(found["images"]) <= 1)
    settings = images.read_settings(workdir / "samples.png")
    assert settings == json.loads(str(found["settings"]))
    assert settings["config"]["steps"] == settings["nfe"] == 3 and "--config.steps=3" in settings["command"]
    assert settings["labels"] == [[0, "circle, disc"], [1, "square"], [2, "star"]]
    assert settings["environment"]["jax"] == jax.__version__
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and "6 images, 3 evaluations each" in said.out and "samples.png" in said.out
    assert "3/3 done" in said.err
    assert sorted(path.name for path in workdir.iterdir()) == ["samples.npz", "samples.png"]


def test_png_shows_the_images_a_row_a_label(command):
    workdir = command()
    shown = np.asarray(Image.open(workdir / "samples.png"))
    expected = np.rint(127.5 * (contents(workdir)["images"] + 1))
    for i, image in enumerate(expected):  # 4 x 4 pixels are magnified to 64 x 64, and 2 pixels lie between
        top, left = 66 * (i // 2), 66 * (i % 2)
        assert np.array_equal(shown[top : top + 64 : 16, left : left + 64 : 16], image.repeat(3, axis=-1))


def test_image_depends_on_seed_label_and_index_only(command, tmp_path):
    draws_noise = "--config.solver=dpm_solver_sde"  # at the start and in its steps
    whole = by_name(command(draws_noise, workdir=tmp_path / "whole"))
    alone = by_name(command(draws_noise, "--config.batch=1", workdir=tmp_path / "alone"))
    words = ["--config.labels=star,1", "--config.count=3", "--config.batch=4"]  # the last batch is padded
    order = by_name(command(draws_noise, *words, workdir=tmp_path / "order"))
    assert alone.keys() == whole.keys() and len(order.keys() & whole.keys()) == 4
    for again in (alone, order):
        for key in again.keys() & whole.keys():
            np.testing.assert_allclose(again[key], whole[key], atol=1e-4, rtol=0)


def test_noise_depends_on_seed_label_and_index():
    wanted = np.array([[0, 0], [0, 1], [1, 0]])
    drawn = [sample.noise_of(seed, wanted, (2, 2, 1)) for seed in (0, 1)]
    for part in (
        np.concatenate([noise for noise, _ in drawn]),
        np.concatenate([jax.random.key_data(k) for _, k in drawn]),
    ):
        assert len(np.unique(part.reshape(6, -1), axis=0)) == 6


def test_images_are_those_of_the_library(command):
    found = by_name(command("--config.guidance=2.0"))
    model, label, index = models.load("toy"), 2, 1
    noise = flowjax.draw_noise(jax.random.fold_in(jax.random.key(0), label), [index], (4, 4, 1)).astype(jnp.float32)
    grid = flowjax.grids.uniform(3)
    velocity = lambda x, t, c: model.apply(model.params, x, t, jnp.array([c]))
    guided = lambda x, t: 2 * velocity(x, t, label) - velocity(x, t, 3)
    plan = flowjax.plans.dpm_solver_pp(flowjax.Linear(), grid, 2)
    expected = np.clip(flowjax.sample(guided, noise, plan).x[0], -1, 1)
    np.testing.assert_allclose(found[label, index], expected, atol=1e-5, rtol=0)


def config_of(**changes):
    return Config(**{"model": "toy", "labels": "0", "steps": 3, **changes})


def test_bar_changes_no_number():
    model, config, seen = random_model(), config_of(guidance_interval=(0.5, 0.9)), []
    noise, label = jax.random.normal(jax.random.key(2), (2, 4, 4, 1), jnp.float32), jnp.array([0, 2])
    plan = sample.plan_of(config, model.card)
    run = lambda model: jax.jit(lambda plan: sample.draw(model, noise, label, plan, config).x)(plan)
    told = run(sample.ticking(model, lambda: seen.append(1)))
    jax.effects_barrier()
    assert np.array_equal(told, run(model)) and len(seen) == plan.rows


@pytest.mark.parametrize("name", sample.SOLVERS)
def test_every_solver_makes_its_plan_on_both_kinds_of_path(name):
    for schedule in (flowjax.Linear(), flowjax.VPDiscrete.linear()):
        card = models.Card("toy", SIZES, schedule=schedule)
        plan = sample.plan_of(config_of(solver=name, steps=6, shift=2.0), card)
        assert plan.steps == 6 and plan.grid[1] == pytest.approx(2 * (5 / 6) / (1 + 5 / 6))


def test_imagenet_has_a_thousand_names():
    card = models.Card("toy", DiTConfig((4, 4), channels=4, patch=2, width=8, depth=1, heads=2, classes=1000))
    names = labels.names_of(card)
    assert len(names) == 1000 and (names[0], names[999].split(",")[0]) == ("tench, Tinca tinca", "toilet tissue")
    asked = "388, tench,Golden  Retriever, red panda, maillot, cardigan, null"
    assert [n for n, _ in labels.numbers(asked, card)] == [388, 0, 207, 387, 638, 474, 1000]
    assert labels.numbers("giant panda", card) == [(388, names[388])]


@pytest.mark.parametrize(
    "text, said",
    [
        ("panda", "ambiguous: 387 (lesser panda), 388 (giant panda)"),
        ("crane", "ambiguous: 134 (crane), 517 (crane)"),
        ("gaint panda", "388 (giant panda)"),
        ("1001", "wanted a number from 0 to 999, a name such as 'tench', or 'null'"),
        ("-1", "from 0 to 999"),
        ("388, giant panda", "'giant panda' is '388' again"),
        (" , ", "wanted names or numbers"),
    ],
)
def test_wrong_label_is_named_with_the_nearest(text, said):
    card = models.Card("toy", DiTConfig((4, 4), channels=4, patch=2, width=8, depth=1, heads=2, classes=1000))
    with pytest.raises(ValueError) as error:
        labels.numbers(text, card)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--config.labels=3"], "label '3' of toy: wanted a number from 0 to 2"),
        (["--config.labels=cirle"], "near are 0 (circle)"),
        (["--config.solver=eulre"], "did you mean 'euler'?"),
        (["--config.solver=scheduler"], "toy came without a scheduler_config.json"),
        (["--config.grid=unifrom"], "did you mean 'uniform'?"),
        (["--config.order=3", "--config.steps=2"], "2 step(s) are too few for order 3"),
        (["--config.size=4,5"], "both multiples of 2, its patch"),
        (["--config.size=4"], "wanted (height, width)"),
        (["--config.dtype=float64"], "dtype='float64' is not known"),
        (["--config.count=0"], "count=0; wanted at least 1"),
        (["--config.batch=0"], "batch=0; wanted at least 1"),
        (["--config.guidance_interval=0.5,"], "wanted (low, high)"),
        (["--config.gudance=2"], "did you mean 'guidance'?"),
    ],
)
def test_wrong_command_writes_nothing(command, capsys, tmp_path, words, said):
    assert said in refused(command, capsys, *words)
    assert not list(tmp_path.iterdir())


def test_other_images_are_kept_unless_told(command, capsys):
    workdir = command()
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    command()
    assert "--overwrite draws them again" in capsys.readouterr().out
    assert "seed: 0 there, 5 now" in refused(command, capsys, "--config.seed=5")
    assert before == {path.name: path.read_bytes() for path in workdir.iterdir()}
    command("--config.seed=5", "--overwrite")
    assert images.read_settings(workdir / "samples.png")["config"]["seed"] == 5
    (workdir / "samples.npz").write_bytes(b"something else")
    assert "was not written by this program" in refused(command, capsys)


def test_directory_that_cannot_be_written_to_is_named(command, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in refused(command, capsys, workdir=tmp_path / "file" / "inside")


def test_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.png"
    path.write_text("old")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ValueError, match="cannot be written .No space left"):
        images.save_png(path, np.zeros((2, 2, 3), np.uint8), {})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_settings_are_read_from_our_files_only(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        images.read_settings(tmp_path / "none.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match="holds no settings"):
        images.read_settings(tmp_path / "other.png")


def test_grid_pads_clips_and_refuses_latents():
    shown = images.grid(np.array([-2.0, 0.0, np.nan])[:, None, None, None] * np.ones((3, 64, 64, 1)), 2, gap=1)
    assert shown.shape == (129, 129, 3)
    assert [shown[y, x, 0] for y, x in ((0, 0), (0, 64), (0, 65), (65, 0), (65, 65))] == [0, 255, 128, 0, 255]
    with pytest.raises(ValueError, match="decode latents first"):
        images.grid(np.zeros((1, 4, 4, 4)))
