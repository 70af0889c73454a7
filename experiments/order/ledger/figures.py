"""The ledger as bars, one for each cause."""

from experiments import report
from experiments.order.ledger.numbers import FACTORS


def _extremes(bars: list[dict]) -> str:
    """How far single cells are from the mean, as a sentence."""
    # The two largest causes only.
    reach = ", ".join(
        f"{report.sig(bar['least'])} to {report.sig(bar['most'])} ({bar['cause']})"
        for bar in bars[:2]
    )
    return f"Single cells reach from {reach}."


def draw_ledger(bars: list[dict], names: str, seeds: int) -> report.Picture:
    """The gain of each cause with its interval.

    Args:
      bars: of `ledger`, the largest gain first.
      names: of the fields, for the caption.
      seeds: that the intervals are over.
    """
    fig, ax = report.canvas(height=2.9)
    report.bar_ledger(
        ax,
        bars,
        label="cause",
        value="gain",
        low="low",
        high="high",
        xlabel="log of what mending divides the error by",
    )
    gains = "; ".join(f"{bar['cause']} {report.sig(bar['gain'])}" for bar in bars)
    return report.picture(
        fig,
        f"One bar a cause: {gains}.",
        f"Shapley values over all {1 << len(FACTORS)} combinations on the same noise, mean over "
        "fields "
        f"({names}), shifts and steps; lines: 95 % intervals over "
        f"{seeds} seeds. 0.69 is a factor of 2. {_extremes(bars)}",
    )
