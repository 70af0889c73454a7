"""The questions on networks: the field is the network guided, the truth is another solver's."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import flowjax
from configs.order import get_config
from experiments.lab import subjects
from experiments.lab.statistics import row_norms, scale_of
from experiments.order import clock, guided, learned, nfe, smooth
from experiments.order.learned import numbers
from flowjax import geometry, models

TINY = dataclasses.replace(
    get_config("quick"),
    networks=("digits", "digits-ot"),
    network_nfe=(4, 8),
    network_scales=(1.0, 4.0),
    network_starts=3,
    network_steps=64,
    shifts=(1.0, 3.0, 6.0),
)


def random_network(seed):
    """A small network of random weights, small enough to be smooth in its clock."""
    size = models.preset("digits", patch=4, width=16, depth=1, heads=2)
    model = models.init(size, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [
        leaf + 0.05 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return model._replace(params=jax.tree.unflatten(tree, drawn))


@pytest.fixture(scope="module", autouse=True)
def networks():
    """Random networks under the names of the shipped ones; other names are loaded as ever."""
    found = {"digits": random_network(0), "digits-ot": random_network(2)}

    def load(name):
        return found[name] if name in found else models.load(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects, "load", load)
        yield found


@pytest.fixture(scope="module")
def noise():
    drawn = flowjax.draw_noise(jax.random.key(0), np.arange(3), (8, 8, 1))
    return np.asarray(drawn, np.float32)


@pytest.fixture(scope="module")
def rows():
    todo = learned.cells(TINY)
    found = [{**key, **values} for key, values in learned.measure(TINY, todo)]
    # Each row has the key of one cell, and each cell has a row.
    keys = [next(key for key in todo if key.items() <= row.items()) for row in found]
    assert sorted(map(str, todo)) == sorted(map(str, keys))
    return found


# ---- cells, and what is refused


def test_the_coupled_networks_are_read_without_guidance_and_shifts_are_one_and_three():
    found = learned.cells(TINY)
    subject = {(cell["model"], cell["scale"]) for cell in found}
    assert subject == {("digits", 1.0), ("digits", 4.0), ("digits-ot", 1.0)}
    assert {cell["shift"] for cell in found if cell["part"] == "error"} == {1.0, 3.0}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"networks": ("digits", "nonesuch")}, "nonesuch"),
        ({"network_scales": (1.5, 4.0)}, r"network_scales: \(1.5, 4.0\)"),
    ],
)
def test_a_network_that_is_not_there_and_no_scale_one_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        learned.check(dataclasses.replace(TINY, **change))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"smooth": ("nonesuch",)}, "smooth: 'nonesuch'"),
        ({"smooth": ("digits-ot",), "networks": ()}, "networks is empty"),
    ],
)
def test_twins_that_are_not_there_or_are_of_nothing_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        smooth.check(dataclasses.replace(TINY, **change))


# ---- runs of a network


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_field_is_the_network_guided(networks, scale):
    model, field = networks["digits"], subjects.make_network("digits", scale, 3)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    conditional = model.apply(model.params, x, 0.4, np.arange(3))
    null = model.apply(model.params, x, 0.4, np.full(3, 10))
    wanted = null + scale * (conditional - null)
    np.testing.assert_allclose(field.velocity(x, np.float32(0.4)), wanted, atol=2e-5)


def test_the_reference_is_what_scipy_finds(noise):
    field = subjects.make_network("digits", 4.0, 3)
    exact, doubling, bent = numbers.reference(field, noise, TINY.network_steps)
    velocity = jax.jit(field.velocity)

    def flat_velocity(t, x):
        return np.asarray(velocity(x.reshape(noise.shape), np.float64(t))).ravel()

    start = noise.ravel().astype(np.float64)
    found = solve_ivp(flat_velocity, (1.0, 0.0), start, rtol=1e-5, atol=1e-5)
    off = row_norms(found.y[:, -1].reshape(noise.shape) - exact).max()
    assert off / scale_of(exact) < 10 * doubling < 0.1
    assert set(bent) == {*numbers.BENT, "smoothness"}
    assert set(numbers.BENT) <= set(geometry.PathGeometry._fields)


def test_smoothness_of_a_smooth_and_of_a_jumping_velocity():
    t = 1 - np.arange(160)[:, None, None] / 160
    assert numbers.smoothness(np.sin(t)) == pytest.approx(2, abs=0.05)
    jumping = np.random.default_rng(0).standard_normal((160, 50, 4))
    assert numbers.smoothness(jumping) == pytest.approx(0, abs=0.05)


def test_errors_and_ratios_are_those_of_single_runs(rows, noise):
    wanted = {"part": "error", "model": "digits", "scale": 4.0, "shift": 1.0, "nfe": 8}
    row = next(row for row in rows if wanted.items() <= row.items())
    field = subjects.make_network("digits", 4.0, 3)
    exact = numbers.reference(field, noise, TINY.network_steps)[0]
    # Euler's method by hand.
    x = noise
    for i in range(8):
        x = x - np.asarray(field.velocity(x, np.float32(1 - i / 8))) / 8
    by_hand = np.sqrt(np.mean(row_norms(x - exact) ** 2)) / scale_of(exact)
    rms = {line["solver"]: line["rms"] for line in row["solvers"]}
    assert rms["Euler"] == pytest.approx(by_hand, rel=1e-3)
    pair = next(p for p in row["pairs"] if (p["a"], p["b"]) == ("DPM++ 2M", "Euler"))
    assert pair["rms_ratio"] == pytest.approx(rms["DPM++ 2M"] / rms["Euler"])


def test_the_digits_that_float32_costs_are_few(rows):
    found = [row["float32"] for row in rows if row["part"] == "path" and row["scale"] == 1.0]
    assert all(0 < value < 1e-5 for value in found)


# ---- networks beside exact fields


def cell(ratio, verdict, **key):
    """An error cell in which every pair has this ratio, and every error falls with order 2."""
    low, high = {"better": (0.4, 0.6), "worse": (1.5, 2.0), "tie": (0.9, 1.3)}[verdict]
    values = {"rms_ratio": ratio, "rms_verdict": verdict, "rms_low": low, "rms_high": high}
    pairs = [{"a": a, "b": b, **values} for a, b in numbers.PAIRS]
    solvers = [{"solver": solver, "rms": key["nfe"] ** -2.0} for solver in numbers.SOLVERS]
    return {**key, "pairs": pairs, "solvers": solvers}


def synthetic():
    """Order pays on networks, on exact fields at many evaluations only, on guided ones never."""
    network = {"question": "learned", "part": "error", "model": "digits"}
    exact = {"question": "nfe", "field": "ring"}
    mixture = {"question": "guided", "part": "error", "field": "ring", "scale": 4.0}
    made = []
    for shift in (1.0, 3.0):
        for n in (10, 40):
            for scale in (1.0, 4.0):
                made.append(cell(0.5, "better", **network, scale=scale, shift=shift, nfe=n))
            made.append(cell(0.8 if n > 20 else 1.25, "tie", **exact, shift=shift, nfe=n))
            made.append(cell(1.01, "tie", **mixture, grid=f"shift {shift:g}", nfe=n))
        # No network has this cell, so that it must not count.
        made.append(cell(9.0, "worse", **exact, shift=shift, nfe=15))
    return made


def test_exact_fields_stand_beside_networks_on_the_same_cells():
    table = numbers.beside(synthetic())
    few = [line for line in table if (line["scale"], line["NFE"]) == (1, "<= 20")]
    line = next(line for line in few if line["pair"].startswith("DPM++ 2M"))
    assert line["exact fields"] == "0 better, 0 worse, 2 neither"
    assert line["networks"] == "2 better, 0 worse, 0 neither"
    assert (line["ratio, exact fields"], line["ratio, networks"]) == pytest.approx((1.25, 0.5))
    # Same: above 20. Opposite: at most 20. Open: guided, where the exact ratio is a draw.
    assert numbers.agreement(table) == (4, 4, 8)


def test_order_between_the_last_two_counts():
    for line in numbers.slopes(synthetic()):
        assert (line["order on exact fields"], line["order on networks"]) == pytest.approx((2, 2))


def test_winners_with_equal_counts_stand_in_the_order_of_the_solvers():
    def won_by(name):
        return {"solvers": [{"solver": s, "rms": 1.0 - (s == name)} for s in numbers.SOLVERS]}

    cells = [won_by(name) for name in ("AB2", "DPM++ 2M", "Euler", "AB2")]
    assert numbers.winners(cells) == [("AB2", 2), ("Euler", 1), ("DPM++ 2M", 1)]


def test_rho_is_asked_whether_order_three_loses():
    key = {"question": "learned", "part": "error", "scale": 1.0, "shift": 1.0, "nfe": 10}
    found = [("worse", 2.0), ("better", 0.5), ("worse", 1.5), ("better", 0.1), ("tie", 9.0)]
    made = [
        {**cell(1.0, verdict, model=str(i), **key), "rho_3": rho}
        for i, (verdict, rho) in enumerate(found)
    ]
    value, _, _, lost, won = numbers.rho_tells(made)
    assert (value, lost, won) == (1, 2, 2)


def test_section_is_drawn_with_and_without_the_exact_fields(rows):
    others = [r for r in synthetic() if r["question"] in (nfe.QUESTION, guided.QUESTION)]
    for added in ([], others):
        made = learned.section(rows + added, "a command")
        assert made.table and made.figures and "**" in made.answer and made.expected
        assert "nan" not in made.answer


# ---- the clock


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wave:
    """A velocity of the time alone."""

    frequency: float

    def velocity(self, x, t):
        """(B, D)."""
        return jax.numpy.cos(self.frequency * t) + 0 * x


def test_second_differences_of_a_wave_in_time():
    found = clock.second_differences(Wave(3.0), np.zeros((2, 3)))
    for line in found:
        exact = 2 - 2 * np.cos(3.0 * line["h"])
        assert (line["path"], line["time alone"]) == pytest.approx((exact, exact), rel=1e-9)
        assert line["state alone"] < 1e-12
    # The state alone does not move this velocity; a number in its place lets the ratio exist.
    row = {"differences": [line | {"state alone": 1.0} for line in found]}
    assert clock.shrinkage(row)["time alone"] == pytest.approx(4, abs=0.01)


def test_the_clock_is_asked_of_networks_beside_the_exact_field_of_their_data():
    config = dataclasses.replace(TINY, networks=("digits",), fields=("digits",))
    rows = [{**key, **values} for key, values in clock.measure(config, clock.cells(config))]
    assert [row["kind"] for row in rows] == ["exact field", "network"]
    assert clock.shrinkage(rows[0])["state alone"] > 2.5
    made = clock.section(rows, "a command")
    assert made.figures and made.table and "of 1 network by" in made.answer


# ---- the twins


def error_cells(model, power):
    """Error cells of a network whose errors fall with `power`; Euler's fall with order 1."""
    made = []
    for shift, n in ((1.0, 20), (1.0, 40), (3.0, 20), (3.0, 40)):
        solvers = [
            {"solver": solver, "rms": n**-order, "median": n ** -(order + 0.5)}
            for solver in smooth.SHOWN
            for order in [1.0 if solver == "Euler" else power]
        ]
        key = {"question": "smooth", "part": "error", "scale": 1.0, "shift": shift, "nfe": n}
        made.append({**key, "model": model, "solvers": solvers, "pairs": []})
    return made


