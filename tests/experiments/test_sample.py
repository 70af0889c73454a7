"""Images by label: what an image depends on, what is refused, what the work directory holds."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flowjax
from configs.sample import Config
from experiments import sample
from experiments.cli import archive, flags, images, labels, mesh
from flowjax import models, parallel
from flowjax.models import DiTConfig
from flowjax.parallel import options
from flowjax.parallel.options import Options

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "models"
SIZES = DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)
NINE = dict(size=(4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=9)
THOUSAND = dict(size=(4, 4), channels=4, patch=2, width=8, depth=1, heads=2, classes=1000)
IMAGENET = models.Card("toy", DiTConfig(**THOUSAND))
HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


@pytest.fixture(scope="module", autouse=True)
def toy():
    """A small network in the place of the shipped "digits"."""
    labels = ["circle, disc", "square", "star"]
    model = models.init(SIZES, jax.random.key(0), name="toy", details={"labels": labels})
    # At its own start a network returns zeros, so every parameter is drawn.
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        0.3 * jax.random.normal(k, leaf.shape, jnp.float32)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    model = model._replace(params=jax.tree.unflatten(tree, drawn))
    load = models.load

    def load_toy(path, **options):
        return model if path == "digits" else load(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", load_toy)
        yield model


def command(workdir, *words, config="sample_digits"):
    """Run the command line in small."""
    quick = ["--config.steps=3", "--config.count=2"]
    if config == "sample_digits":
        quick.append("--config.labels=0,1,2")
    path = f"--config={ROOT}/configs/{config}.py"
    sample.main(["sample", path, f"--workdir={workdir}", *quick, *words])


# This solver draws noise at the start and in its steps.
SDE = "--config.solver=dpm_solver_sde"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(work directory, stdout, stderr) of one run."""
    workdir = tmp_path_factory.mktemp("drawn") / "new" / "folder"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        command(workdir, SDE)
    return workdir, out.getvalue(), err.getvalue()


