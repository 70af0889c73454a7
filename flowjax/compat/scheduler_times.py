"""The times at which a scheduler of diffusers evaluates the network, and the labels it gives them.

Here a discrete VP network of N training steps has the time t = (n + 1)/N at its index
n = 0, ..., N-1. The schedulers of a flow work with sigma/alpha of the linear path or with t itself.
The order of the operations is that of diffusers, so that its truncated labels come out alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from flowjax import grids, plans
from flowjax.compat.scheduler_config import Options, respacing, schedule_of
from flowjax.schedules import Linear, VPDiscrete

KARRAS_RHO = 7
BETA_SHAPE = 0.6  # both parameters of the beta distribution
ROUNDED = ("karras", "lu")  # respacings after which diffusers rounds the index of a label


class Evaluations(NamedTuple):
    """Where a scheduler evaluates the network.

    Attributes:
      times: (n,) the times of the states, decreasing.
      label_times: (n,) the times that diffusers gives to the network, truncated or rounded.
      end: the time of the result.
    """

    times: np.ndarray
    label_times: np.ndarray
    end: float

    @property
    def last_step_is_empty(self) -> bool:
        """Whether the result lies where the last evaluation lies, so that it changes nothing."""
        return self.end >= self.times[-1] * (1 - 1e-9)


class FlowRules(NamedTuple):
    """How a class places its evaluations on the linear path.

    Attributes:
      base: (options, steps, shift, peers) -> (steps,) the times before the shift.
      respace: (rule, times, options) -> (steps,) the times after a respacing.
      shift_option: the option that holds the shift.
      truncates_labels: diffusers rounds the label down to a whole training step.
      peers_start_gap: with grid="peers", how far below t = 1 the first time lies.
      stops_early: (options, peers) -> whether the result lies at the last evaluation, above t = 0.
    """

    base: Callable[[Options, int, float, bool], np.ndarray]
    respace: Callable[[str, np.ndarray, Options], np.ndarray]
    shift_option: str
    truncates_labels: bool
    stops_early: Callable[[Options, bool], bool]
    peers_start_gap: float = 0.0


class VPRules(NamedTuple):
    """How a class places its evaluations on the path of a discrete VP network.

    Attributes:
      includes_last: the evaluations spread from the last training step to the first, both
        included; otherwise one point more is spread, and the point at the first step is left out.
      keeps_fractions: with timestep_spacing="linspace", an index need not be a whole number.
      respaces_own_range: a respacing runs between the first and the last of its own evaluations;
        otherwise over all training steps.
      respaced_index: (index, options) -> the index of the labels after a respacing.
      stops_early: options -> whether the result lies at the first training step, above t = 0.
    """

    includes_last: bool
    keeps_fractions: bool
    respaces_own_range: bool
    respaced_index: Callable[[np.ndarray, Options], np.ndarray]
    stops_early: Callable[[Options], bool]


def flow_evaluations(
    options: Options, rules: FlowRules, steps: int, mu: float | None, peers: bool
) -> Evaluations:
    """Where a class evaluates the network on the linear path.

    Args:
      options: as `scheduler_config.read` returns them.
      rules: of the class.
      steps: number of inference steps.
      mu: exponent of the dynamic shift, needed only where it is on.
      peers: reproduce the grid of diffusers where it differs from the corrected one.
    """
    # Shifted times.
    shift = _shift(options, rules, mu)
    base = rules.base(options, steps, shift, peers)
    times = grids.shifted(base, shift)

    # Changes of the shifted times: the terminal stretch, then a respacing.
    if options.get("shift_terminal"):
        # `stretched` wants a grid that ends at 0.
        times = grids.stretched(np.append(times, 0.0), options["shift_terminal"])[:-1]
    rule = respacing(options)
    if rule:
        times = rules.respace(rule, times, options)
    if peers and abs(times[0] - 1) < rules.peers_start_gap:
        times[0] -= rules.peers_start_gap

    # Labels and the end.
    label_times = times
    if rules.truncates_labels:
        train = options["num_train_timesteps"]
        label_times = np.floor(times * train) / train
    end = times[-1] if rules.stops_early(options, peers) else 0.0
    return Evaluations(times, label_times, end)


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
    spaced = respaced(rule, times[0], times[-1], len(times))
    # The powers of the rule may move t = 1 by a rounding error, so the first time is set.
    return np.append(times[0], spaced[1:])


def respace_vp_ratios(rule: str, times: np.ndarray, options: Options) -> np.ndarray:
    """The respacing of the other classes on a flow.

    diffusers takes the range of sigma/alpha from the VP betas of the config, also on a flow.
    """
    vp_schedule = schedule_of({**options, "use_flow_sigmas": False})
    ratios = np.exp(-_log_snr_of_nodes(vp_schedule))
    spaced = respaced(rule, ratios[-1], ratios[0], len(times))
    return Linear().time_of_log_snr(-np.log(spaced))


def _shift(options, rules, mu):
    """The shift of the times, fixed or dynamic."""
    if not options.get("use_dynamic_shifting"):
        return options[rules.shift_option]
    if mu is None:
        raise ValueError(
            "compat.diffusers_plan: use_dynamic_shifting is on and mu is None; pass mu, for "
            "example mu=numpy.log(grids.dynamic_shift(tokens)), or use_dynamic_shifting=False."
        )
    return math.exp(mu) if options["time_shift_type"] == "exponential" else mu


def vp_evaluations(
    options: Options, rules: VPRules, schedule: VPDiscrete, steps: int
) -> Evaluations:
    """Where a class evaluates a discrete VP network.

    Args:
      options: as `scheduler_config.read` returns them.
      rules: of the class.
      schedule: of the betas of the config.
      steps: number of inference steps.
    """
    train = schedule.steps
    log_snr = _log_snr_of_nodes(schedule)  # (train,), decreasing with the index
    ratios = np.exp(-log_snr)  # sigma/alpha at each training step

    # The training steps that the timestep spacing chooses.
    index = _spaced_index(options, rules, log_snr, steps)
    if index[0] > train - 1:
        raise ValueError(
            f"compat.diffusers_plan: steps_offset={options['steps_offset']} leads to the training "
            f"step {index[0]:g}, and the last of the {train} steps is {train - 1}; take a smaller "
            "steps_offset."
        )
    times = (index + 1) / train
    # diffusers interpolates sigma/alpha, and not log-SNR, between the training steps.
    ratios_at_index = np.interp(index, np.arange(train), ratios)

    # A respacing of sigma/alpha moves the times, and its labels need not be whole numbers.
    rule = respacing(options)
    if rule:
        high, low = ratios[-1], ratios[0]
        if rules.respaces_own_range:
            high, low = ratios_at_index[0], ratios_at_index[-1]
        spaced = respaced(rule, high, low, steps)
        times = schedule.time_of_log_snr(-np.log(spaced))
        index = np.interp(np.log(spaced), -log_snr, np.arange(train))
        index = rules.respaced_index(index, options)
    elif np.any(index != np.round(index)):
        times = schedule.time_of_log_snr(-np.log(ratios_at_index))

    # The end: t = 0, or the time of the first training step.
    end = 0.0
    if rules.stops_early(options):
        end = times[-1] if rule else 1 / train
    return Evaluations(times, (index + 1) / train, end)


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


def respaced(rule: str, high: float, low: float, count: int) -> np.ndarray:
    """Values from `high` to `low` by the rules of `grids.karras`, `.exponential` and `.beta`.

    The functions in `grids` respace sigma/alpha; a scheduler respaces other quantities too. The
    rule "lu" is uniform in log-SNR, and so the same as "exponential" for sigma/alpha.

    Args:
      rule: a value of `scheduler_config.RESPACINGS`.
      high, low: the first and the last value, positive.
      count: number of values.

    Returns:
      (count,) float64.
    """
    fractions = np.linspace(0, 1, count)
    if rule == "karras":
        first, last = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
        return (first + fractions * (last - first)) ** KARRAS_RHO
    if rule == "beta":
        quantiles = stats.beta.ppf(1 - fractions, BETA_SHAPE, BETA_SHAPE)
        return low + quantiles * (high - low)
    return np.exp(np.log(high) + fractions * (np.log(low) - np.log(high)))


def _log_snr_of_nodes(schedule):
    """Log-SNR at the times of all training steps, (steps,)."""
    return schedule.log_snr(np.arange(1, schedule.steps + 1) / schedule.steps)


def _spaced_index(options, rules, log_snr, steps):
    """The training steps of the evaluations, decreasing; they may be fractions."""
    spacing = options["timestep_spacing"]
    # Training steps with a log-SNR below the clip are not used.
    clip = options.get("lambda_min_clipped", -math.inf)
    used = len(log_snr) - int(np.searchsorted(log_snr[::-1], clip))
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
