"""What samples are compared with: classifiers trained on the data, features, nearest images."""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

from flowjax import data, models

# A sample that is nearer to one image than this fraction of the distance to the next image is a
# copy (Gu et al. 2023, arXiv:2310.02664).
COPY = 1 / 3
LEARNED = 3 / 4  # fraction of the data that the classifiers learn from
COMPONENTS = 60  # principal components that both classifiers see

load = functools.cache(models.load)


class Judge(NamedTuple):
    """What the samples of one model are compared with.

    Attributes:
      classifier: a support vector machine on principal components, (N, F) pixels -> classes.
      network: a network with one hidden layer on the same components; its hidden layer is the
        features.
      images: (N, H, W, C) the data, in [-1, 1].
      labels: (N,) its classes.
      unseen: (M,) indices of the data that neither classifier has learned from.
    """

    classifier: Pipeline
    network: Pipeline
    images: np.ndarray
    labels: np.ndarray
    unseen: np.ndarray

    def correct(self, samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(B,) whether the classifier gives each sample the label that it was drawn for."""
        return self.classifier.predict(_flat(samples)) == labels

    def features(self, samples: np.ndarray) -> np.ndarray:
        """(B, 64) the hidden layer of the network."""
        hidden = self.network[-1]
        components = self.network[:-1].transform(_flat(samples))
        return np.maximum(components @ hidden.coefs_[0] + hidden.intercepts_[0], 0)


def _flat(samples: Any) -> np.ndarray:
    """(B, H W C) in float64."""
    return np.asarray(samples, np.float64).reshape(len(samples), -1)


def data_of(name: str) -> str:
    """The name, or the path, of the data that a network was trained on.

    It is the network's own name where its card does not tell.
    """
    try:
        details = load(name).card.details
    except FileNotFoundError as error:
        raise ValueError(f"quality: networks has {name!r}: {error}") from None
    return details.get("data", {}).get("name", name)


@functools.cache
def judge(name: str) -> Judge:
    """The judge of a data set: its classifiers are trained on three quarters of it."""
    found = data.load(name)
    pixels, labels = data.to_float(found.images), found.labels
    order = np.random.default_rng(0).permutation(len(found))
    seen, unseen = np.split(order, [int(LEARNED * len(order))])

    # The components keep their scale. With equal variances the faintest component of the digits,
    # 0.2 % of the largest, would dominate the features.
    classifier = make_pipeline(PCA(COMPONENTS, random_state=0), SVC(C=5.0))
    perceptron = MLPClassifier((64,), alpha=1.0, max_iter=40, random_state=0)
    network = make_pipeline(PCA(COMPONENTS, random_state=0), perceptron)

    classifier.fit(_flat(pixels[seen]), labels[seen])
    # The network is stopped early on purpose: its features serve as well, and remember less.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(_flat(pixels[seen]), labels[seen])
    return Judge(classifier, network, pixels, labels, unseen)


def neighbours(
    samples: np.ndarray, images: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances to the nearest and the second nearest image, as RMS over pixels.

    Args:
      samples: (B, H, W, C).
      images: (N, H, W, C).
      own: (B,) index of the image that a sample is itself, which is left out; None for none.

    Returns:
      (B,) the nearest distance, (B,) the second, (B,) the index of the nearest image.
    """
    apart = cdist(_flat(samples), _flat(images)) / np.sqrt(images[0].size)  # (B, N)
    if own is not None:
        apart[np.arange(len(apart)), own] = np.inf
    nearest_two = np.argsort(apart, axis=1)[:, :2]
    first, second = np.take_along_axis(apart, nearest_two, axis=1).T
    return first, second, nearest_two[:, 0]


def copies(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B,) whether a sample is a copy: much nearer to one image than to any other."""
    return first < COPY * second
