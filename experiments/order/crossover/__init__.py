"""From how many evaluations on does the next order win, and does one law of scale predict it?

On the ring a mode of width std is resolved at log-SNR -log(std). If order k needs its k steps to
span less than pi/2 there, a grid uniform in t with a shift needs

    N*_k = (2 k/pi) / (u (1 - u)) = (2 k/pi) (r + 2 + 1/r),   u = 1/(1 + r),   r = shift/std,

which is (2 k/pi) shift/std when the modes are narrow. The law knows one event and nothing of the
end of the grid. So the error is read twice: at the end of the run as it is, and with everything
after the event solved accurately. Where "after" begins is a choice, so it is also moved.
"""

from experiments.order.crossover.numbers import (
    QUESTION,
    cells,
    crossover,
    fits,
    measure,
    observed,
)
from experiments.order.crossover.words import section

__all__ = ["QUESTION", "cells", "crossover", "fits", "measure", "observed", "section"]
