"""Where a scheduler of diffusers evaluates the network: the result of `flow_times` and `vp_times`.

Here a discrete VP network of N training steps has the time t = (n + 1)/N at its index
n = 0, ..., N-1. The schedulers of a flow work with sigma/alpha of the linear path or with t itself.
The order of the operations is that of diffusers, so that its truncated labels come out alike.
"""

from typing import NamedTuple

import numpy as np

from flowjax.schedules import VPDiscrete

NAME = "compat.diffusers_plan"  # the function that errors speak for

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


def log_snr_of_nodes(schedule: VPDiscrete) -> np.ndarray:
    """Log-SNR at the times of all training steps, (steps,)."""
    return schedule.log_snr(np.arange(1, schedule.steps + 1) / schedule.steps)
