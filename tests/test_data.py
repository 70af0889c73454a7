"""Data sets from every source, and batches that are a function of (seed, step)."""

import itertools

import numpy as np
import pytest
from PIL import Image

from flowjax import Linear, data, fields

RNG = np.random.default_rng(0)


def toy(size=10, shape=(2, 3, 1), classes=2, noise=False):
    """Images of which each can be told: pixel 0 is its number."""
    images = RNG.uniform(-1, 1, (size, *shape)).astype(np.float32)
    images[:, 0, 0, 0] = np.arange(size)
    more = images + 100 if noise else None
    return data.Data(
        "toy", images, np.arange(size, dtype=np.int32) % classes, tuple(range(classes)), more
    )


def number(batch):
    return batch["images"][:, 0, 0, 0].astype(int)


@pytest.mark.parametrize("name", ["digits", "emoji"])
def test_shipped_data_are_those_of_the_fields(name):
    held, field = data.load(name), getattr(fields, name)(Linear(), bandwidth=0.1)
    np.testing.assert_allclose(data.to_float(held.images), field.samples, atol=1e-6)
    assert np.array_equal(held.labels, field.labels) and len(held.classes) == held.labels.max() + 1


def test_archive_round_trips(tmp_path):
    images, labels = RNG.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8), np.array([0, 2, 1, 0, 2])
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    np.savez(tmp_path / "b.npz", latents=9.0 * images)
    held = data.load(tmp_path / "a.npz")
    assert (
        np.array_equal(held.images, images)
        and np.array_equal(held.labels, labels)
        and held.classes == (0, 1, 2)
    )
    latents = data.load(tmp_path / "b.npz")
    assert (
        latents.images.dtype == np.float32
        and latents.images.max() == 9.0 * images.max()
        and latents.classes == (0,)
    )
    assert held.hash == data.load(tmp_path / "a.npz").hash != latents.hash


@pytest.mark.parametrize(
    "arrays, wanted",
    [
        ({"pictures": np.zeros((2, 4, 4, 1))}, "'pictures'"),
        ({"images": np.zeros((2, 4, 4))}, r"\(2, 4, 4\)"),
        ({"images": np.full((2, 4, 4, 1), 255.0)}, "reach 255"),
        # Pixels in [0, 1], of a dtype that is no number, and channels first.
        (
            {"images": np.linspace(0, 1, 32).reshape(2, 4, 4, 1)},
            r"lie in \[0, 1\].*2 \* images - 1",
        ),
        ({"images": np.ones((2, 4, 4, 1), bool)}, "dtype bool"),
        ({"images": np.zeros((2, 4, 4, 1), complex)}, "dtype complex"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, r"looks like \(N, C, H, W\).*moveaxis"),
        ({"images": np.zeros((2, 1, 5, 8), np.uint8)}, r"looks like \(N, C, H, W\)"),
        ({"latents": np.zeros((2, 4, 8, 8))}, r"looks like \(N, C, H, W\)"),
        ({"images": np.zeros((2, 8, 8, 5), np.uint8)}, "5 channels"),
        ({"images": np.zeros((2, 0, 4, 1), np.uint8)}, "each at least 1"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8), "layout": "CHW"}, "layout='CHW'"),
        ({"images": np.zeros((2, 4, 4, 1)), "labels": np.array([0, 10**9])}, "reach 1000000000"),
        ({"images": np.full((2, 4, 4, 1), np.nan)}, "not finite"),
        ({"images": np.zeros((2, 4, 4, 1)), "labels": np.zeros(3, int)}, r"\(3,\)"),
        ({"images": np.zeros((2, 4, 4, 1)), "labels": np.zeros(2)}, "float64"),
        ({"latents": np.zeros((2, 4, 4, 1)), "noise": np.zeros((2, 4, 4, 2))}, "noise of shape"),
    ],
)
def test_archive_of_another_form_is_refused(tmp_path, arrays, wanted):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=wanted):
        data.load(tmp_path / "a.npz")


def test_channels_first_are_read_where_the_file_says_so(tmp_path):
    images = RNG.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
    swapped = np.moveaxis(images, -1, 1)
    np.savez(tmp_path / "a.npz", images=swapped, layout="NCHW")
    assert np.array_equal(data.load(tmp_path / "a.npz").images, images)
    pairs = RNG.standard_normal((2, 5, 3, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "b.npz", images=pairs[0], noise=pairs[1], layout="NCHW")
    assert np.array_equal(data.load(tmp_path / "b.npz").noise, np.moveaxis(pairs[1], 1, -1))
    # Latents of 4 rows whose columns are as many as their channels.
    latents = RNG.standard_normal((2, 4, 8, 8))
    np.savez(tmp_path / "c.npz", latents=latents, layout="NHWC")
    assert data.load(tmp_path / "c.npz").images.shape == (2, 4, 8, 8)


HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("content", [b"", HTML, POINTER])
def test_a_file_that_is_no_archive_is_refused_without_advice_to_trust_it(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as .npz") as error:
        data.load(tmp_path / "a.npz")
    assert "pickle" not in str(error.value)


def test_objects_and_a_single_array_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="Python objects") as error:
        data.load(tmp_path / "a.npz")
    assert "allow_pickle" not in str(error.value)
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="is no .npz file"):
        data.load(tmp_path / "b.npz")


