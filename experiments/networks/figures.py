"""The figure of a section: quantities of each network, side by side."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import report
from experiments.networks.catalogue import NETWORKS
from experiments.networks.numbers import ACCURACY, LOSS, Value
from experiments.networks.topics import HELD, IN_TIME, ORDER

# {quantity: the words of its axis}, a panel each.
PANELS = {
    ORDER: "order of AB3",
    IN_TIME: "fall of the second difference in time, step 1/80 (4 is smooth)",
    HELD: "distance of held copies, 8 devices, over sample size",
    LOSS: "final loss",
    ACCURACY: "samples with their label",
}
COLOURS = {"1000 t": report.RED, "1 - t": report.BLUE}


def draw(networks: list[str], found: dict[str, dict[str, Value]]) -> Figure:
    """A row a network and a panel a quantity; bars are 95 % intervals over starts."""
    shown = [name for name in PANELS if any(name in found[network] for network in networks)]
    height = 0.3 * len(networks) + 1.3
    fig, axes = report.canvas(1, max(len(shown), 1), width=10.6, height=height)
    axes = [axes] if len(shown) < 2 else list(axes)
    for ax, quantity in zip(axes, shown, strict=False):
        for place, network in enumerate(networks):
            if quantity in found[network]:
                _dot(ax, place, found[network][quantity], COLOURS[_clock(network)])
        ax.set(xlabel=PANELS[quantity], ylim=(len(networks) - 0.5, -0.5))
        ax.set_yticks(range(len(networks)), [""] * len(networks))
    axes[0].set_yticklabels([NETWORKS[network].words for network in networks])
    return fig


def _clock(network: str) -> str:
    return NETWORKS[network].changes["clock"]


def _dot(ax: Axes, place: int, at: Value, colour: str) -> None:
    """A number with its interval."""
    ax.plot([at.low, at.high], [place, place], color=colour, linewidth=1.2)
    ax.plot(at.value, place, "o", color=colour)
