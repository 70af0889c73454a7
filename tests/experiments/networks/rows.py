"""Rows as the experiment measures them, with numbers that a test chooses."""

from experiments.networks.order import PAIRS, SOLVERS
from experiments.order.clock import STEPS


def training_row(network, loss=0.4):
    return {"question": "training", "network": network, "loss": loss, "parameters": 1000}


def order_row(network, order=1.0, ratio=0.5, width=0.0):
    """All solvers have the order `order`, and all ratios are `ratio`, plus and minus `width`."""
    line = {"order": order, "low": order - width, "high": order + width}
    ratios = {"ratio": ratio, "low": ratio - width, "high": ratio + width}
    return {
        "question": "order",
        "network": network,
        "errors": [{"solver": s, "nfe": n, "rms": 1 / n} for s in SOLVERS for n in (20, 40)],
        "orders": [{"solver": solver, "nfe": [20, 40], **line} for solver in SOLVERS],
        "ratios": [{"a": a, "b": b, "nfe": n, **ratios} for a, b in PAIRS for n in (20, 40)],
        "doubling": 1e-5,
        "starts": 8,
    }


def roughness_row(network, fall=4.0):
    """Halving a step divides all second differences by `fall`."""
    lines = []
    for power, steps in enumerate(STEPS):
        value = fall**-power
        lines.append({"h": 1 / steps, "path": value, "time alone": value, "state alone": value})
    return {"question": "roughness", "network": network, "differences": lines}


def staleness_row(network, held=0.1, over=0.3):
    def line(forecast, devices, rms, **values):
        interval = {"rms": rms, "rms_low": 0.9 * rms, "rms_high": 1.1 * rms}
        return {"forecast": forecast, "devices": devices, **interval, **values}

    distances = []
    for n in (4, 8):
        tuned = {"over_held": over, "over_held_low": 0.9 * over, "over_held_high": 1.1 * over}
        distances += [line("held", n, held), line("tuned", n, over * held, **tuned)]
    return {"question": "staleness", "network": network, "distances": distances}


def growth_row(network, push=2.0):
    ends = {"push": push, "push_low": push, "push_high": push}
    return {"question": "growth", "network": network, **ends}


def quality_row(network, accuracy=0.98):
    ends = {"low": accuracy - 0.01, "high": accuracy + 0.01}
    return {"question": "quality", "network": network, "accuracy": accuracy, **ends}


def all_rows(network, order=1.0):
    """A row of each question, of a network whose solvers have this order."""
    return [
        training_row(network),
        order_row(network, order),
        roughness_row(network),
        staleness_row(network),
        growth_row(network),
        quality_row(network),
    ]
