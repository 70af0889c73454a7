"""Other label times: what the network receives, and what the page says of the errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.order import label_times
from experiments.order.label_times import RelabelledField
from flowjax import Linear


class Clock:
    """A field whose velocity is the time that it receives."""

    schedule = Linear()

    def velocity(self, x, t):
        return jnp.full_like(x, t)


def received(t, **options):
    return float(RelabelledField(Clock(), **options).velocity(jnp.zeros(1), t)[0])


def test_a_network_as_it_is_receives_the_time_itself():
    assert received(0.3) == pytest.approx(0.3)


def test_rounded_label_times_are_multiples_of_the_spacing():
    found = [received(t, spacing=0.25) for t in (0.1, 0.3, 0.9)]
    np.testing.assert_allclose(found, [0.0, 0.25, 1.0], atol=1e-6)


def test_averaged_label_times_are_symmetric_and_stay_in_the_range_of_training():
    assert received(0.5, offset=0.1) == pytest.approx(0.5)
    # 0.9 and 1.1: the second becomes 1.
    assert received(1.0, offset=0.1) == pytest.approx(0.95)
    # -0.1 and 0.1: the first becomes 0.
    assert received(0.0, offset=0.1) == pytest.approx(0.05)


def made_row(better):
    """A row in which `better` of the ways have a lower error, and the others a higher one."""
    ways = [way for way in label_times.WAYS if way != label_times.AS_IT_IS]
    lines = []
    for n in label_times.EVALUATIONS:
        for solver in label_times.SOLVERS:
            for way in label_times.WAYS:
                ratio = 1.0 if way == label_times.AS_IT_IS else 0.5 if way in better else 2.0
                verdict = "tie" if ratio == 1 else "better" if ratio < 1 else "worse"
                line = {"evaluations": n, "solver": solver, "way": way, "rms": 0.01 * ratio}
                line |= {"rms_ratio": ratio, "rms_low": 0.9 * ratio, "rms_high": 1.1 * ratio}
                lines.append(line | {"rms_verdict": verdict})
    assert set(better) <= set(ways)
    row = {"question": label_times.QUESTION, "model": "digits", "lines": lines}
    return row | {"doubling": 1e-4, "starts": 12}


@pytest.mark.parametrize(
    ("better", "says"),
    [
        ((), "averaged times: better in **0**, worse in 36 of 36"),
        (("averaged over 1/20",), "averaged times: better in **9**, worse in 27 of 36"),
    ],
)
def test_the_page_counts_what_the_rows_hold(better, says):
    section = label_times.section([made_row(better)], "command")
    assert says in section.answer
    assert len(section.table["Errors, digits"]) == 9 * len(label_times.WAYS)


def test_a_network_that_is_not_there_is_refused():
    from configs.order import Config

    with pytest.raises(ValueError, match="label_networks.*digitz"):
        label_times.check(Config(label_networks=("digitz",)))
