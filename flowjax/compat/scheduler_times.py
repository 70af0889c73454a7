"""The times at which a scheduler of diffusers evaluates the network, and the labels it gives them.

Here a discrete VP network of N training steps has the time t = (n + 1)/N at its index
n = 0, ..., N-1. The schedulers of a flow work with sigma/alpha of the linear path or with t itself.
The order of the operations is that of diffusers, so that its truncated labels come out alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowjax import grids, plans
from flowjax.compat.scheduler_config import Options, betas_of, respacing
from flowjax.compat.scheduler_lists import Asked
from flowjax.compat.scheduler_options import full_name
from flowjax.compat.scheduler_respacing import checked_range, respaced
from flowjax.compat.scheduler_values import check_number
from flowjax.schedules import Linear, Schedule, VPDiscrete

NAME = "compat.diffusers_plan"  # the function that errors speak for
ROUNDED = ("karras", "lu")  # respacings after which diffusers rounds the index of a label
ROUNDING = 1e-6  # relative error that the float32 numbers of a file may have

# Where the result lies: at t = 0; at the noise level of the first training step; or at the last
# evaluation, so that the last step has no length.
AT_ZERO, AT_FIRST_BETA, AT_LAST_EVALUATION = "zero", "first beta", "last evaluation"


class Evaluations(NamedTuple):
    """Where a scheduler evaluates the network.

    Attributes:
      times: (n,) the times of the states, decreasing.
      label_times: (n,) the times that diffusers gives to the network, truncated or rounded.
      end: the time of the result.
      labels_given: the labels are the caller's own.
      skipped: steps of the complete grid before these.
    """

    times: np.ndarray
    label_times: np.ndarray
    end: float
    labels_given: bool = False
    skipped: int = 0

    @property
    def last_step_is_empty(self) -> bool:
        """Whether the result lies where the last evaluation lies, so that it changes nothing."""
        return self.end >= self.times[-1] * (1 - 1e-9)

    @property
    def count(self) -> int:
        """Number of evaluations of the complete grid, those before these included."""
        return self.skipped + len(self.times)

    def last(self, steps: int) -> "Evaluations":
        """The last `steps` of these evaluations."""
        first = len(self.times) - steps
        return self._replace(
            times=self.times[first:],
            label_times=self.label_times[first:],
            skipped=self.skipped + first,
        )


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


# ---- flows


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
        label_times = np.floor(times * train) / train
    result = rules.result(options, asked.peers, bool(rule))
    end = {
        AT_ZERO: 0.0,
        AT_FIRST_BETA: _first_beta_on_flow(options, bool(rule)),
        AT_LAST_EVALUATION: times[-1],
    }[result]
    # Two lists are states and labels; one list alone is both, before the shift.
    labels_given = asked.timesteps is not None and asked.sigmas is not None
    return Evaluations(times, label_times, end, labels_given)


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
    ratios = np.exp(-_log_snr_of_nodes(betas_of(options)))
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
    if "beta_schedule" not in options:
        return 0.0
    betas = betas_of(options)
    if is_respaced:
        # The respacing runs over sigma/alpha, and so does its end.
        return float(Linear().time_of_log_snr(_log_snr_of_nodes(betas)[0]))
    # diffusers takes sigma/alpha of the betas for t. It has 1 - beta in float32, which makes this
    # 0.0100013 for beta = 1e-4, instead of 0.0100005.
    one = np.float32(1)
    alpha_squared = one - np.float32(betas.betas[0])
    return float(np.sqrt((one - alpha_squared) / alpha_squared))


# ---- VP networks


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
    log_snr = _log_snr_of_nodes(betas)  # (train,), decreasing with the index
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
    first_time = 1 / betas.steps if path is betas else float(path.time_of_log_snr(log_snr[0]))
    end = {AT_ZERO: 0.0, AT_FIRST_BETA: first_time, AT_LAST_EVALUATION: times[-1]}[
        rules.result(options, asked.peers, rule is not None)
    ]
    return Evaluations(times, label_times, end)


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


def _log_snr_of_nodes(schedule: VPDiscrete) -> np.ndarray:
    """Log-SNR at the times of all training steps, (steps,)."""
    return schedule.log_snr(np.arange(1, schedule.steps + 1) / schedule.steps)


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
    if len(index) and index[0] > train - 1:
        raise ValueError(
            f"{NAME}: steps_offset={options['steps_offset']} leads to the training step "
            f"{index[0]:g}, and the last of the {train} steps is {train - 1}; take a smaller "
            "steps_offset."
        )
    if len(index) == 0:
        raise ValueError(
            f"{NAME}: lambda_min_clipped={options['lambda_min_clipped']} leaves no training step; "
            "take a smaller number, such as -5.1."
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
