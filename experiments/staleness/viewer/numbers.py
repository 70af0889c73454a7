"""The viewer: its cells, its measurement, and when a difference counts as seen.

The viewer is the pair of classifiers of `experiments.quality.judges`, which learned from the data
and not from samples. It looks at samples of the same starts and labels, stale and synchronous.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.cli.run import check_names
from experiments.lab.subjects import check_networks
from experiments.quality import judges
from experiments.staleness import subjects
from flowjax import distances
from flowjax.parallel.stale.forecast import CORRECTION

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "viewer"
SYNCHRONOUS = "synchronous"
# {mode: options of `Subject.exchange`}; a warm-up is a fifth of the steps.
MODES: dict[str, dict[str, Any]] = {
    "held": {},
    "held, corrected": {"correction": CORRECTION},
    "tuned": {"forecast": "tuned"},
    "warm-up": {},
}
WARM = 1 / 5
# Resamples of an interval of Frechet distances: each takes two matrix roots.
RESAMPLES = 200
# Below this loss of label accuracy a run counts as one that a viewer cannot tell.
LITTLE = 0.02
# The clock whose networks are integrated by AB2.
STEEP_CLOCK = "1000 t"


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a network, number of steps and of devices, and mode; one device is synchronous."""
    return [
        {
            "question": QUESTION,
            "network": network,
            "steps": steps,
            "devices": devices,
            "mode": mode,
        }
        for network in config.viewer_networks
        for steps in config.viewer_steps
        for devices in (1, *config.viewer_devices)
        for mode in ((SYNCHRONOUS,) if devices == 1 else MODES)
    ]


def check(config: "Config") -> None:
    """Refuse networks and solvers that there are not."""
    known = [name for name in config.viewer_networks if name != subjects.RANDOM]
    check_networks("viewer_networks", known)
    check_names("one_solver", config.one_solver, subjects.ONE_ROW_SOLVERS)


def key_of(config: "Config", network: str) -> subjects.Key:
    """The subject that a network is, with the starts of this question."""
    is_emoji = network in subjects.EMOJI
    is_steep = network != subjects.RANDOM and judges.load(network).card.clock == STEEP_CLOCK
    return subjects.Key(
        name="emoji" if is_emoji else "network",
        seeds=config.seeds,
        starts=config.viewer_starts,
        slots=max(config.viewer_devices),
        reference_steps=config.viewer_fine_steps if is_steep else config.fine_steps,
        network=network,
        guidance=config.emoji_guidance if is_emoji else 1,
        reference_solver="AB2" if is_steep else "RK4",
    )


class _Judged(NamedTuple):
    """What the viewer says of B samples.

    Attributes:
      correct: (B,) 1 where the class is that of the label, else 0.
      classes: (B,) the class that the viewer sees.
      features: (B, F).
    """

    correct: np.ndarray
    classes: np.ndarray
    features: np.ndarray


def _judged(judge: judges.Judge, samples: np.ndarray, label: np.ndarray) -> _Judged:
    """`_Judged` of samples (B, H, W, C) that were drawn for the labels (B,)."""
    classes = judge.classifier.predict(samples.reshape(len(samples), -1))
    return _Judged((classes == label).astype(float), classes, judge.features(samples))


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors, label accuracy and Frechet distances, with paired differences.

    `accuracy_lost` is the accuracy of the synchronous run less that of this run, `frechet_more` the
    Frechet distance to the data of this run less that of the synchronous run. Both have intervals
    from resampled starts, which the two runs share.
    """
    for key in todo:
        where = key_of(config, key["network"])
        subject = subjects.subject(where)
        plan = subjects.plan_of(config.one_solver, key["steps"])
        own = subjects.synchronous(where, config.one_solver, key["steps"])
        found = subject.end(plan, subject.exchange(plan, key["devices"], **options_of(key)))
        yield (
            key,
            {
                **subject.compare(found.x, own),
                **_seen(key["network"], subject.seed, found.x, own),
                "staleness": found.staleness,
                "synced": found.synced,
                "solver": config.one_solver,
                "starts": len(own),
                "doubling": subject.doubling,
            },
        )


def options_of(key: dict) -> dict[str, Any]:
    """The options of the exchange of a cell."""
    if key["mode"] == SYNCHRONOUS:
        return {}
    warm = {"warmup": max(round(WARM * key["steps"]), 2)} if key["mode"] == "warm-up" else {}
    return MODES[key["mode"]] | warm


def _seen(network: str, seed: np.ndarray, samples: np.ndarray, own: np.ndarray) -> dict:
    """The numbers of the viewer, for the samples and for those of the synchronous run."""
    judge, label, reference = _viewer(network, len(samples))
    ours, theirs = (_judged(judge, x, label) for x in (samples, own))
    lost = theirs.correct - ours.correct
    accuracy = distances.bootstrap(ours.correct, np.mean, seed=0, groups=seed)
    low, high = distances.bootstrap(lost, np.mean, seed=0, groups=seed)
    more = _frechet_more(ours.features, theirs.features, reference, seed)
    return {
        "accuracy": float(ours.correct.mean()),
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        "accuracy_lost": float(lost.mean()),
        "accuracy_lost_low": low,
        "accuracy_lost_high": high,
        "relabelled": float(np.mean(ours.classes != theirs.classes)),
        "frechet": float(distances.frechet(ours.features, reference)),
        "frechet_to_sync": float(distances.frechet(ours.features, theirs.features)),
        **more,
    }


@functools.cache
def _viewer(network: str, count: int) -> tuple[judges.Judge, np.ndarray, np.ndarray]:
    """(judge, labels (count,) of the starts, features of the data) of a network."""
    judge = judges.judge("digits" if network == subjects.RANDOM else judges.data_of(network))
    classes = len(np.unique(judge.labels))
    return judge, np.arange(count) % classes, judge.features(judge.images)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (F,), covariance (F, F)) of features (B, F)."""
    return features.mean(0), np.cov(features, rowvar=False)


def _frechet_more(
    ours: np.ndarray, theirs: np.ndarray, reference: np.ndarray, seed: np.ndarray
) -> dict[str, float]:
    """How much farther from the data `ours` is than `theirs`, with its interval.

    Both are resampled by the same rows, seeds first.
    """

    # The moments of the data are the same in every resample.
    of_data = _moments(reference)

    def farther(rows: np.ndarray) -> float:
        stale, synchronous = (
            distances.gaussian_w2(*_moments(x[rows]), *of_data) ** 2 for x in (ours, theirs)
        )
        return stale - synchronous

    def each(rows: np.ndarray, axis: int) -> np.ndarray:
        return np.array([farther(row) for row in rows.astype(int)])

    every = np.arange(len(ours))
    low, high = distances.bootstrap(every, each, seed=0, groups=seed, resamples=RESAMPLES)
    return {"frechet_more": farther(every), "frechet_more_low": low, "frechet_more_high": high}


# -- numbers


def is_seen(row: dict) -> bool:
    """Whether the viewer tells the run from the synchronous one.

    The whole interval of the loss of accuracy, or of the Frechet distance, lies above 0.
    """
    return row["accuracy_lost_low"] > 0 or row["frechet_more_low"] > 0


def stale(rows: list[dict]) -> list[dict]:
    """The rows of more than one device."""
    return [row for row in rows if row["devices"] > 1]
