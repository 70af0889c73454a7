"""The times at which a scheduler of diffusers evaluates a flow network, on the linear path."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowjax import grids
from flowjax.compat.scheduler_config import Options, betas_of, respacing
from flowjax.compat.scheduler_lists import Asked
from flowjax.compat.scheduler_options import full_name
from flowjax.compat.scheduler_respacing import checked_range, respaced
from flowjax.compat.scheduler_times import (
    AT_FIRST_BETA,
    AT_LAST_EVALUATION,
    NAME,
    Evaluations,
    log_snr_of_nodes,
)
from flowjax.compat.scheduler_values import check_number
from flowjax.schedules import Linear


class FlowRules(NamedTuple):
    """How a class places its evaluations on the linear path.

    Attributes:
      base: (options, steps, shift, peers) -> (steps,) the times before the shift.
      respace: (rule, times, options) -> (steps,) the times after a respacing.
      shift_option: the option that holds the shift.
      truncates_labels: diffusers rounds the label down to a whole training step.
      result: (options, peers, is_respaced) -> where the result lies.
      peers_start_gap: with grid="peers", how far below t = 1 the first time lies.
      peers_respacings: the rules after which diffusers still has a flow.
    """

    base: Callable[[Options, int, float, bool], np.ndarray]
    respace: Callable[[str, np.ndarray, Options], np.ndarray]
    shift_option: str
    truncates_labels: bool
    result: Callable[[Options, bool, bool], str]
    peers_start_gap: float = 0.0
    peers_respacings: tuple[str, ...] = ()


def flow_evaluations(options: Options, rules: FlowRules, asked: Asked) -> Evaluations:
    """Where a class evaluates the network on the linear path.

    Args:
      options: as `scheduler_config.read` returns them.
      rules: of the class.
      asked: what the caller wants.
    """
    train = options["num_train_timesteps"]
    # Shifted times. A caller's list stands before the shift too.
    shift = _shift(options, rules, asked.mu)
    if asked.sigmas is not None:
        base = asked.sigmas
    elif asked.timesteps is not None:
        base = asked.timesteps / train
    else:
        base = rules.base(options, asked.steps, shift, asked.peers)
    times = grids.shifted(base, shift)

    # Changes of the shifted times: the terminal stretch, then a respacing.
    if options.get("shift_terminal"):
        times = _stretched(times, options["shift_terminal"])
    rule = respacing(options)
    if rule:
        _check_flow_respacing(options, rules, rule, asked.peers)
        times = rules.respace(rule, times, options)
    if asked.peers and abs(times[0] - 1) < rules.peers_start_gap:
        times[0] -= rules.peers_start_gap

    # Labels and the end.
    label_times = times
    if asked.timesteps is not None:
        label_times = asked.timesteps / train
    elif rules.truncates_labels:
        label_times = np.floor(_as_diffusers_rounds(times, base, shift) * train) / train
    result = rules.result(options, asked.peers, bool(rule))
    end = times[-1] if result == AT_LAST_EVALUATION else 0.0
    if result == AT_FIRST_BETA:
        end = _first_beta_on_flow(options, bool(rule))
    # Two lists are states and labels; one list alone is both, before the shift.
    labels_given = asked.timesteps is not None and asked.sigmas is not None
    return Evaluations(times, label_times, end, labels_given)


def _as_diffusers_rounds(times: np.ndarray, base: np.ndarray, shift: float) -> np.ndarray:
    """The times with the rounding errors of diffusers' formula of the shift.

    Where a time is a whole training step, such as 0.875, the last bit decides what is truncated.
    Times that have been changed after the shift are returned as they are.
    """
    base = np.asarray(base, np.float64)
    theirs = shift * base / (1 + (shift - 1) * base)
    return np.where(np.abs(theirs - times) < 1e-12, theirs, times)


def flow_match_base(options: Options, steps: int, shift: float, peers: bool) -> np.ndarray:
    """Uniform times of the FlowMatch classes, before the shift, (steps,)."""
    if not peers:
        return np.linspace(1, 0, steps + 1)[:-1]
    # diffusers takes its smallest time from a table that is shifted already, and shifts it again.
    # With a dynamic shift that table is not shifted.
    smallest = 1 / options["num_train_timesteps"]
    if not options.get("use_dynamic_shifting"):
        smallest = float(grids.shifted(smallest, shift))
    return np.linspace(1, smallest, steps)


def dpm_base(options: Options, steps: int, shift: float, peers: bool) -> np.ndarray:
    """Uniform times of the DPM-Solver and DEIS classes, before the shift: they start below 1."""
    smallest = 1 / options["num_train_timesteps"]
    return (1 - np.linspace(1, smallest, steps + 1))[::-1][:-1]


def unipc_base(options: Options, steps: int, shift: float, peers: bool) -> np.ndarray:
    """Uniform times of the UniPC class, before the shift: they start at 1."""
    smallest = 1 / options["num_train_timesteps"]
    return np.linspace(1, smallest, steps + 1)[:-1]


def respace_times(rule: str, times: np.ndarray, options: Options) -> np.ndarray:
    """The respacing of the FlowMatch classes: of the times themselves, between their two ends."""
    high, low = checked_range(NAME, options, times[0], times[-1])
    if high > 1:
        raise ValueError(
            f"{NAME}: sigma_max={high:g} is a time t in {full_name(options['class'])}, and t ends "
            "at 1; give sigma_max as sigma/(1 + sigma) of a ratio sigma, and sigma_min likewise."
        )
    spaced = respaced(rule, high, low, len(times))
    # The powers of the rule may move t = 1 by a rounding error, so the first time is set.
    return np.append(high, spaced[1:])


def respace_vp_ratios(rule: str, times: np.ndarray, options: Options) -> np.ndarray:
    """The respacing of the other classes on a flow: of sigma/alpha, which is t/(1 - t).

    diffusers takes the range from the VP betas of the config, also on a flow, unless the config
    gives sigma_min and sigma_max.
    """
    ratios = np.exp(-log_snr_of_nodes(betas_of(options)))
    high, low = ratios[-1], ratios[0]
    if rule != "lu":
        high, low = checked_range(NAME, options, high, low)
    spaced = respaced(rule, high, low, len(times))
    return Linear().time_of_log_snr(-np.log(spaced))


def _check_flow_respacing(options, rules, rule, peers):
    """Refuse to reproduce a grid that diffusers does not have."""
    if peers and rule not in rules.peers_respacings:
        raise ValueError(
            f"{NAME}: grid='peers' with the {rule} respacing of {full_name(options['class'])} on a "
            "flow: diffusers takes sigma/alpha for t there, and 1 - t is negative; keep "
            "grid='corrected', which steps to t = sigma/(1 + sigma)."
        )


def _shift(options, rules, mu):
    """The shift of the times, fixed or dynamic."""
    if mu is not None:
        check_number(NAME, "mu", mu, example=1.15)
    if not options.get("use_dynamic_shifting"):
        return options[rules.shift_option]
    if mu is None:
        raise ValueError(
            f"{NAME}: use_dynamic_shifting is on and mu is None; pass mu, for example "
            "mu=numpy.log(grids.dynamic_shift(tokens)), or use_dynamic_shifting=False."
        )
    is_exponential = options["time_shift_type"] == "exponential"
    # exp overflows at 710; below that, too large a shift gives equal times, which is refused too.
    shift = math.exp(min(mu, 709.0)) if is_exponential else mu
    if not shift > 0 or (is_exponential and mu > 709):
        meaning = f"exp({mu:g})" if is_exponential else f"{mu:g}"
        raise ValueError(
            f"{NAME}: mu={mu!r} makes the shift {meaning}; wanted a positive shift, for example "
            "mu=1.15, which is that of FLUX at 4096 tokens."
        )
    return shift


def _stretched(times, last):
    """The times stretched in 1 - t so that their last one is `last`."""
    if len(times) > 1:
        # `stretched` wants a grid that ends at 0.
        return grids.stretched(np.append(times, 0.0), last)[:-1]
    # A single evaluation is the last one and the first one; at pure noise it stays there.
    return times if times[0] == 1 else np.array([last])


def _first_beta_on_flow(options, is_respaced):
    """The time at which a flow ends with final_sigmas_type="sigma_min": a number of the betas."""
    betas = betas_of({**options, "rescale_betas_zero_snr": False})  # it leaves the first beta
    if is_respaced:
        # The respacing runs over sigma/alpha, and so does its end.
        return float(Linear().time_of_log_snr(log_snr_of_nodes(betas)[0]))
    # diffusers takes sigma/alpha of the betas for t. It has 1 - beta in float32, which makes this
    # 0.0100013 for beta = 1e-4, instead of 0.0100005.
    one = np.float32(1)
    alpha_squared = one - np.float32(betas.betas[0])
    return float(np.sqrt((one - alpha_squared) / alpha_squared))
