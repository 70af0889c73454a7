"""Image to image: what the start is, which steps are taken, and what is refused."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flowjax
from configs.sample import Config
from experiments import sample
from experiments.cli import images, start
from flowjax import models, plans
from flowjax.models import DiTConfig

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "models"
SIZES = DiTConfig((4, 4), channels=3, patch=2, width=8, depth=1, heads=2, classes=3)


@pytest.fixture(scope="module")
def toy():
    """A small network in the place of the shipped "digits"."""
    model = models.init(SIZES, jax.random.key(0), name="toy")
    # At its own start a network returns zeros, so every parameter is drawn.
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        0.3 * jax.random.normal(k, leaf.shape, jnp.float32)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    model = model._replace(params=jax.tree.unflatten(tree, drawn))
    load = models.load
    with pytest.MonkeyPatch.context() as patch:
        toys = {"digits": model}
        patch.setattr(models, "load", lambda path, **kw: toys.get(path) or load(path, **kw))
        yield model


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A file of 4 x 4 pixels, and its values in [-1, 1]."""
    path = tmp_path_factory.mktemp("image") / "photo.png"
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(levels).save(path)
    return path, levels / 127.5 - 1


def command(workdir, *words):
    """Run the command line in small."""
    path = f"--config={ROOT}/configs/sample_digits.py"
    quick = ["--config.labels=0,2", "--config.count=2", "--config.steps=5"]
    sample.main(["sample", path, f"--workdir={workdir}", *quick, *words])
    with np.load(workdir / "samples.npz") as found:
        return {name: found[name] for name in found.files}


def config_of(**changes):
    return Config(**{"model": "toy", "labels": "0", "steps": 5, **changes})


# The law of each end.


def test_strength_one_is_sampling_from_noise(toy, photo, tmp_path):
    """At t = 1 the image has weight 0 on the linear path."""
    plain = command(tmp_path / "plain")
    from_image = command(tmp_path / "from", f"--config.image={photo[0]}", "--config.strength=1")
    assert np.array_equal(from_image["images"], plain["images"])


def test_a_small_strength_keeps_the_image(toy, photo, tmp_path):
    path, image = photo
    words = [f"--config.image={path}", "--config.strength=0.01", "--config.solver=euler"]
    found = command(tmp_path, *words, "--config.steps=100")["images"]
    # One step from t = 0.01: x = 0.99 image + 0.01 noise - 0.01 velocity
    assert found.shape == (4, 4, 4, 3)
    np.testing.assert_allclose(found, np.broadcast_to(image, found.shape), atol=0.1)
    assert np.std(found, axis=0).max() > 1e-4  # each image has its own noise


def test_the_start_is_the_image_and_the_noise_on_the_path(toy, photo, tmp_path):
    words = [f"--config.image={photo[0]}", "--config.strength=0.6", "--config.solver=euler"]
    found = command(tmp_path, *words, "--config.guidance=1")["images"]
    # By hand: three of five uniform steps of Euler's method, from t = 0.6
    key = jax.random.fold_in(jax.random.key(0), 2)
    noise = flowjax.draw_noise(key, [1], (4, 4, 3)).astype(jnp.float32)
    x = 0.4 * jnp.asarray(photo[1], jnp.float32)[None] + 0.6 * noise
    for t in (0.6, 0.4, 0.2):
        x = x - 0.2 * toy.apply(toy.params, x, t, jnp.array([2]))
    np.testing.assert_allclose(found[3], np.clip(x[0], -1, 1), atol=1e-5)
    # The settings hold the image's file and what was in it.
    settings = images.read_settings(tmp_path / "samples.png")
    assert settings["config"]["strength"] == 0.6 and settings["nfe"] == 3
    assert settings["config"]["image"] == str(photo[0])
    assert settings["image_sha256"] == hashlib.sha256(photo[0].read_bytes()).hexdigest()


def test_images_do_not_depend_on_the_mesh(toy, photo, tmp_path):
    words = [f"--config.image={photo[0]}", "--config.strength=0.6"]
    alone = command(tmp_path / "alone", *words)["images"]
    shared = command(tmp_path / "mesh", *words, "--config.mesh=data=2, cfg=2, seq=2")["images"]
    np.testing.assert_allclose(shared, alone, atol=1e-5)


# Which steps are taken.


@pytest.mark.parametrize(
    "steps, strength, taken",
    [(10, 0.6, 6), (10, 0.55, 5), (28, 0.6, 16), (5, 1.0, 5), (50, 0.02, 1), (5, None, 5)],
)
def test_the_number_of_steps_is_that_of_diffusers(steps, strength, taken):
    assert start.steps_taken(config_of(steps=steps, strength=strength)) == taken


@pytest.mark.parametrize("solver", sample.SOLVERS)
def test_the_plan_is_that_of_the_last_steps_with_a_new_history(toy, solver):
    config = config_of(solver=solver, steps=8, strength=0.5, shift=3.0)
    plan = sample.plan_of(config, toy.card)
    complete = sample.plan_of(config_of(solver=solver, steps=8, shift=3.0), toy.card)
    np.testing.assert_array_equal(plan.grid, complete.grid[4:])
    assert not np.any(plan.b[0, 1:]) and not np.any(plan.d[0, 1:])


def test_the_scheduler_of_a_pipeline_takes_its_last_steps(toy):
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    card = models.Card("toy", SIZES, scheduler=scheduler)
    config = config_of(solver="scheduler", steps=10, strength=0.6)
    plan = sample.plan_of(config, card)
    grid = flowjax.grids.uniform(10, shift=3.0)[4:]
    np.testing.assert_allclose(plan.grid, grid, atol=1e-12)


