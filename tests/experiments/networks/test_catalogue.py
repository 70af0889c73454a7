"""Each network is what its name says, and differs from another one in one thing."""

import dataclasses
import pathlib

import pytest

from configs.networks import Config, get_config
from experiments.cli import flags
from experiments.networks import catalogue
from experiments.networks.catalogue import NETWORKS, training_of

ROOT = pathlib.Path(__file__).parents[3]
# {network: what differs from the network of seed 0 with the same clock}
CHANGES = {
    **{f"{clock}-seed{seed}": {"seed": seed} for clock in ("fast", "smooth") for seed in range(3)},
    "fast-tenth": {"clock_scale": 0.1},
    "fast-hundredth": {"clock_scale": 0.01},
    "fast-long": {"steps": 4800, "sample_every": 4800},
    "smooth-long": {"steps": 4800, "sample_every": 4800},
    "digits-ot": {"coupling": "ot"},
    "smooth-ot": {"coupling": "ot"},
    "smooth-width48": {"width": 48},
    "smooth-width192": {"width": 192},
    **{f"smooth-depth{depth}": {"depth": depth} for depth in (2, 3, 4, 12)},
    "fast-sana": {"network": "sana"},
    "smooth-sana": {"network": "sana"},
}
# As the shipped digits-reflow was trained.
OF_REFLOW = {"coupling": "reflow", "pairs": 2048, "pair_steps": 10, "steps": 400}
CHANGES["digits-reflow"] = OF_REFLOW | {"teacher": "digits"}
CHANGES["smooth-reflow"] = OF_REFLOW | {"teacher": "digits-smooth"}


def test_the_full_run_has_every_network_once():
    assert sorted(Config().networks) == sorted(NETWORKS) == sorted(CHANGES)
    catalogue.check(Config())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_differs_in_what_its_name_says_and_in_nothing_else(name):
    given = dataclasses.asdict(training_of(Config(), name))
    is_smooth = name.startswith("smooth")
    assert given["clock"] == ("1 - t" if is_smooth else "1000 t")
    base = dataclasses.asdict(training_of(Config(), "smooth-seed0" if is_smooth else "fast-seed0"))
    changed = {field: value for field, value in given.items() if value != base[field]}
    # A seed 0 is its own base.
    assert changed == {k: v for k, v in CHANGES[name].items() if v != base[k]}


@pytest.mark.parametrize("name", ["fast-tenth", "smooth-reflow", "smooth-depth12"])
def test_the_command_of_a_network_gives_its_configuration(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = training_of(Config(), name)
    words = catalogue.command_of(given, "runs/one").replace("'", "").split(" --")[1:]
    found, values = flags.parse(["train", *(f"--{word}" for word in words)])
    assert values.workdir == "runs/one"
    assert dataclasses.asdict(found) == dataclasses.asdict(given)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"networks": ("fast-seed9",)}, "networks: 'fast-seed9' is not known; .*fast-seed0"),
        ({"nfe": (10,)}, r"nfe=\(10,\); wanted two numbers of 3 evaluations or more"),
        ({"nfe": (2, 10)}, "wanted two numbers of 3 evaluations or more"),
        ({"heads": 3}, "multiple of heads=3"),
        (
            {"networks": ("smooth-reflow",)},
            "goes on from digits-smooth, with width 96, depth 6 and 8 heads; this run has width 16",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(change, text):
    with pytest.raises(ValueError, match=text):
        catalogue.check(dataclasses.replace(get_config("quick"), **change))