def refused(capsys, *words, **options):
    """The one sentence with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        command(*words, **options)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "Traceback" not in message
    return message.splitlines()[-1]


def contents(workdir):
    with np.load(workdir / "samples.npz") as found:
        return {name: found[name] for name in found.files}


def by_name(workdir):
    """{(label, index): image}."""
    found = contents(workdir)
    names = zip(found["labels"].tolist(), found["index"].tolist(), strict=True)
    return dict(zip(names, found["images"], strict=True))


def test_command_writes_png_numbers_and_settings(drawn):
    workdir, out, err = drawn
    found = contents(workdir)
    # The numbers.
    assert found["images"].shape == (6, 4, 4, 1) and found["images"].dtype == np.float32
    assert np.all(found["finite"])
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2] and found["index"].tolist() == [0, 1] * 3
    assert np.all(np.abs(found["images"]) <= 1)
    # The settings, in both files.
    settings = images.read_settings(workdir / "samples.png")
    assert settings == json.loads(str(found["settings"]))
    assert settings["config"]["steps"] == settings["nfe"] == 3
    assert "--config.steps=3" in settings["command"]
    assert settings["labels"] == [[0, "circle, disc"], [1, "square"], [2, "star"]]
    assert settings["environment"]["jax"] == jax.__version__
    # The report, and nothing else in the directory.
    assert out.count("\n") == 1
    assert "6 images, 3 evaluations each" in out and f"{workdir}/samples.png" in out
    assert "3/3 done" in err
    assert sorted(path.name for path in workdir.iterdir()) == ["samples.npz", "samples.png"]


def test_png_shows_the_images_a_row_a_label(drawn):
    with Image.open(drawn[0] / "samples.png") as image:
        shown = np.asarray(image)
    expected = np.rint(127.5 * (contents(drawn[0])["images"] + 1))
    for i, image in enumerate(expected):
        # 4 x 4 pixels are magnified to 64 x 64, and 2 pixels lie between.
        top, left = 66 * (i // 2), 66 * (i % 2)
        corners = shown[top : top + 64 : 16, left : left + 64 : 16]
        assert np.array_equal(corners, image.repeat(3, axis=-1))


def test_image_depends_on_seed_label_and_index_only(drawn, tmp_path):
    together = by_name(drawn[0])
    # One by one; and other labels in another order, whose last batch is filled up by 2.
    command(tmp_path / "alone", SDE, "--config.batch=1")
    other = ["--config.labels=star,1", "--config.count=3", "--config.batch=4"]
    command(tmp_path / "order", SDE, *other)
    alone, order = by_name(tmp_path / "alone"), by_name(tmp_path / "order")
    assert alone.keys() == together.keys() and len(order.keys() & together.keys()) == 4
    for again in (alone, order):
        for key in again.keys() & together.keys():
            np.testing.assert_allclose(again[key], together[key], atol=1e-4, rtol=0)


def test_images_do_not_depend_on_the_mesh(drawn, tmp_path):
    command(tmp_path, SDE, "--config.mesh=data=2, cfg=2, seq=2", "--config.batch=4")
    for name, image in by_name(tmp_path).items():
        np.testing.assert_allclose(image, by_name(drawn[0])[name], atol=1e-5)


def test_noise_depends_on_seed_label_and_index():
    wanted = np.array([[0, 0], [0, 1], [1, 0]])
    noise, keys = zip(*(sample.noise_of(seed, wanted, (2, 2, 1)) for seed in (0, 1)), strict=True)
    for part in (noise, [jax.random.key_data(k) for k in keys]):
        assert len(np.unique(np.concatenate(part).reshape(6, -1), axis=0)) == 6


def test_images_are_those_of_the_library(drawn, toy):
    label, index = 2, 1
    of_label = jax.random.fold_in(jax.random.key(0), label)
    noise = flowjax.draw_noise(of_label, [index], (4, 4, 1)).astype(jnp.float32)

    # Guidance by hand, with the null label 3.
    def velocity(x, t, c):
        return toy.apply(toy.params, x, t, jnp.array([c]))

    def guided(x, t):
        return 1.5 * velocity(x, t, label) - 0.5 * velocity(x, t, 3)

    plan = flowjax.plans.dpm_solver_sde(flowjax.Linear(), flowjax.grids.uniform(3), 2)
    key = jax.random.fold_in(of_label, index)[None]
    found = np.clip(flowjax.sample(guided, noise, plan, key=key).x[0], -1, 1)
    np.testing.assert_allclose(by_name(drawn[0])[label, index], found, atol=1e-5, rtol=0)


# The scheduler_config.json of facebook/DiT-XL-2-256.
DDIM = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.12.0.dev0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}


@pytest.fixture
def pipeline(tmp_path):
    """A folder in the layout of facebook/DiT-XL-2-256, of small networks with random weights."""
    folder = tmp_path / "pipeline"
    for part, golden in (("transformer", "dit_diffusers_a"), ("vae", "vae_kl")):
        (folder / part).mkdir(parents=True)
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            shutil.copy(GOLDEN / golden / name, folder / part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(DDIM))
    index = {
        "_class_name": "DiTPipeline",
        "id2label": {str(i): f"class {i}, synonym {i}" for i in range(10)},
    }
    parts = {
        "transformer": "DiTTransformer2DModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
    }
    index |= {part: ["diffusers", name] for part, name in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_pipeline_folder_becomes_the_latents_of_diffusers_and_a_png(
    pipeline, tmp_path, monkeypatch
):
    with np.load(GOLDEN / "dit_diffusers_a" / "sample_ddim_10_4.0.npz") as golden:
        noise, expected = (golden[name].transpose(0, 2, 3, 1) for name in ("noise", "latents"))
        asked = f"class {golden['labels'][0]}, {golden['labels'][1]}"

    # The noise of the golden file in the place of our own.
    def given(seed, wanted, shape):
        return jnp.asarray(noise), jax.random.split(jax.random.key(0))

    monkeypatch.setattr(sample, "noise_of", given)
    words = [
        "--config.solver=scheduler",
        "--config.steps=10",
        "--config.count=1",
        f"--config.labels={asked}",
    ]
    command(tmp_path / "out", f"--config.model={pipeline}", *words, config="sample_dit_xl_2_256")
    found = contents(tmp_path / "out")
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found["latents"], expected, atol=tolerance, rtol=0)
    with Image.open(tmp_path / "out" / "samples.png") as shown:
        assert shown.size == (64, 2 * 64 + 2)  # 32 x 32 magnified twice, a row a label
    # The images are the decoded latents; 0.18215 is the scale of the published autoencoder.
    vae = models.load(pipeline / "vae")
    decoded = np.clip(jax.jit(type(vae).decode)(vae, jnp.asarray(expected) / 0.18215), -1, 1)
    np.testing.assert_allclose(found["images"], decoded, atol=1e-3, rtol=0)


def test_latents_without_autoencoder_are_kept_without_png(tmp_path):
    states, settings = np.ones((2, 4, 4, 4), np.float32), {"config": {}}
    latents = sample.Drawn(states, np.array([True, True]), {})
    assert sample.pictures(IMAGENET, states) is None
    (tmp_path / "samples.png").write_text("what lay there before")
    wanted = np.array([[0, 0], [0, 1]])
    paths = archive.save(tmp_path, 8, wanted, latents, None, settings)
    assert paths == [tmp_path / "samples.npz"] and list(tmp_path.iterdir()) == paths
    assert np.array_equal(contents(tmp_path)["latents"], states)


def config_of(**changes):
    return Config(**{"model": "toy", "labels": "0", "steps": 3, **changes})


def test_bar_changes_no_number(toy):
    config, seen = config_of(guidance_interval=(0.5, 0.9)), []
    noise = jax.random.normal(jax.random.key(2), (2, 4, 4, 1), jnp.float32)
    label = jnp.array([0, 2])
    plan = sample.plan_of(config, toy.card)

    def run(model):
        return jax.jit(lambda plan: sample.draw(model, noise, label, plan, config).x)(plan)

    watched = run(sample.ticking(toy, lambda: seen.append(1)))
    jax.effects_barrier()
    assert np.array_equal(watched, run(toy)) and len(seen) == plan.rows


@pytest.mark.parametrize("name", sample.SOLVERS)
def test_every_solver_makes_its_plan_on_both_kinds_of_path(name):
    for schedule in (flowjax.Linear(), flowjax.VPDiscrete.linear()):
        card = models.Card("toy", SIZES, schedule=schedule)
        plan = sample.plan_of(config_of(solver=name, steps=6, shift=2.0), card)
        assert plan.steps == 6 and plan.grid[1] == pytest.approx(2 * (5 / 6) / (1 + 5 / 6))


def test_directory_is_named_after_the_configuration(monkeypatch):
    seen = []
    monkeypatch.setattr(sample, "sample", lambda config, workdir, *_: seen.append(workdir))
    sample.main(["sample", f"--config={ROOT}/configs/sample_emoji.py"])
    assert seen == ["runs/sample_emoji"]


def test_images_that_are_not_finite_are_said():
    seconds = {"compile": 1, "first": 1, "steady": None, "decode": None}
    drawn = sample.Drawn(np.zeros((2, 4, 4, 1)), np.array([True, False]), seconds)
    plan = flowjax.plans.euler(flowjax.grids.uniform(3))
    assert "2 images, 1 OF THEM NOT FINITE" in sample.summary(drawn, seconds, plan, [])


def test_trained_models_have_the_names_of_their_data():
    named = lambda **data: models.Card("toy", DiTConfig(**NINE), details={"data": data})
    emoji = named(name="emoji", classes=list(range(9)))
    assert [n for n, _ in labels.numbers("Flags, smileys & emotion, 8", emoji)] == [2, 6, 8]
    folder = named(name="/a/folder", classes=[f"kind {i}" for i in range(9)])
    assert labels.numbers("kind 4", folder) == [(4, "kind 4")]
    with pytest.raises(ValueError, match="2 names for 9 classes"):
        labels.names_of(named(name="/a/folder", classes=["a", "b"]))


def test_imagenet_has_a_thousand_names():
    names = labels.names_of(IMAGENET)
    assert len(names) == 1000
    assert (names[0], names[999].split(",")[0]) == ("tench, Tinca tinca", "toilet tissue")
    # Numbers, names and synonyms in any case; "maillot" is an entry and a synonym of another.
    asked = "388, tench,Golden  Retriever, red panda, maillot, cardigan, null"
    assert [n for n, _ in labels.numbers(asked, IMAGENET)] == [388, 0, 207, 387, 638, 474, 1000]
    assert labels.numbers("giant panda", IMAGENET) == [(388, names[388])]


@pytest.mark.parametrize(
    "text, message",
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
def test_wrong_label_is_named_with_the_nearest(text, message):
    with pytest.raises(ValueError) as error:
        labels.numbers(text, IMAGENET)
    assert message in str(error.value)


STALE = ["--config.mesh=seq=2", "--config.attention=stale"]
PIPELINE = "--config.attention=pipefusion"


@pytest.mark.parametrize(
    "words, message",
    [
        # Labels and the solver.
        (["--config.labels=3"], "label '3' of toy: wanted a number from 0 to 2"),
        (["--config.labels=cirle"], "near are 0 (circle)"),
        (["--config.solver=eulre"], "did you mean 'euler'?"),
        (["--config.solver=scheduler"], "toy came without a scheduler_config.json"),
        (["--config.grid=unifrom"], "did you mean 'uniform'?"),
        (["--config.order=3", "--config.steps=2"], "2 step(s) are too few for order 3"),
        (["--config.solver=euler", "-config.order=4"], "'euler' has no order to choose"),
        (["--config.solver=tuned", "--config.order=4"], "'tuned' has no order to choose"),
        (["--config.plan=p.json", "-config.solver=unipc"], "leave out steps, solver, or leave"),
        (["--config.size=4,5"], "both multiples of 2, its patch"),
        (["--config.size=4"], "wanted (height, width)"),
        (["--config.dtype=float64"], "dtype='float64' is not known"),
        # Numbers.
        (["--config.count=0"], "--config.count=0; wanted a whole number from 1"),
        (["--config.batch=0"], "--config.batch=0; wanted a whole number from 1"),
        (["--config.guidance_interval=0.5,"], "wanted (low, high)"),
        # The mesh, and attention over it.
        (["--config.mesh=seq=2,sqe=2"], "'sqe=2' is not understood"),
        (["--config.mesh=seq=16"], "take 16 devices and 8 are here"),
        (["--config.mesh=seq=2", "--config.guidance_channels=1"], "leave guidance_channels"),
        ([*STALE, "--config.warmup=4"], "warmup=4 of 3 steps"),
        ([*STALE, "--config.policy=tol=1"], "part='tol' is not known; the choices are"),
        ([*STALE, "--config.policy=window=0.5"], "'window=0.5' does not fit"),
        ([*STALE, "--config.policy=every=0"], "period=0"),
        ([*STALE, "--config.patches=4"], "patches=4 with attention='stale'"),
        ([*STALE, "--config.forecast=best"], "forecast='best'"),
        (["--config.mesh=seq=2", "--config.forecast=1"], "forecast=1 with attention='gather'"),
        (
            ["--config.mesh=pipe=2", PIPELINE, "--config.patches=4"],
            "1 layers do not divide into pipe=2",
        ),
        (["--config.mesh=pipe=1", PIPELINE, "--config.patches=7"], "patches=7 of"),
        # The model, and the fields.
        (["--config.model=/nowhere/at/all"], "there is no /nowhere/at/all"),
        ([f"--config.model={GOLDEN}/vae_kl"], "is an autoencoder by itself"),
        (["--config.gudance=2"], "did you mean 'guidance'?"),
    ],
)
def test_wrong_command_writes_nothing(capsys, tmp_path, words, message):
    assert message in refused(capsys, tmp_path / "out", *words)
    assert not list(tmp_path.iterdir())


def test_other_images_are_kept_unless_told(drawn, capsys, tmp_path):
    # The same configuration, another one, and another one that may overwrite.
    workdir = shutil.copytree(drawn[0], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    command(workdir, SDE)
    assert "--overwrite draws them again" in capsys.readouterr().out
    assert "seed: 0 there, 5 now" in refused(capsys, workdir, SDE, "--config.seed=5")
    assert before == {path.name: path.read_bytes() for path in workdir.iterdir()}
    command(workdir, "--config.seed=5", "--overwrite")
    assert images.read_settings(workdir / "samples.png")["config"]["seed"] == 5
    # Files that are not ours.
    (workdir / "samples.npz").write_bytes(b"something else")
    assert "was not written by this program" in refused(capsys, workdir)
    (workdir / "samples.npz").unlink()
    assert "has no samples.npz beside it" in refused(capsys, workdir)


def test_directory_that_cannot_be_written_to_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in refused(capsys, tmp_path / "file" / "inside")


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
    values = np.array([-2.0, 0.0, np.nan])[:, None, None, None]
    shown = images.grid(values * np.ones((3, 64, 64, 1)), 2, gap=1)
    assert shown.shape == (129, 129, 3)
    # Three images, the gap between the first two, and the empty place.
    assert shown[0, 0, 0] == 0 and shown[0, 65, 0] == 128 and shown[65, 0, 0] == 0
    assert shown[0, 64, 0] == 255 and shown[65, 65, 0] == 255
    with pytest.raises(ValueError, match="decode latents first"):
        images.grid(np.zeros((1, 4, 4, 4)))


# ---- every option of parallel sampling

# A text of the command line for each option, with the other words that it needs, and its value.
OPTIONS = {
    "attention": ("ring", [], "ring"),
    "guidance": ("2.5", [], None),
    "warmup": ("2", STALE, 2),
    "policy": ("every=2", STALE, [-1, np.inf, -1]),
    "refresh": ("None", STALE, None),
    "gather": ("early", STALE, "early"),
    "forecast": ("tuned", STALE, "tuned"),
    "correction": ("0.25", STALE, 0.25),
    "comm_dtype": ("int8", STALE, "int8"),
    "residual": ("True", STALE, True),
    "gains_per": ("token", STALE, "token"),
    "patches": ("2", [PIPELINE], 2),
}


def test_every_option_of_parallel_sampling_has_a_field():
    assert OPTIONS.keys() == set(Options._fields)
    assert OPTIONS.keys() <= {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "guidance"])
def test_every_option_of_parallel_sampling_is_set_from_the_command_line(name):
    text, others, wanted = OPTIONS[name]
    words = ["--config=configs/sample_digits.py", "--workdir=w", *others, f"--config.{name}={text}"]
    config, _ = flags.parse(["sample", *words])
    plan = flowjax.plans.euler(flowjax.grids.uniform(3))
    chosen = mesh.options(config, plan, parallel.make_mesh(seq=2))
    found = Options(**chosen)
    np.testing.assert_array_equal(getattr(found, name), wanted)
    # The library takes it as it is.
    options.check("parallel.sample", found, plan)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "guidance"])
def test_an_option_of_parallel_sampling_without_a_mesh_is_refused(capsys, tmp_path, name):
    text, _, _ = OPTIONS[name]
    message = refused(capsys, tmp_path / "out", f"--config.{name}={text}")
    assert f"mesh='' is one device, where {name}=" in message and "--config.mesh=seq=4" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("sample_*.py")))
def test_a_shipped_configuration_asks_for_nothing_that_one_device_has_not(path):
    config, _ = flags.parse(["sample", f"--config={path}", "--workdir=w"])
    sample.check(config)
    mesh.check(config)


def test_images_of_a_run_that_is_older_than_a_field_are_still_its_images(drawn, tmp_path, capsys):
    workdir = shutil.copytree(drawn[0], tmp_path / "out")
    arrays = contents(workdir)
    settings = json.loads(str(arrays.pop("settings")))
    del settings["config"]["gains_per"], settings["config"]["tile"]
    np.savez(workdir / "samples.npz", settings=json.dumps(settings), **arrays)
    command(workdir, SDE)
    assert "--overwrite draws them again" in capsys.readouterr().out
    message = refused(capsys, workdir, SDE, "--config.tile=32")
    assert "tile: None there, 32 now" in message


# ---- files that the configuration names


def kept(workdir, config):
    """Keep two images of a configuration, without drawing them."""
    plan, digests = flowjax.plans.euler(flowjax.grids.uniform(3)), archive.digests_of(config)
    settings = archive.settings_of(config, "a command", plan, [(0, "circle")], {}, digests)
    made = sample.Drawn(np.ones((2, 4, 4, 1), np.float32), np.array([True, True]), {})
    workdir.mkdir(exist_ok=True)
    archive.save(workdir, 2, np.array([[0, 0], [0, 1]]), made, made.states, settings)
    return settings


def is_drawn(workdir, config):
    return archive.is_drawn(workdir, config, archive.digests_of(config))


@pytest.mark.parametrize("field", archive.FILES)
def test_a_file_of_the_configuration_that_has_changed_is_noticed(tmp_path, field):
    file, workdir = tmp_path / "file", tmp_path / "out"
    file.write_text("one")
    config = config_of(**{field: str(file)})
    kept(workdir, config)
    assert is_drawn(workdir, config)
    file.write_text("two")
    with pytest.raises(ValueError, match=f"{field} {file} has changed.*--overwrite"):
        is_drawn(workdir, config)
    # Images that are older than the digest are still those of the configuration.
    arrays = contents(workdir)
    settings = json.loads(str(arrays.pop("settings")))
    del settings[f"{field}_sha256"]
    np.savez(workdir / "samples.npz", settings=json.dumps(settings), **arrays)
    assert is_drawn(workdir, config)


def test_a_network_that_was_trained_again_is_noticed_by_its_folder(toy, tmp_path, monkeypatch):
    folder, workdir = tmp_path / "model", tmp_path / "out"
    models.save(folder, toy)
    config = config_of(model=str(folder))
    monkeypatch.setattr(archive, "PIECE", 16)
    for large in (archive.LARGE, 0):  # read as one piece, and in pieces
        monkeypatch.setattr(archive, "LARGE", large)
        models.save(folder, toy)
        kept(workdir, config)
        # What is no part of the network, and the same network once more
        (folder / "README.md").write_text(f"words {large}")
        models.save(folder, toy)
        assert is_drawn(workdir, config)
        models.save(folder, toy._replace(params=jax.tree.map(lambda leaf: 2 * leaf, toy.params)))
        with pytest.raises(ValueError, match=f"model {folder} has changed"):
            is_drawn(workdir, config)


def test_another_plan_under_the_same_name_is_not_served_old_images(tmp_path, capsys):
    path = tmp_path / "plan.json"
    words = ["sample", f"--config={ROOT}/configs/sample_digits.py", f"--config.plan={path}"]
    words += [f"--workdir={tmp_path / 'out'}", "--config.labels=0", "--config.count=1"]
    flowjax.plans.save(path, flowjax.plans.euler(flowjax.grids.uniform(3)))
    sample.main(words)
    sample.main(words)
    assert "--overwrite draws them again" in capsys.readouterr().out
    flowjax.plans.save(path, flowjax.plans.euler(flowjax.grids.uniform(4)))
    with pytest.raises(SystemExit):
        sample.main(words)
    assert f"plan {path} has changed" in capsys.readouterr().err
    sample.main([*words, "--overwrite"])
    assert json.loads(str(contents(tmp_path / "out")["settings"]))["nfe"] == 4


@pytest.mark.parametrize("content", [b"", HTML, b"PK"])
def test_an_archive_that_is_damaged_is_named_in_one_line(drawn, tmp_path, capsys, content):
    workdir = shutil.copytree(drawn[0], tmp_path / "out")
    (workdir / "samples.npz").write_bytes(content)
    assert "was not written by this program" in refused(capsys, workdir, SDE)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
def test_an_archive_that_was_cut_short_is_named_in_one_line(drawn, tmp_path, capsys, fraction):
    workdir = shutil.copytree(drawn[0], tmp_path / "out")
    whole = (workdir / "samples.npz").read_bytes()
    (workdir / "samples.npz").write_bytes(whole[: int(fraction * len(whole))])
    assert "only a part of it is there" in refused(capsys, workdir, SDE)


# ---- models that cannot be read


@pytest.mark.parametrize("name", ["DiT.pt", "DiT.safetensors"])
@pytest.mark.parametrize("content", [b"", HTML, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_model_that_is_no_file_of_tensors_is_named_in_one_line(capsys, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path / "out", f"--config.model={tmp_path / name}")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1 and name in message
    assert not (tmp_path / "out").exists()


def test_a_network_without_the_null_label_is_drawn_without_guidance_only(toy, capsys, tmp_path):
    sizes = dataclasses.replace(SIZES, classes=4, has_null=False)
    whole = toy._replace(card=dataclasses.replace(toy.card, config=sizes, details={}))
    whole = models.model(whole.card, toy.params)  # four rows, all of classes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda path, **options: whole)
        command(tmp_path / "out", "--config.labels=3", "--config.guidance=1")
        assert np.all(contents(tmp_path / "out")["finite"])
        message = refused(capsys, tmp_path / "other", "--config.labels=3")
        assert "toy was trained without a null label" in message
        message = refused(capsys, tmp_path / "other", "--config.labels=null", "--config.guidance=1")
        assert "trained without a null label" in message


def test_a_seed_of_64_bits_draws_images_of_its_own():
    wanted = np.array([[0, 0]])
    drawn = [sample.noise_of(seed, wanted, (2, 2, 1))[0] for seed in (0, 2**32, 2**64 - 1)]
    assert len(np.unique(np.concatenate(drawn).reshape(3, -1), axis=0)) == 3