def test_broken_archive_and_missing_name_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 4, 4, 1), np.uint8))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read as .npz"):
        data.load(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="'nothing' is neither"):
        data.load("nothing")


@pytest.fixture
def folder(tmp_path):
    for place, colour in (
        ("cat/a.png", (255, 0, 0, 255)),
        ("cat/b.png", (0, 0, 0, 0)),
        ("dog/x/c.png", (0, 0, 255, 255)),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (7, 5), colour).save(tmp_path / place)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_subfolders_are_classes_and_transparency_is_white(folder):
    held = data.load(folder, size=4)
    assert (
        held.classes == ("cat", "dog")
        and held.labels.tolist() == [0, 0, 1]
        and held.images.shape == (3, 4, 4, 3)
    )
    colours = held.images.reshape(3, -1, 3)
    assert np.all(colours == np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]])[:, None])


def test_folder_without_subfolders_is_one_class(folder):
    assert data.load(folder / "dog" / "x", size=4).classes == ("x",)


def test_hidden_folders_and_files_are_neither_classes_nor_images(folder):
    for place in (".ipynb_checkpoints/a.png", "cat/.ipynb_checkpoints/a.png", "cat/._a.png"):
        (folder / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / place)
    (folder / ".DS_Store").write_bytes(b"")
    held = data.load(folder, size=4)
    assert held.classes == ("cat", "dog") and held.labels.tolist() == [0, 0, 1]
    # A folder whose only subfolder is hidden is one class.
    (folder / "cat" / "notes.txt").unlink()
    assert data.load(folder / "cat", size=4).classes == ("cat",)


def test_classes_without_images_are_named(folder):
    (folder / "horse").mkdir()
    (folder / "ant" / ".cache").mkdir(parents=True)
    (folder / "ant" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="2 of the 4 classes .* have no images: ant; horse"):
        data.load(folder, size=4)


def test_files_beside_the_classes_are_named(folder, caplog):
    (folder / "labels.csv").write_text("")
    assert len(data.load(folder, size=4)) == 3
    assert "are not read: labels.csv" in caplog.text
    for i in range(7):
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    message = r"7 images beside them, which have no class: 0.png; .*4.png; \.\.\."
    with pytest.raises(ValueError, match=message):
        data.load(folder, size=4)


def one_colour(tmp_path, image, suffix=".png", **options):
    """The colour with which an image of one colour is read."""
    image.save(tmp_path / f"a{suffix}", **options)
    held = data.load(tmp_path, size=4)
    colours = np.unique(held.images.reshape(-1, 3), axis=0)
    assert len(colours) == 1
    return colours[0].tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("value, wanted", [(30000, 117), (0, 0), (255, 1), (65535, 255)])
def test_grey_of_16_bits_keeps_its_value(tmp_path, value, wanted, suffix):
    image = Image.fromarray(np.full((4, 4), value, np.uint16))
    assert one_colour(tmp_path, image, suffix) == [wanted] * 3


def test_transparent_grey_of_16_bits_is_white(tmp_path):
    image = Image.fromarray(np.full((4, 4), 300, np.uint16))
    assert one_colour(tmp_path, image, transparency=300) == [255] * 3


def test_grey_of_unknown_range_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="mode F .*wanted 8 or 16 bits"):
        data.load(tmp_path, size=4)
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="from 70000 to 70000"):
        data.load(tmp_path, size=4)


@pytest.mark.parametrize(
    "mode, colour, suffix, wanted",
    [
        ("L", 77, ".png", [77, 77, 77]),
        ("1", 1, ".png", [255, 255, 255]),
        ("LA", (77, 255), ".png", [77, 77, 77]),
        ("LA", (77, 0), ".png", [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), ".png", [10, 20, 30]),
        # Half of the colour and half of the white below it.
        ("RGBA", (0, 100, 200, 51), ".png", [204, 224, 244]),
        ("CMYK", (0, 255, 255, 0), ".tif", [255, 0, 0]),
    ],
)
def test_every_mode_keeps_its_colour(tmp_path, mode, colour, suffix, wanted):
    assert one_colour(tmp_path, Image.new(mode, (4, 4), colour), suffix) == wanted


