"""The price of tuning a network, from compiled programs."""

from experiments.tune import cost
from flowjax.models import DiTConfig


def test_a_derivative_costs_little_more_than_an_evaluation():
    config = DiTConfig((8, 8), channels=1, patch=1, width=32, depth=3, heads=4, classes=3)
    found = cost.cost(config, 16, 6)
    # The evaluation beside it is shared by six of them.
    assert 1 < found.tangent / found.forward < 1.6
    # Buffers of a network as small as this are shared less than those of a large one.
    assert found.derivatives < 3 * found.sampling
    assert found.numbers == 5 + 6 + 1 + 2 + 3 + 4 * 3