def test_a_multistep_solver_needs_enough_steps_in_the_tail(toy):
    with pytest.raises(ValueError, match="too few for order 2"):
        sample.plan_of(config_of(strength=0.2), toy.card)


# Latents.


@pytest.fixture
def pipeline(tmp_path):
    """A folder in the layout of a DiT pipeline, with small networks of random weights."""
    import shutil

    folder = tmp_path / "pipeline"
    for part, golden in (("transformer", "dit_diffusers_a"), ("vae", "vae_kl")):
        (folder / part).mkdir(parents=True)
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            shutil.copy(GOLDEN / golden / name, folder / part)
    parts = {
        "transformer": "DiTTransformer2DModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
    }
    index = {"_class_name": "DiTPipeline"}
    index |= {part: ["diffusers", name] for part, name in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", "clip_sample": False}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def test_a_latent_model_starts_from_the_encoded_image(pipeline, tmp_path):
    levels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    words = [f"--config.model={pipeline}", f"--config.image={tmp_path / 'photo.png'}"]
    small = ["--config.strength=0.01", "--config.steps=100", "--config.solver=euler"]
    found = command(tmp_path / "out", *words, *small)["latents"]
    # One step from t = 0.01 moves a latent by a small part of the noise there.
    vae = models.load(pipeline / "vae")
    pixels = jnp.asarray(levels / 127.5 - 1, jnp.float32)[None]
    latents = np.asarray(jax.jit(type(vae).to_latents)(vae, pixels))
    sigma = models.load(pipeline).card.schedule.sigma(0.01)
    assert sigma < 0.1
    error = np.abs(found - latents)
    assert error.max() < 1.0 and error.mean() < sigma


def test_latents_without_an_autoencoder_are_refused(photo):
    latents = DiTConfig((4, 4), channels=4, patch=2, width=8, depth=1, heads=2, classes=3)
    card = models.Card("toy", latents)
    with pytest.raises(ValueError, match="came without an autoencoder"):
        start.state_of(config_of(image=str(photo[0]), strength=0.5), card, (4, 4, 4))


def test_grey_images_and_transparent_parts(tmp_path):
    """A transparent pixel is white, and a model of one channel gets the grey value."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255  # black and opaque above, transparent below
    Image.fromarray(pixels).save(tmp_path / "x.png")
    grey = DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)
    config = config_of(image=str(tmp_path / "x.png"), strength=0.5)
    found = start.state_of(config, models.Card("toy", grey), (4, 4, 1))
    assert np.array_equal(found[..., 0], np.repeat([-1, -1, 1, 1], 4).reshape(4, 4))


# Mistakes.


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config.image={photo}"], "image to image needs both"),
        (["--config.strength=0.5"], "image to image needs both"),
        (["--config.image={photo}", "--config.strength=0"], "strength=0.0; wanted"),
        (["--config.image={photo}", "--config.strength=1.5"], "strength=1.5; wanted"),
        (["--config.image={photo}", "--config.strength=nan"], "strength=nan; wanted"),
        (["--config.image={photo}", "--config.strength=0.1"], "leaves none"),
        (["--config.image=/no/such", "--config.strength=0.6"], "'/no/such' cannot be read"),
        (["--config.image={text}", "--config.strength=0.6"], "cannot be read as an image"),
        (["--config.image={large}", "--config.strength=0.6"], "give --config.size=8,6"),
        (["--config.image={odd}", "--config.strength=0.6"], "draws 4 x 4 here; resize the image."),
    ],
)
def test_a_wrong_command_writes_nothing(toy, photo, tmp_path, capsys, words, message):
    files = {"photo": photo[0]}
    for name, size in (("large", (6, 8)), ("odd", (5, 8))):
        files[name] = tmp_path / f"{name}.png"
        Image.new("RGB", size).save(files[name])
    files["text"] = tmp_path / "text.png"
    files["text"].write_text("no image")
    with pytest.raises(SystemExit) as stopped:
        command(tmp_path / "out", *(word.format(**files) for word in words))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_that_has_changed_is_noticed(toy, tmp_path, capsys):
    words = [f"--config.image={tmp_path / 'x.png'}", "--config.strength=0.6"]
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    command(tmp_path / "out", *words)
    command(tmp_path / "out", *words)
    assert "--overwrite draws them again" in capsys.readouterr().out
    Image.new("RGB", (4, 4), "white").save(tmp_path / "x.png")
    with pytest.raises(SystemExit):
        command(tmp_path / "out", *words)
    assert "x.png has changed" in capsys.readouterr().err


@pytest.mark.slow  # importing diffusers takes its time
@pytest.mark.filterwarnings("ignore")  # of diffusers about other packages
def test_image_to_image_of_diffusers_takes_the_same_steps(toy):
    """The start and the steps of diffusers' pipeline, with its own scheduler and a toy network."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    steps, strength = 10, 0.6
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    # The uniform times themselves, without the second shift of the smallest one
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    first = max(steps - min(int(steps * strength), steps), 0)
    scheduler.set_begin_index(first)
    data, noise = np.array(jax.random.normal(jax.random.key(3), (2, 1, 4, 4, 3), jnp.float32))

    timesteps = scheduler.timesteps[first:]
    x = scheduler.scale_noise(torch.tensor(data), timesteps[:1], torch.tensor(noise))
    for t in timesteps:
        x = scheduler.step(torch.sin(x + t / 500), t, x).prev_sample

    config = config_of(solver="euler", steps=steps, strength=strength, shift=3.0)
    plan = sample.plan_of(config, toy.card)
    begin = start.noised(jnp.asarray(data[0]), jnp.asarray(noise), plan, toy.card)
    found = flowjax.sample(lambda x, t: jnp.sin(x + 2 * t), begin, plan).x
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert plan.rows == len(timesteps) == plans.euler(plan.grid).rows