def test_palettes_keep_their_colours_and_their_transparency(tmp_path):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert one_colour(tmp_path, palette) == [10, 20, 30]
    assert one_colour(tmp_path, palette, transparency=1) == [255, 255, 255]
    # The transparency of one colour in an image without alpha.
    assert one_colour(tmp_path, Image.new("L", (4, 4), 9), transparency=9) == [255] * 3


def test_unreadable_images_are_listed(folder):
    for i in range(7):
        (folder / "dog" / f"{i}.png").write_bytes(b"no PNG")
    with pytest.raises(ValueError, match="7 of 10 images cannot be read.*0.png.*4.png") as error:
        data.load(folder, size=4)
    assert "5.png" not in str(error.value)


def test_folder_without_images_or_size_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        data.load(tmp_path / "empty", size=4)
    with pytest.raises(ValueError, match="size=32"):
        data.load(folder)


@pytest.mark.parametrize("coupling", data.COUPLINGS)
def test_batches_are_a_function_of_seed_and_step(coupling):
    held = toy(noise=coupling == "reflow")
    forward, other = (data.Batches(held, 4, seed, coupling, pool=2) for seed in (1, 2))
    seen = [forward(step) for step in range(6)]
    again = data.Batches(held, 4, 1, coupling, pool=2)
    for step in (5, 0, 3, 3, 1):
        for name, array in again(step).items():
            assert np.array_equal(array, seen[step][name])
    assert any(not np.array_equal(other(step)["images"], seen[step]["images"]) for step in range(6))


@pytest.mark.parametrize("size", [1, 3, 4, 10, 25])
def test_each_epoch_holds_each_image_once(size):
    batches = data.Batches(toy(10), size, seed=3)
    seen = np.concatenate([number(batches(step)) for step in range(60 // size + 1)])[:50].reshape(
        5, 10
    )
    assert np.array_equal(np.sort(seen, axis=1), np.tile(np.arange(10), (5, 1)))
    assert not np.array_equal(seen[0], seen[1])


def test_labels_and_noise_stay_with_their_images():
    held = toy(10, classes=3, noise=True)
    batch = data.Batches(held, 7, seed=0, coupling="reflow")(4)
    assert np.array_equal(batch["labels"], held.labels[number(batch)])
    assert np.array_equal(batch["noise"], batch["images"] + 100)


def test_flip_mirrors_about_half_of_the_images_along_their_width():
    held = toy(40)
    plain, flipped = (
        data.Batches(held, 40, seed=0, flip=flip)(0)["images"] for flip in (False, True)
    )
    same, mirrored = (
        [np.array_equal(a, b) for a, b in zip(flipped, other)]
        for other in (plain, plain[:, :, ::-1])
    )
    assert np.all(np.array(same) ^ np.array(mirrored)) and 10 < sum(mirrored) < 30


def cost(images, noise):
    return np.sum((images.astype(np.float64) - noise) ** 2)


@pytest.mark.parametrize("classes", [1, 3])
def test_optimal_transport_is_the_cheapest_order_that_keeps_the_labels(classes):
    images, noise = RNG.standard_normal((2, 6, 2, 2, 1))
    labels = np.arange(6) % classes
    order = data.pair(images, noise, labels)
    allowed = [
        list(o) for o in itertools.permutations(range(6)) if np.array_equal(labels[list(o)], labels)
    ]
    assert list(order) in allowed
    assert cost(images, noise[order]) == pytest.approx(
        min(cost(images, noise[o]) for o in allowed), rel=1e-12
    )


def test_minibatch_transport_permutes_normal_noise_and_never_raises_the_cost():
    held = toy(30, shape=(2, 2, 1), classes=2)
    batches = data.Batches(held, 8, seed=5, coupling="ot", pool=3)
    for pool in range(4):
        parts = [batches(3 * pool + i) for i in range(3)]
        images, noise, labels = (
            np.concatenate([p[name] for p in parts]) for name in ("images", "noise", "labels")
        )
        drawn = np.random.default_rng((data.NOISE, 5, pool)).standard_normal(
            noise.shape, np.float32
        )
        # Each label keeps the noise that was drawn in its places, so its noise is normal.
        for label in range(2):
            here = labels == label
            assert np.array_equal(np.sort(noise[here], axis=0), np.sort(drawn[here], axis=0))
            assert cost(images[here], noise[here]) < cost(images[here], drawn[here])


def test_couplings_that_do_not_fit_the_data_are_refused():
    with pytest.raises(ValueError, match="coupling='to' is not known; the choices are"):
        data.Batches(toy(), 4, 0, "to")
    with pytest.raises(ValueError, match="no noise of its own"):
        data.Batches(toy(), 4, 0, "reflow")
    with pytest.raises(ValueError, match="separate the pairs"):
        data.Batches(toy(noise=True), 4, 0, "reflow", flip=True)
    with pytest.raises(ValueError, match="size=0"):
        data.Batches(toy(), 0, 0)
