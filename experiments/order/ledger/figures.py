"""The ledger as bars, one for each cause: of order 3, and of order 3 over order 2."""

import numpy as np

from experiments import report
from experiments.order.ledger.numbers import FACTORS


def _factors(bars: list[dict]) -> list[dict]:
    """The bars with gains as the factors that mending divides an error by."""
    return [
        bar | {name: float(np.exp(bar[name])) for name in ("gain", "low", "high")} for bar in bars
    ]


def draw_ledger(
    bars: list[dict], over: dict | None, names: str, seeds: int, title: str
) -> report.Picture:
    """The gain of each cause with its interval.

    Args:
      bars: of `ledger`, the largest gain first.
      over: of `over_order_2`, or None.
      names: of the fields, for the caption.
      seeds: that the intervals are over.
      title: the claim.
    """
    panels = {"error of 3M divided by": bars}
    if over:
        # The causes in the same order as on the left.
        of_cause = {bar["cause"]: bar for bar in over["bars"]}
        panels["error of 3M over that of 2M divided by"] = [of_cause[bar["cause"]] for bar in bars]
    # Factors on a linear axis that begins at 1, so that no change has no length.
    fig, axes = report.canvas(1, len(panels), width=5.2 * len(panels), height=2.9)
    for ax, (xlabel, shown) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        report.bar_ledger(
            ax,
            _factors(shown),
            label="cause",
            value="gain",
            low="low",
            high="high",
            xlabel=xlabel,
            start=1.0,
        )
    gains = "; ".join(f"{bar['cause']} {report.sig(np.exp(bar['gain']))}" for bar in bars)
    return report.picture(
        fig,
        f"What mending a cause divides the error of 3M by: {gains}.",
        f"Shapley values over all {1 << len(FACTORS)} combinations on the same noise, geometric "
        f"mean over fields ({names}), shifts and steps; lines are 95 % intervals over {seeds} "
        "seeds. 1 is no change.",
        title=title,
    )
