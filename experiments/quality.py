"""How good are the shipped models? Class accuracy, distances on a small network's features, and distances to the training set.

    python -m experiments.quality --config=configs/quality.py --workdir=runs/quality

Every number stands beside what the data itself gives: a classifier beside its accuracy on images it has not seen, a
distance beside that of two draws of the data, a nearest neighbour beside the data's own. What is learned here is a
scikit-learn classifier of a few thousand parameters, never Inception: no number here is an FID.
"""

import base64
import functools
import io
import json
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist

import flowjax
from experiments import report
from experiments.cli import images
from experiments.cli.run import main, progress
from experiments.order import lab
from flowjax import data, distances, guidance, models, records

QUESTION = "quality"
COPY = (
    1 / 3
)  # nearer to one image than a third of the way to the next: a copy (Gu et al. 2023, arXiv:2310.02664)
KEPT = 3 / 4  # share of the data that the classifiers learn from
SHOWN = 8  # samples of a class in a grid

WORDS = {
    "Frechet distance": "Squared Wasserstein distance of two Gaussians fitted to features, here of a network with one hidden layer that learned these classes.",
    "KID": "Squared maximum mean discrepancy of the same features with a cubic kernel; 0 in the mean for two draws of one distribution.",
    "copy": "A sample whose distance to the nearest training image is less than a third of that to the next.",
    "guidance": "Scale of classifier-free guidance: 1 is the conditional network alone.",
}

load = functools.cache(models.load)


class Judge(NamedTuple):
    """What the samples of one model are held to.

    Attributes:
      classifier: a support vector machine on principal components, (N, F) pixels -> classes.
      network: a network with one hidden layer on the same components; its hidden layer is the features.
      images, labels: the data, (N, H, W, C) in [-1, 1] and (N,).
      unseen: (M,) indices of the data that neither has learned from.
    """

    classifier: Any
    network: Any
    images: np.ndarray
    labels: np.ndarray
    unseen: np.ndarray

    def correct(self, samples, labels):
        """(B,) whether the classifier gives each sample the label that it was drawn for."""
        return self.classifier.predict(_flat(samples)) == labels

    def features(self, samples):
        """(B, 64) the hidden layer of the network."""
        hidden = self.network[-1]
        inputs = self.network[:-1].transform(_flat(samples))
        return np.maximum(inputs @ hidden.coefs_[0] + hidden.intercepts_[0], 0)


def data_of(name):
    """The name, or the path, of the data that a network was trained on; its own name where its card does not say."""
    try:
        return load(name).card.details.get("data", {}).get("name", name)
    except FileNotFoundError as error:
        raise ValueError(f"quality: networks has {name!r}: {error}") from None


@functools.cache
def judge(name):
    """The `Judge` of a data set: classifiers trained on three quarters of it."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    found = data.load(name)
    pixels, labels = data.to_float(found.images), found.labels
    order = np.random.default_rng(0).permutation(len(found))
    seen, unseen = np.split(order, [int(KEPT * len(order))])
    classifier = make_pipeline(PCA(60, random_state=0), SVC(C=5.0))
    network = MLPClassifier((64,), alpha=1.0, max_iter=40, random_state=0)
    # The components keep their scale: brought to one, the faintest of the digits, 0.2 % of the largest, would rule the features.
    network = make_pipeline(PCA(60, random_state=0), network)
    classifier.fit(_flat(pixels[seen]), labels[seen])
    with (
        warnings.catch_warnings()
    ):  # stopped early on purpose: its features serve as well, and forget the data better
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(_flat(pixels[seen]), labels[seen])
    return Judge(classifier, network, pixels, labels, unseen)


def _flat(samples):
    return np.asarray(samples, np.float64).reshape(len(samples), -1)


def cells(config):
    """One cell a model for its data, and one a model and scale."""
    return [
        cell
        for name in config.networks
        for cell in (
            {"question": QUESTION, "part": "data", "model": name},
            *(
                {"question": QUESTION, "part": "samples", "model": name, "scale": scale}
                for scale in config.scales
            ),
        )
    ]


def run(config, workdir):
    """Measure what `workdir` does not hold yet, and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    todo = [key for key in cells(config) if not kept.done(key)]
    for key in progress(todo, lambda key: ", ".join(str(value) for value in key.values())):
        kept.add(key, **(of_data if key["part"] == "data" else of_samples)(config, key))
    return kept.rows


