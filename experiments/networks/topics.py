"""The questions of the page: which networks are compared, and what is expected of them.

The bounds were written before any network of this experiment was trained. Half an order is the
bound of the claim on the clock in `experiments.order.claims`.
"""

from typing import NamedTuple

from experiments.networks.catalogue import LONGER
from experiments.networks.comparisons import DIFFERENCE, RATIO, Comparison
from experiments.networks.numbers import (
    PUSH,
    distance_of,
    fall_of,
    order_of,
    over_held_of,
    ratio_of,
)
from experiments.networks.order import PAIRS

FAST = ("fast-seed0", "fast-seed1", "fast-seed2")
SMOOTH = ("smooth-seed0", "smooth-seed1", "smooth-seed2")
HALF = 0.5  # of an order
SAME = (-HALF, HALF)  # a difference that counts as none
DEVICES = 8

ORDER = order_of("AB3")
SECOND, THIRD, _ = map(ratio_of, PAIRS)  # 2M over Euler, and 3M over 2M
IN_TIME = fall_of("time alone", 80)
HELD = distance_of("held", DEVICES)
TUNED = over_held_of(DEVICES)


class Topic(NamedTuple):
    """One section of the page.

    Attributes:
      name: of the figure.
      question, expected, caveat: of the section.
      networks: that stand in its figure and tables, in their order.
      comparisons: that its answer consists of.
      trends: {size: {value: network}} by increasing size.
    """

    name: str
    question: str
    expected: str
    caveat: str
    networks: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    trends: dict[str, dict[int, str]] = {}


def more_order(text: str, of: tuple[str, ...], base: tuple[str, ...]) -> Comparison:
    """AB3 has at least half an order more."""
    return Comparison(text, ORDER, of, base, DIFFERENCE, "above", HALF)


def same_order(text: str, of: tuple[str, ...], base: tuple[str, ...]) -> Comparison:
    """AB3 has the same order, to half an order."""
    return Comparison(text, ORDER, of, base, DIFFERENCE, "within", SAME)


def less(text: str, quantity: str, of: tuple[str, ...], base: tuple[str, ...]) -> Comparison:
    """A quantity is smaller."""
    return Comparison(text, quantity, of, base, RATIO, "below", 1)


def more(text: str, quantity: str, of: tuple[str, ...], base: tuple[str, ...]) -> Comparison:
    """A quantity is larger."""
    return Comparison(text, quantity, of, base, RATIO, "above", 1)


CLOCK = Topic(
    name="clock",
    question="Is it the clock that takes the order away, and is it its highest frequency?",
    expected=(
        "With every training seed a network that receives 1 - t lets order 3 pay, and one that "
        "receives 1000 t does not. The name of the clock does not matter but its highest frequency "
        "does, so 10 t is as good as 1 - t. Longer training does not mend it."
    ),
    caveat=(
        "Three training seeds are few: the interval of their mean has two degrees of freedom, and "
        "a factor of 4.3 before the standard error. Seeds change parameters, order of the data and "
        "noise of the training; data and size are always the same. Frequencies between 1000 t and "
        "10 t are taken at one point."
    ),
    networks=(*FAST, "fast-tenth", "fast-hundredth", *SMOOTH, "fast-long", "smooth-long"),
    comparisons=(
        more_order(
            "With 1 - t the error of AB3 falls faster than with 1000 t, by at least half an order",
            SMOOTH,
            FAST,
        ),
        more(
            "With 1 - t halving a step removes more of the roughness in time", IN_TIME, SMOOTH, FAST
        ),
        less("With 1 - t DPM++ 3M gains more over 2M", THIRD, SMOOTH, FAST),
        less("With 1 - t a tuned forecast leaves less of held copies' error", TUNED, SMOOTH, FAST),
        more_order(
            "With 100 t AB3 has half an order more than with 1000 t", ("fast-tenth",), FAST[:1]
        ),
        more_order(
            "With 10 t AB3 has half an order more than with 1000 t", ("fast-hundredth",), FAST[:1]
        ),
        same_order(
            "With 10 t AB3 has the order that it has with 1 - t, to half an order",
            ("fast-hundredth",),
            SMOOTH[:1],
        ),
        same_order(
            f"{LONGER} times the training leaves the order of AB3 with 1000 t, to half an order",
            ("fast-long",),
            FAST[:1],
        ),
        more_order(
            f"After {LONGER} times the training AB3 still has half an order more with 1 - t",
            ("smooth-long",),
            ("fast-long",),
        ),
    ),
)