def test_orders_of_the_twins_are_the_slopes_of_their_errors():
    made = error_cells("rough", 1.0) + error_cells("soft", 2.5)
    table = smooth.orders(made)
    # Shift by shift, by RMS error and by the median.
    assert len(table) == 2 * 2 * len(smooth.SHOWN)
    for shift in (1.0, 3.0):
        line = smooth.order_of(table, "AB3", shift)
        assert [line[name] for name in ("rough", "soft")] == pytest.approx([1.0, 2.5])
        assert smooth.order_of(table, "AB3", shift, "median")["soft"] == pytest.approx(3.0)
        assert smooth.order_of(table, "Euler", shift)["soft"] == pytest.approx(1.0)
    wanted = {"shift": 1.0, "NFE": 40, "solver": "AB2"}
    last = next(line for line in smooth.gains(made) if wanted.items() <= line.items())
    assert last["over Euler, soft"] == pytest.approx(40**-1.5)


def test_twins_are_asked_alike_and_their_section_is_drawn():
    config = dataclasses.replace(TINY, smooth=("digits-ot",), network_nfe=(4, 8))
    todo = smooth.cells(config)
    assert {cell["model"] for cell in todo} == {"digits", "digits-ot"}
    assert max(cell.get("nfe", 0) for cell in todo) == 16
    assert smooth.cells(dataclasses.replace(config, smooth=())) == []
    found = [{**key, **values} for key, values in smooth.measure(config, todo)]
    made = smooth.section(found, "a command")
    assert made.figures and made.table and "nan" not in made.answer
