"""The networks of this experiment: each differs from another one in one thing.

"fast" networks receive 1000 t, "smooth" ones 1 - t. Everything that a name does not say is that of
`configs/train_digits.py`, with the sizes of `configs/networks.py`.
"""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from configs import train_digits
from experiments.cli.run import check_names
from experiments.lab import training
from flowjax import models

if TYPE_CHECKING:
    from configs.networks import Config

LONGER = 4  # times the steps of training
CONFIG = "configs/train_digits.py"


class Network(NamedTuple):
    """One network.

    Attributes:
      words: what it is, for the page.
      changes: {field of configs/train_digits.py: value}.
      times: the factor of the steps of training.
      is_shipped: whether it is the network of this name that comes with flowjax; nothing is
        trained then, and `changes` only describes it.
    """

    words: str
    changes: dict[str, Any]
    times: int = 1
    is_shipped: bool = False


FAST = {"clock": "1000 t"}
SMOOTH = {"clock": "1 - t"}
OT = {"coupling": "ot"}
# As the shipped `digits-reflow` was trained.
REFLOW = {"coupling": "reflow", "pairs": 2048, "pair_steps": 10, "steps": 400}


def _seeds(name: str, clock: dict[str, Any]) -> dict[str, Network]:
    """A network with each of three training seeds."""
    return {
        f"{name}-seed{seed}": Network(f"{clock['clock']}, seed {seed}", clock | {"seed": seed})
        for seed in range(3)
    }


def _sizes(field: str, values: tuple[int, ...]) -> dict[str, Network]:
    """A network that receives 1 - t with each value of one size."""
    return {
        f"smooth-{field}{value}": Network(f"1 - t, {field} {value}", SMOOTH | {field: value})
        for value in values
    }


NETWORKS: dict[str, Network] = {
    # The clock, its highest frequency, and longer training.
    **_seeds("fast", FAST),
    **_seeds("smooth", SMOOTH),
    "fast-tenth": Network("100 t", FAST | {"clock_scale": 0.1}),
    "fast-hundredth": Network("10 t", FAST | {"clock_scale": 0.01}),
    "fast-long": Network(f"1000 t, {LONGER} times the steps", FAST, LONGER),
    "smooth-long": Network(f"1 - t, {LONGER} times the steps", SMOOTH, LONGER),
    # The coupling of noise and data.
    "digits-ot": Network("1000 t, coupling ot", FAST | OT, is_shipped=True),
    "digits-reflow": Network(
        "1000 t, reflow", FAST | REFLOW | {"teacher": "digits"}, is_shipped=True
    ),
    "smooth-ot": Network("1 - t, coupling ot", SMOOTH | OT),
    "smooth-reflow": Network("1 - t, reflow", SMOOTH | REFLOW | {"teacher": "digits-smooth"}),
    # The size.
    **_sizes("width", (48, 192)),
    **_sizes("depth", (2, 3, 4, 12)),
    # Attention.
    "fast-sana": Network("1000 t, linear attention", FAST | {"network": "sana"}),
    "smooth-sana": Network("1 - t, linear attention", SMOOTH | {"network": "sana"}),
}


# ---- their training


def training_of(config: "Config", name: str) -> train_digits.Config:
    """The configuration with which network `name` is trained."""
    network = NETWORKS[name]
    sizes = ("width", "depth", "heads", "batch", "warmup", "pool", "log_every", "save_every")
    common = {field: getattr(config, field) for field in sizes}
    steps = network.times * config.steps
    # One device, so that the same machine gives the same network; one picture, at the end.
    common |= {"steps": steps, "sample_every": steps, "devices": 1}
    return train_digits.Config(**(common | network.changes))


def command_of(given: train_digits.Config, workdir: str) -> str:
    """The command that trains a network by itself."""
    default = dataclasses.asdict(train_digits.Config())
    changed = {
        name: value for name, value in dataclasses.asdict(given).items() if value != default[name]
    }
    words = [f"--config={CONFIG}", f"--workdir={workdir}"]
    words += [f"--config.{name}={value}" for name, value in changed.items()]
    return f"python -m experiments.train {shlex.join(words)}"


# ---- cells and refusals


def cells(question: str, config: "Config") -> list[dict]:
    """One cell a network: the key of its row."""
    return [{"question": question, "network": name} for name in config.networks]


def check(config: "Config") -> None:
    """Refuse names that are not known and sizes that do not fit, before anything is trained."""
    check_names("networks", config.networks, NETWORKS)
    if len(set(config.nfe)) < 2 or min(config.nfe) < 3:
        raise ValueError(
            f"--config.nfe={config.nfe!r}; wanted two numbers of 3 evaluations or more: an order "
            "is read between two, and the solver of order 3 needs three."
        )
    for name in config.networks:
        if not NETWORKS[name].is_shipped:
            _check_training(name, training_of(config, name))


def _check_training(name: str, given: train_digits.Config) -> None:
    """Refuse sizes that training refuses, and a teacher of another size."""
    training.check(given)
    if given.coupling != "reflow":
        return
    teacher = models.load(given.teacher).card.config
    card = training.make_card(given, training.load_data(given.data, given.size))
    if card.config != teacher:
        raise ValueError(
            f"--config.networks: {name!r} goes on from {given.teacher}, with width "
            f"{teacher.width}, depth {teacher.depth} and {teacher.heads} heads; this run has width "
            f"{given.width}, depth {given.depth} and {given.heads} heads. Leave it out, or take "
            "the sizes of the teacher."
        )
