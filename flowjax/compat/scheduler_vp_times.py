"""The times at which a scheduler of diffusers evaluates a discrete VP network."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowjax import plans
from flowjax.compat.scheduler_config import Options, betas_of, respacing
from flowjax.compat.scheduler_lists import Asked
from flowjax.compat.scheduler_respacing import checked_range, respaced
from flowjax.compat.scheduler_times import (
    AT_LAST_EVALUATION,
    AT_ZERO,
    NAME,
    Evaluations,
    log_snr_of_nodes,
)
from flowjax.schedules import Schedule, VPDiscrete

ROUNDED = ("karras", "lu")  # respacings after which diffusers rounds the index of a label
ROUNDING = 1e-6  # relative error that the float32 numbers of a file may have


class VPRules(NamedTuple):
    """How a class places its evaluations on the path of a discrete VP network.

    Attributes:
      includes_last: the evaluations spread from the last training step to the first, both
        included; otherwise one point more is spread, and the point at the first step is left out.
      keeps_fractions: with timestep_spacing="linspace", an index need not be a whole number.
      respaces_own_range: a respacing runs between the first and the last of its own evaluations;
        otherwise over all training steps.
      respaced_index: (index, options) -> the index of the labels after a respacing.
      result: (options, peers, is_respaced) -> where the result lies.
    """

    includes_last: bool
    keeps_fractions: bool
    respaces_own_range: bool
    respaced_index: Callable[[np.ndarray, Options], np.ndarray]
    result: Callable[[Options, bool, bool], str]


def vp_evaluations(options: Options, rules: VPRules, path: Schedule, asked: Asked) -> Evaluations:
    """Where a class evaluates a discrete VP network.

    Args:
      options: as `scheduler_config.read` returns them.
      rules: of the class.
      path: of the config: that of its betas, or `Cosine`.
      asked: what the caller wants.
    """
    betas = betas_of(options)
    _check_training_steps(options, betas.steps, asked.steps)
    log_snr = log_snr_of_nodes(betas)  # (train,), decreasing with the index
    rule = respacing(options) if asked.sigmas is None else None

    # The index of the labels, and sigma/alpha of the states.
    if asked.sigmas is not None:
        ratios = asked.sigmas[:-1]
        _check_ratios(options, ratios, np.exp(-log_snr[-1]), path)
        index = rules.respaced_index(_index_of(ratios, log_snr), options)
    else:
        index = asked.timesteps
        if index is None:
            index = _spaced_index(options, rules, log_snr, asked.steps)
        _check_index(options, index, betas.steps)
        # diffusers interpolates sigma/alpha, and not log-SNR, between the training steps.
        ratios = np.interp(index, np.arange(betas.steps), np.exp(-log_snr))
    if rule:
        own_ends = (ratios[0], ratios[-1])
        ratios = _respaced_ratios(options, rules, rule, own_ends, asked.steps, log_snr, path)
        index = rules.respaced_index(_index_of(ratios, log_snr), options)

    # Their times. A whole index has its exact time.
    is_whole = np.array_equal(index, np.round(index))
    moved = rule is not None or asked.sigmas is not None or path is not betas
    if is_whole and not moved:
        times = (index + 1) / betas.steps
    else:
        # A rounding error may lead beyond t = 1.
        times = np.minimum(path.time_of_log_snr(-np.log(ratios)), 1.0)
    label_times = (index + 1) / betas.steps if path is betas else times

    # The end.
    if asked.sigmas is not None:
        last = asked.sigmas[-1]
        end = float(path.time_of_log_snr(-np.log(last))) if last > 0 else 0.0
        return Evaluations(times, label_times, end)
    result = rules.result(options, asked.peers, rule is not None)
    if result == AT_ZERO:
        return Evaluations(times, label_times, 0.0)
    if result == AT_LAST_EVALUATION:
        return Evaluations(times, label_times, times[-1])
    first_time = 1 / betas.steps if path is betas else float(path.time_of_log_snr(log_snr[0]))
    return Evaluations(times, label_times, first_time)


def snapped_index(index: np.ndarray, options: Options) -> np.ndarray:
    """The index itself, except that one within 1e-3 of a whole number becomes that number."""
    return plans.snap_labels(index, 1)


def whole_index(index: np.ndarray, options: Options) -> np.ndarray:
    """The index rounded after some respacings and truncated after the others, as diffusers does."""
    if respacing(options) in ROUNDED:
        return np.round(index)
    return _truncated(index)


def dpm_multistep_index(index: np.ndarray, options: Options) -> np.ndarray:
    """As `whole_index`; but this one class never rounds with the cosine betas."""
    if options["beta_schedule"] == "squaredcos_cap_v2":
        return _truncated(index)
    return whole_index(index, options)


def _index_of(ratios, log_snr):
    """The training steps with these sigma/alpha, linear in log-SNR between two steps."""
    # Outside the range of the training steps this is the first or the last of them.
    return np.interp(np.log(ratios), -log_snr, np.arange(len(log_snr)))


def _respaced_ratios(options, rules, rule, own_ends, steps, log_snr, path):
    """sigma/alpha after a respacing, between `own_ends` or the ends of the betas."""
    highest = np.exp(-log_snr[-1])
    high, low = own_ends if rules.respaces_own_range else (highest, np.exp(-log_snr[0]))
    if rule != "lu":
        high, low = checked_range(NAME, options, high, low)
    spaced = respaced(rule, high, low, steps)
    _check_ratios(options, spaced, highest, path)
    return spaced


def _spaced_index(options, rules, log_snr, steps):
    """The training steps of the evaluations, decreasing; they may be fractions."""
    # DPMSolverSinglestep has no such option, and spreads them evenly.
    spacing = options.get("timestep_spacing", "linspace")
    # Training steps with a log-SNR below the clip are not used.
    clip = options.get("lambda_min_clipped", -math.inf)
    used = len(log_snr) - int(np.searchsorted(log_snr[::-1], clip))
    if used == 0:
        raise ValueError(
            f"{NAME}: lambda_min_clipped={clip} leaves no training step; take a smaller number, "
            "such as -5.1."
        )
    points = steps if rules.includes_last else steps + 1
    if spacing == "linspace":
        index = np.linspace(0, used - 1, points)[::-1][:steps]
        return index if rules.keeps_fractions else index.round()
    if spacing == "leading":
        multiples = np.arange(points) * (used // points)
        return multiples[::-1][:steps] + float(options["steps_offset"])
    # "trailing"; with many steps the clip can lead below the first training step.
    index = (used - np.arange(steps) * (len(log_snr) / steps)).round() - 1
    return index[index >= 0]


def _truncated(index):
    """Rounded down; an index that lies a rounding error below a whole number is that number."""
    return np.floor(index + 1e-6)


def _check_training_steps(options, train, steps):
    """Refuse betas of another number, and more steps than the network was trained on."""
    if options["num_train_timesteps"] != train:
        raise ValueError(
            f"{NAME}: num_train_timesteps={options['num_train_timesteps']} and {train} "
            f"trained_betas; set num_train_timesteps={train}."
        )
    if steps > train:
        raise ValueError(
            f"{NAME}: steps={steps} are more than num_train_timesteps={train}, the training steps "
            f"that the network knows; take at most {train} steps."
        )


def _check_index(options, index, train):
    """Refuse a training step that the network does not have."""
    if index[0] > train - 1:
        raise ValueError(
            f"{NAME}: steps_offset={options['steps_offset']} leads to the training step "
            f"{index[0]:g}, and the last of the {train} steps is {train - 1}; take a smaller "
            "steps_offset."
        )


def _check_ratios(options, ratios, highest, path):
    """Refuse a noise level above that of the last training step, for which there is no label."""
    if isinstance(path, VPDiscrete) and ratios[0] > highest * (1 + ROUNDING):
        raise ValueError(
            f"{NAME}: sigma={ratios[0]:g} is above {highest:g}, that of the last training step, "
            "and the network has no label for it; take sigma_max (or sigmas) within the betas, or "
            "timestep_type='continuous' of an EulerDiscreteScheduler with v_prediction, whose "
            "network receives the noise level."
        )