def check(config):
    """Refuse what cannot be measured, before anything is drawn."""
    if config.solver not in lab.SOLVERS:
        raise ValueError(
            f"quality: solver={config.solver!r} is not known; wanted one of {', '.join(lab.SOLVERS)}."
        )
    if min(config.seeds, config.samples) < 2:
        raise ValueError(
            f"quality: seeds={config.seeds}, samples={config.samples}; wanted two or more of each."
        )
    for name in config.networks:
        size, classes = len(data.load(data_of(name))), len(data.load(data_of(name)).classes)
        if config.samples < classes:
            raise ValueError(
                f"quality: samples={config.samples} is less than one for each of the {classes} classes of {name}."
            )
        if config.samples + config.reference > size:
            raise ValueError(
                f"quality: samples={config.samples} and reference={config.reference} are more than the {size} images of {name}, "
                "and the floor wants as many different ones; lower one of them."
            )


# ---- measuring


def draw(model, labels, scale, seed, plan, batch):
    """Samples (B, H, W, C) of these labels, in batches of one size; sample i's noise depends on (seed, i)."""
    card, count = model.card, len(labels)
    run = _program((card.config, card.schedule, card.prediction, card.clock))
    made = []
    for first in range(0, count, batch):
        ids = np.arange(
            first, first + batch
        )  # beyond the end: thrown away, and the program stays the same
        noise = flowjax.draw_noise(
            jax.random.key(seed), ids, (*card.config.size, card.config.channels)
        )
        made.append(
            np.asarray(run(model.params, noise, np.resize(labels[first:], batch), scale, plan))
        )
    return np.concatenate(made)[:count]


@functools.cache
def _program(kind):
    """The compiled sampler of networks of one kind: (params, noise, label, scale, plan) -> samples."""
    card = models.Card("quality", *kind)

    @jax.jit
    def sample(params, noise, label, scale, plan):
        def network(x, t, label):
            return card.velocity(params, x, t, label)

        model = guidance.classifier_free(network, label, np.int32(card.null_label), scale)
        return flowjax.sample(model, noise, plan).x

    return sample


def neighbours(samples, images, own=None):
    """Distances (B,) to the nearest and the second nearest image, RMS over pixels, and the index of the nearest.

    Args:
      own: (B,) index of the image that a sample is itself, which is left out; None for none.
    """
    apart = cdist(_flat(samples), _flat(images)) / np.sqrt(images[0].size)
    if own is not None:
        apart[np.arange(len(apart)), own] = np.inf
    near = np.argsort(apart, axis=1)[:, :2]
    first, second = np.take_along_axis(apart, near, axis=1).T
    return first, second, near[:, 0]


def copies(first, second):
    """(B,) whether a sample is a copy: much nearer to one image than to any other."""
    return first < COPY * second


def of_data(config, key):
    """The values of a data set: what its own images give."""
    found = judge(data_of(key["model"]))
    first, second, _ = neighbours(found.images, found.images, np.arange(len(found.images)))
    seen = np.setdiff1d(np.arange(len(found.images)), found.unseen)
    values = {
        "accuracy": float(np.mean(found.correct(found.images[found.unseen], found.labels[found.unseen]))),
        "accuracy_seen": float(np.mean(found.correct(found.images[seen], found.labels[seen]))),
        "nearest": float(np.median(first)), "copies": float(np.mean(copies(first, second))), "images": len(first),
    }  # fmt: skip
    features = found.features(found.images)
    for name, distance in (("frechet", distances.frechet), ("kid", distances.kid)):
        floor = distances.floor(
            distance, lambda seed, n: np.random.default_rng(seed).permutation(features)[:n],
            (config.samples, config.reference), seeds=range(max(config.seeds, 8)),
        )  # fmt: skip
        values |= {name: floor.mean, f"{name}_sd": floor.sd}
    return values


