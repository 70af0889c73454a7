"""The options of error control with stale attention, on a mesh and emulated, each checked once."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowjax.adaptive.control import Tolerance
from flowjax.adaptive.options import check_span, check_tolerance
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.errors import check_choice
from flowjax.models import networks
from flowjax.models.card import Card
from flowjax.parallel.stale.history import HistoryRule, history_rule
from flowjax.schedules import Schedule


class AdaptiveOptions(NamedTuple):
    """How an image is sampled with steps that keep an error within a tolerance.

    Attributes:
      order, span, max_evaluations, method, variant: as in `flowjax.sample_adaptive`.
      staleness: the relative staleness |KV - copy|/|KV| of a step above which the next step is
        synchronous; infinite allows any.
      lockstep: all samples take the same steps. In lockstep, or with one sample for each part of
        the data axis, an evaluation is stale or synchronous for all of its samples.
      attention, forecast, history, estimate: as in `parallel.stale.history.history_rule`.
    """

    # What the caller must decide has no default.
    order: int
    span: tuple[float, float]
    max_evaluations: int
    staleness: float
    method: str = "dpm_solver_pp"
    variant: str = "midpoint"
    lockstep: bool = False
    attention: str = "stale"
    forecast: int = 1
    history: str = "newest"
    estimate: str = "as it is"

    @property
    def solver(self) -> dict[str, Any]:
        """The options of `flowjax.sample_adaptive` among these."""
        names = ("order", "span", "max_evaluations", "method", "variant", "lockstep")
        return {name: getattr(self, name) for name in names}


class Checked(NamedTuple):
    """What the options come to: the `HistoryRule`, the tolerance, and those of the solver."""

    rule: HistoryRule
    tolerance: Tolerance
    solver: dict[str, Any]


def check_attention(name: str, card: Card) -> None:
    """Refuse a network with linear attention, in the name of the function `name`."""
    if networks.is_linear(card.config):
        raise ValueError(
            f"{name}: {card.name} has linear attention, whose sums have no history here; take "
            "parallel.sample, or flowjax.sample_adaptive on one device."
        )


def check(
    name: str,
    card: Card,
    schedule: Schedule,
    tolerance: Tolerance,
    keywords: Mapping[str, Any],
) -> Checked:
    """The options of the public function `name`, from its keywords.

    Args:
      name: the function in whose name a refusal speaks.
      card: of the network.
      schedule: the path.
      tolerance: as in `flowjax.sample_adaptive`.
      keywords: fields of `AdaptiveOptions`.

    Raises:
      ValueError: a network with linear attention, an unknown or a missing keyword, or the first
        option that does not fit.
    """
    check_attention(name, card)
    # The names, before their values.
    for keyword in keywords:
        check_choice(name, "the option", keyword, AdaptiveOptions._fields)
    have_defaults = AdaptiveOptions._field_defaults
    needed = [field for field in AdaptiveOptions._fields if field not in have_defaults]
    missing = [field for field in needed if field not in keywords]
    if missing:
        raise ValueError(
            f"{name}: {', '.join(missing)} must be given, since no default suits every model; for "
            "example order=2, span=(1.0, 0.0), max_evaluations=1000, staleness=0.1."
        )
    # Each value; the solver checks its own once more where it is called.
    options = AdaptiveOptions(**keywords)
    rule = history_rule(
        name,
        find_pair(name, options.method, options.order, options.variant),
        schedule,
        check_span(name, options.span, tolerance),
        attention=options.attention,
        forecast=options.forecast,
        history=options.history,
        estimate=options.estimate,
        staleness=options.staleness,
    )
    return Checked(rule, check_tolerance(name, tolerance), options.solver)