COUPLING = Topic(
    name="coupling",
    question="Do straighter paths leave less to gain from order, where the clock is smooth?",
    expected=(
        "Yes. Couplings by optimal transport and reflow bend paths less, so Euler errs less and "
        "order 2 has less to gain. With 1000 t this could not be told from roughness in time, "
        "which these couplings had more of; with 1 - t it can."
    ),
    caveat=(
        "The two coupled networks with 1000 t are those that come with flowjax, trained with an "
        "earlier version of the code on another machine; their loss is that of the last 20 steps. "
        "The reflow networks go on from different teachers, digits and digits-smooth, for 400 "
        "steps; reflow changes the data too."
    ),
    networks=(
        "fast-seed0",
        "digits-ot",
        "digits-reflow",
        *SMOOTH,
        "smooth-ot",
        "smooth-reflow",
    ),
    comparisons=(
        more(
            "With 1 - t, coupling ot leaves less to gain from 2M",
            SECOND,
            ("smooth-ot",),
            SMOOTH[:1],
        ),
        more(
            "With 1 - t, reflow leaves less to gain from 2M", SECOND, ("smooth-reflow",), SMOOTH[:1]
        ),
        more_order(
            "With coupling ot AB3 has half an order more with 1 - t than with 1000 t",
            ("smooth-ot",),
            ("digits-ot",),
        ),
        more_order(
            "With reflow AB3 has half an order more with 1 - t than with 1000 t",
            ("smooth-reflow",),
            ("digits-reflow",),
        ),
        less(
            "With coupling ot held copies end nearer, with 1 - t",
            HELD,
            ("smooth-ot",),
            SMOOTH[:1],
        ),
    ),
)

WIDTHS = ("smooth-width48", "smooth-seed0", "smooth-width192")
DEPTHS = ("smooth-depth2", "smooth-depth3", "smooth-depth4", "smooth-seed0", "smooth-depth12")
SIZE = Topic(
    name="size",
    question="Does a larger network degrade less, by staleness or by few steps?",
    expected=(
        "It is said that larger models degrade less. By the loop of stale copies depth works the "
        "other way: each layer forwards what it missed, so a deeper network grows from a smaller "
        "push. Width should not matter, and neither should change the order of solvers."
    ),
    caveat=(
        "One training seed for each size, all with the same steps, so that larger networks also "
        "have a lower loss; which of the two acts is not separated. All are small."
    ),
    networks=("smooth-width48", "smooth-width192", *DEPTHS[:3], *SMOOTH, "smooth-depth12"),
    comparisons=(
        less(
            "Held copies end nearer with width 192 than with width 48", HELD, WIDTHS[2:], WIDTHS[:1]
        ),
        less(
            "Held copies end nearer with depth 12 than with depth 2", HELD, DEPTHS[4:], DEPTHS[:1]
        ),
        less(
            "Errors of copies grow from a smaller push at depth 12 than at 4",
            PUSH,
            DEPTHS[4:],
            DEPTHS[2:3],
        ),
        less("Held copies end nearer with depth 6 than with depth 2", HELD, SMOOTH[:1], DEPTHS[:1]),
        less(
            "Errors of copies grow from a smaller push at depth 6 than at 4",
            PUSH,
            SMOOTH[:1],
            DEPTHS[2:3],
        ),
        less(
            "Errors of copies grow from a smaller push at depth 4 than at 2",
            PUSH,
            DEPTHS[2:3],
            DEPTHS[:1],
        ),
        same_order("Depth 6 has the order of depth 2, to half an order", SMOOTH[:1], DEPTHS[:1]),
        same_order("Width 192 has the order of width 48, to half an order", WIDTHS[2:], WIDTHS[:1]),
        same_order("Depth 12 has the order of depth 2, to half an order", DEPTHS[4:], DEPTHS[:1]),
    ),
    trends={
        "width": dict(zip((48, 96, 192), WIDTHS, strict=True)),
        "depth": dict(zip((2, 3, 4, 6, 12), DEPTHS, strict=True)),
    },
)

ATTENTION = Topic(
    name="attention",
    question="Does linear attention change what holds of softmax attention?",
    expected=(
        "The roughness in time comes from the clock and not from attention, so the two clocks "
        "differ here as they do with softmax. Stale sums over keys should move samples less than "
        "stale keys and values, because a sum is smoother than its terms."
    ),
    caveat=(
        "One training seed each. The networks differ in more than the attention: the one with "
        "linear attention has a convolution in each layer, which reads this row's tokens. Its "
        "copies have no forecast, and the push of its loop is not measured."
    ),
    networks=("fast-seed0", *SMOOTH, "fast-sana", "smooth-sana"),
    comparisons=(
        more_order(
            "With linear attention AB3 has half an order more with 1 - t than with 1000 t",
            ("smooth-sana",),
            ("fast-sana",),
        ),
        same_order(
            "With 1 - t linear attention has the order of softmax, to half an order",
            ("smooth-sana",),
            SMOOTH[:1],
        ),
        less(
            "Stale sums of linear attention end nearer than held keys and values",
            HELD,
            ("smooth-sana",),
            SMOOTH[:1],
        ),
    ),
)

TOPICS = (CLOCK, COUPLING, SIZE, ATTENTION)