def of_samples(config, key):
    """The values of one model and scale."""
    model, found = load(key["model"]), judge(data_of(key["model"]))
    classes = model.card.config.classes
    plan = lab.plan_of(config.solver, model.card.schedule, lab.shifted(1.0), config.nfe)
    labels = np.arange(config.samples, dtype=np.int32) % classes
    by_seed = [
        draw(model, labels, key["scale"], seed, plan, config.batch) for seed in range(config.seeds)
    ]
    everything, seed = np.concatenate(by_seed), np.repeat(np.arange(config.seeds), config.samples)
    correct = found.correct(everything, np.tile(labels, config.seeds)).astype(float)
    first, second, nearest = neighbours(everything, found.images)
    values = {
        **_mean("accuracy", correct, seed), **_mean("copies", copies(first, second).astype(float), seed),
        "nearest": float(np.median(first)), "samples": len(everything),
    }  # fmt: skip
    features = found.features(found.images)
    for name, distance in (("frechet", distances.frechet), ("kid", distances.kid)):
        each = [
            distance(
                found.features(x),
                np.random.default_rng(s).permutation(features)[: config.reference],
            )
            for s, x in enumerate(by_seed)
        ]
        values |= {name: float(np.mean(each)), f"{name}_sd": float(np.std(each, ddof=1))}
    columns = min(SHOWN, config.samples // classes)
    shown = np.concatenate([by_seed[0][labels == c][:columns] for c in range(classes)])
    pairs = np.concatenate([everything[:12], found.images[nearest[:12]]])
    return {
        **values,
        "grid": _png(images.grid(shown, columns)),
        "neighbours": _png(images.grid(pairs, 12)),
    }


def _mean(name, values, seed):
    """The mean of 0 and 1 with its 95 % interval, over seeds, then samples."""
    low, high = distances.bootstrap(values, np.mean, seed=0, groups=seed)
    return {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}


def _png(array):
    """(H, W, 3) bytes as a PNG in base64, as a row can hold it."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


# ---- what the rows say


def metrics(rows, name):
    """What a model's card says of its quality: numbers by guidance scale, each beside the data's own."""
    base, found = _split(rows, name)
    names = ("accuracy", "frechet", "kid", "nearest", "copies")
    return {
        "data": {n: base[n] for n in (*names, "accuracy_seen", "frechet_sd", "kid_sd")},
        "samples": {f"{r['scale']:g}": {n: r[n] for n in (*names, "samples")} for r in found},
        "meaning": "accuracy under an SVM (data: on images it has not seen), Frechet distance and KID on a small network's "
        "features (data: the floor), median distance to the nearest training image and share of copies (data: leaving "
        "each image out)",
    }


def table(rows, name):
    """[{what, accuracy, Frechet distance, KID, nearest, copies}]: the data first, then each scale."""
    return [
        {
            "what": "data" if r["part"] == "data" else f"guidance {r['scale']:g}",
            "class accuracy": r["accuracy"],
            "interval": f"{r['accuracy_low']:.3f} to {r['accuracy_high']:.3f}" if "accuracy_low" in r else "held out",
            "Frechet distance": r["frechet"], "its sd": r["frechet_sd"], "KID": r["kid"], "KID sd": r["kid_sd"],
            "nearest training image": r["nearest"], "copies": r["copies"],
        }
        for r in rows
        if r["model"] == name
    ]  # fmt: skip


def _says(rows, name):
    """The short answer: the best scale by Frechet distance, and what its samples are like."""
    base, found = _split(rows, name)
    best = min(found, key=lambda r: r["frechet"])
    scales = ", ".join(f"{r['scale']:g}" for r in found)
    return (
        f"At guidance **{best['scale']:g}**, the best of {scales} by Frechet distance, samples have the class asked for in **{best['accuracy']:.1%}**, "
        f"their Frechet distance on a small network's features is {report.sig(best['frechet'] / base['frechet'])} times that of two draws of the data, and "
        f"**{best['copies']:.1%}** are copies of a training image."
    )


def _split(rows, name):
    """(the row of the data, the rows of the scales) of one model."""
    own = [r for r in rows if r["model"] == name]
    return next(r for r in own if r["part"] == "data"), [r for r in own if r["part"] == "samples"]


def _details(rows, name):
    """Every scale beside what the data gives."""
    base, found = _split(rows, name)

    def each(text):
        return ", ".join(f"{text(r)} at {r['scale']:g}" for r in found)

    def frechet(r):
        return f"{report.sig(r['frechet'])} ± {report.sig(r['frechet_sd'])}"

    accuracy, copied = (
        each(lambda r, name=name: f"{r[name]:.1%}") for name in ("accuracy", "copies")
    )
    return (
        f"Class accuracy by guidance: {accuracy}; the classifier is right on {base['accuracy']:.1%} of images it has not seen and {base['accuracy_seen']:.1%} of "
        f"those it has. Frechet distance on a small network's features: {each(frechet)}; two draws of the data {frechet(base)}. The nearest training image lies "
        f"{each(lambda r: report.sig(r['nearest'] / base['nearest']))} times as far as the data's own nearest neighbours. Copies: {copied}, within the data "
        f"{base['copies']:.1%}."
    )


def _picture(text, alt, caption):
    return report.Picture(
        f'<img style="image-rendering:pixelated" alt="{alt}" src="data:image/png;base64,{text}">',
        caption,
    )


def sections(rows, command):
    """A section a model."""
    made = []
    for name in dict.fromkeys(r["model"] for r in rows):
        found = _split(rows, name)[1]
        pictures = [
            _picture(
                r["grid"],
                f"Samples of {name}, a row a class.",
                f"Guidance {r['scale']:g}: a row a class.",
            )
            for r in found
        ]
        first = found[0]
        pictures.append(
            _picture(
                first["neighbours"],
                f"Samples of {name} and the training images nearest to them.",
                f"Above: samples at guidance {first['scale']:g}. Below each: the training image nearest to it.",
            )
        )
        made.append(
            report.Section(
                question=f"How good is the {name} model?",
                expected="Guidance makes classes surer and the distribution narrower; samples are new.",
                answer=_details(rows, name),
                figures=tuple(pictures),
                table=table(rows, name),
                caveat="A classifier that learned from few images judges; the model has learned from all of them, those held out included. A copy is a sample nearer to "
                "one training image than a third of its distance to the next, in pixels: shifted copies escape. Frechet distances are biased at few samples, so compare them "
                "with the floor, which has as many.",
                command=command,
            )
        )
    return made


def make_report(workdir):
    """Draw the rows of `workdir` into report.html, and write each model's metrics for its card."""
    rows, origin = records.read(workdir), report.origin(workdir)
    made = []
    for name in dict.fromkeys(r["model"] for r in rows):
        made.append(f"{workdir}/{name}.metrics.json")
        records.write_text(made[-1], json.dumps(metrics(rows, name), indent=2) + "\n")
    lead = [f"**{name}.** {_says(rows, name)}" for name in dict.fromkeys(r["model"] for r in rows)]
    made_of = sections(rows, origin["command"])
    page = report.page(
        "How good are the shipped models?", lead, made_of, definitions=WORDS, **origin
    )
    return [report.write(str(pathlib.Path(workdir) / "report.html"), page), *made]


if __name__ == "__main__":
    main(run, make_report)
