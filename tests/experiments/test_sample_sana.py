"""Texts to images by the command: a random tiny pipeline from its folder to a PNG."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy

from experiments import sample
from experiments.cli import embeddings, images
from flowjax import models
from flowjax.models import Condition
from tests.models.weights import sana_files

ROOT = pathlib.Path(__file__).parents[2]
RANDOM = np.random.default_rng(0)
CONDITION = Condition(
    RANDOM.standard_normal((3, 6, 24)),
    np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]),
    RANDOM.standard_normal((3, 4, 24)),
    np.array([[1, 0, 0, 0]] * 3),
)
PROMPTS = ["a red fox", "a house", "a tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline's folder, with files of embeddings in it."""
    made = sana_files.pipeline_folder(tmp_path_factory.mktemp("sana") / "tiny")
    embeddings.write(made / "texts.npz", CONDITION, PROMPTS)
    embeddings.write(made / "texts.safetensors", CONDITION, PROMPTS)
    return made


def command(folder, workdir, *words, file="texts.npz"):
    sample.main(
        [
            "sample",
            f"--config={ROOT}/configs/sample_sana.py",
            f"--config.model={folder}",
            f"--config.embeddings={folder / file}",
            f"--workdir={workdir}",
            "--config.steps=3",
            *words,
        ]
    )


def contents(workdir):
    with np.load(workdir / "samples.npz") as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def drawn(folder, tmp_path_factory):
    """The work directory of one run: two images of each text."""
    workdir = tmp_path_factory.mktemp("drawn")
    command(folder, workdir)
    return workdir


def test_command_writes_images_and_the_texts_in_the_settings(drawn):
    found = contents(drawn)
    assert found["images"].shape == (6, 32, 32, 3) and found["latents"].shape == (6, 8, 8, 8)
    assert np.all(found["finite"]) and found["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    settings = images.read_settings(drawn / "samples.png")
    assert settings["labels"] == [[i, prompt] for i, prompt in enumerate(PROMPTS)]
    assert settings["config"]["guidance"] == 4.5


@pytest.mark.slow
def test_a_text_draws_the_same_image_alone_by_another_file_and_on_a_mesh(folder, drawn, tmp_path):
    whole = contents(drawn)["latents"]
    one = ["--config.labels=1", "--config.count=2", "--config.batch=2"]
    command(folder, tmp_path / "alone", *one, file="texts.safetensors")
    command(folder, tmp_path / "mesh", *one, "--config.mesh=cfg=2, seq=4")
    for name in ("alone", "mesh"):
        found = contents(tmp_path / name)["latents"]
        np.testing.assert_allclose(found, whole[2:4], rtol=0, atol=1e-4 * np.abs(whole).max())


@pytest.mark.slow
def test_the_pipelines_own_scheduler_and_another_size(folder, tmp_path):
    words = ["--config.solver=scheduler", "--config.shift=1", "--config.size=24,40"]
    command(folder, tmp_path, *words, "--config.labels=0", "--config.count=1", "--config.tile=16")
    assert contents(tmp_path)["images"].shape == (1, 24, 40, 3)


def refused(capsys, *words, **options):
    """The one sentence with which a command is refused."""
    with pytest.raises(SystemExit) as stopped:
        command(*words, **options)
    message = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "Traceback" not in message
    return message.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config.embeddings="], "draws for texts; give embeddings=FILE"),
        (["--config.embeddings=none.npz"], "there is no such file"),
        (["--config.embeddings=texts.txt"], "ends in .npz or .safetensors"),
        (["--config.labels=3"], "'3' is no number of a text; wanted 0 to 2"),
        (["--config.labels=1,1"], "names a text twice"),
        (["--config.size=30,32"], "both multiples of 4"),
        (["--config.mesh=seq=8", "--config.size=16,32"], "rows of tokens"),
        (["--config.mesh=seq=2", "--config.attention=ring"], "is linear"),
        (["--config.model=digits"], "draws for labels; leave embeddings"),
    ],
)
def test_a_wrong_command_is_refused_in_one_sentence(folder, tmp_path, capsys, words, sentence):
    assert sentence in refused(capsys, folder, tmp_path, *words)


def test_files_of_embeddings_that_do_not_fit_are_refused(folder, tmp_path):
    card = models.load(folder).card

    def saved(**changes):
        arrays = {**CONDITION._asdict(), **changes}
        path = tmp_path / "texts.npz"
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return str(path)

    with pytest.raises(ValueError, match=r"wanted \(B, T, 24\)"):
        embeddings.read(saved(embeddings=np.zeros((3, 6, 20))), card)
    with pytest.raises(ValueError, match="has no array 'mask'"):
        embeddings.read(saved(mask=None), card)
    with pytest.raises(ValueError, match="no mask for the negative"):
        embeddings.read(saved(negative_mask=None), card)
    with pytest.raises(ValueError, match="2 prompts for 3 texts"):
        embeddings.read(saved(prompts=np.array(["a", "b"])), card)
    with pytest.raises(ValueError, match="the array='pooled' is not known"):
        embeddings.read(saved(pooled=np.zeros(3)), card)


def test_one_negative_text_serves_all(folder, tmp_path):
    card = models.load(folder).card
    arrays = {**CONDITION._asdict(), "negative": CONDITION.negative[0]}
    arrays["negative_mask"] = CONDITION.negative_mask[:1]
    del arrays["guidance"]
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        tmp_path / "texts.safetensors",
    )
    found = embeddings.read(str(tmp_path / "texts.safetensors"), card)
    assert found.condition.negative.shape == (3, 4, 24) and found.prompts == ["0", "1", "2"]


def test_without_negative_embeddings_there_is_no_guidance(folder, tmp_path, capsys):
    alone = CONDITION._replace(negative=None, negative_mask=None)
    embeddings.write(folder / "alone.npz", alone, PROMPTS)
    message = refused(capsys, folder, tmp_path, file="alone.npz")
    assert "guidance=4.5" in message and "no negative embeddings" in message
    words = ["--config.guidance=1", "--config.labels=0", "--config.count=1", "--config.batch=1"]
    command(folder, tmp_path, *words, file="alone.npz")
    assert np.all(contents(tmp_path)["finite"])
