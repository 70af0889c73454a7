"""The order question on networks: its field is the network guided, its truth is another solver's, its counts are right."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from configs import order
from experiments.order import clock, guided, learned, nfe, smooth
from flowjax import geometry, models

TINY = dataclasses.replace(
    order.get_config("quick"), networks=("digits", "digits-ot"), network_nfe=(4, 8), network_scales=(1.0, 4.0),
    network_starts=3, network_steps=64, shifts=(1.0, 3.0, 6.0),
)  # fmt: skip


def random_network(seed):
    """A small network of random weights, small enough to be smooth in its clock."""
    model = models.init(
        models.preset("digits", patch=4, width=16, depth=1, heads=2), jax.random.key(seed)
    )
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [
        leaf + 0.05 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return model._replace(params=jax.tree.unflatten(tree, drawn))


@pytest.fixture(scope="module", autouse=True)
def networks():
    found = {"digits": random_network(0), "digits-ot": random_network(2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            learned, "load", lambda name: found[name] if name in found else models.load(name)
        )
        yield found


@pytest.fixture(scope="module")
def rows():
    todo = learned.cells(TINY)
    found = [{**key, **values} for key, values in learned.measure(TINY, todo)]
    assert sorted(map(str, todo)) == sorted(
        str({k: row[k] for k in key})
        for key, row in zip(sorted_keys(todo, found), found, strict=True)
    )
    return found


def sorted_keys(todo, found):
    """The keys in the order of the rows found."""
    return [
        next(
            key
            for key in todo
            if all(row[k] == v for k, v in key.items()) and key["part"] == row["part"]
        )
        for row in found
    ]


def test_the_coupled_networks_are_read_without_guidance_and_shifts_are_one_and_three():
    found = learned.cells(TINY)
    assert {(c["model"], c["scale"]) for c in found} == {
        ("digits", 1.0),
        ("digits", 4.0),
        ("digits-ot", 1.0),
    }
    assert {c["shift"] for c in found if c["part"] == "error"} == {1.0, 3.0}


@pytest.mark.parametrize(
    "change, text",
    [
        ({"networks": ("digits", "nonesuch")}, "nonesuch"),
        ({"network_scales": (1.5, 4.0)}, r"network_scales=\(1.5, 4.0\)"),
    ],
)
def test_a_network_that_is_not_there_and_no_scale_one_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        learned.cells(dataclasses.replace(TINY, **change))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_field_is_the_network_guided(networks, scale):
    model, field = networks["digits"], learned.make("digits", scale, 3)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    conditional = model.apply(model.params, x, 0.4, np.arange(3))
    null = model.apply(model.params, x, 0.4, np.full(3, 10))
    np.testing.assert_allclose(
        field.velocity(x, np.float32(0.4)), null + scale * (conditional - null), atol=2e-5
    )


def test_the_reference_is_what_scipy_finds(networks):
    field = learned.make("digits", 4.0, 3)
    noise = np.asarray(
        learned.flowjax.draw_noise(jax.random.key(0), np.arange(3), (8, 8, 1)), np.float32
    )
    exact, doubling, bent = learned._reference(field, noise, TINY.network_steps)
    velocity = jax.jit(field.velocity)
    found = solve_ivp(
        lambda t, x: np.asarray(velocity(x.reshape(noise.shape), np.float64(t))).ravel(),
        (1.0, 0.0), noise.ravel().astype(np.float64), rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    scale = learned.lab.scale_of(exact)
    error = learned.lab.row_norms(found.y[:, -1].reshape(noise.shape) - exact).max() / scale
    assert error < 10 * doubling < 0.1
    assert set(bent) == {*learned.BENT, "smoothness"} and set(learned.BENT) <= set(
        geometry.PathGeometry._fields
    )


def test_smoothness_of_a_smooth_and_of_a_jumping_velocity():
    t = 1 - np.arange(160)[:, None, None] / 160
    assert learned.smoothness(np.sin(t)) == pytest.approx(2, abs=0.05)
    assert learned.smoothness(
        np.random.default_rng(0).standard_normal((160, 50, 4))
    ) == pytest.approx(0, abs=0.05)


def test_errors_and_ratios_are_those_of_single_runs(rows, networks):
    row = next(
        r
        for r in rows
        if r["part"] == "error"
        and (r["scale"], r["shift"], r["nfe"]) == (4.0, 1.0, 8)
        and r["model"] == "digits"
    )
    field = learned.make("digits", 4.0, 3)
    noise = np.asarray(
        learned.flowjax.draw_noise(jax.random.key(0), np.arange(3), (8, 8, 1)), np.float32
    )
    exact = learned._reference(field, noise, TINY.network_steps)[0]
    x = noise
    for i in range(8):
        x = x - np.asarray(field.velocity(x, np.float32(1 - i / 8))) / 8
    by_hand = np.sqrt(np.mean(learned.lab.row_norms(x - exact) ** 2)) / learned.lab.scale_of(exact)
    rms = {s["solver"]: s["rms"] for s in row["solvers"]}
    assert rms["Euler"] == pytest.approx(by_hand, rel=1e-3)
    pair = next(p for p in row["pairs"] if (p["a"], p["b"]) == ("DPM++ 2M", "Euler"))
    assert pair["rms_ratio"] == pytest.approx(rms["DPM++ 2M"] / rms["Euler"])


def test_the_digits_that_float32_costs_are_few(rows):
    found = [r["float32"] for r in rows if r["part"] == "path" and r["scale"] == 1.0]
    assert all(0 < f < 1e-5 for f in found)


def cell(ratio, verdict, **key):
    pairs = [{"a": a, "b": b, "rms_ratio": ratio, "rms_verdict": verdict} for a, b in learned.PAIRS]
    solvers = [{"solver": s, "rms": key["nfe"] ** -2.0} for s in learned.SOLVERS]
    return {**key, "pairs": pairs, "solvers": solvers}


def synthetic():
    """Networks where order pays, exact fields where it does at many evaluations only; guided mixtures where it does not."""
    made = []
    for shift in (1.0, 3.0):
        for n in (10, 40):
            made += [
                cell(
                    0.5,
                    "better",
                    question="learned",
                    part="error",
                    model="digits",
                    scale=s,
                    shift=shift,
                    nfe=n,
                )
                for s in (1.0, 4.0)
            ]
            made.append(
                cell(
                    0.8 if n > 20 else 1.25, "tie", question="nfe", field="ring", shift=shift, nfe=n
                )
            )
            made.append(
                cell(
                    1.01,
                    "tie",
                    question="guided",
                    part="error",
                    field="ring",
                    scale=4.0,
                    grid=f"shift {shift:g}",
                    nfe=n,
                )
            )
        made.append(
            cell(9.0, "worse", question="nfe", field="ring", shift=shift, nfe=15)
        )  # no network has it
    return made


def test_exact_fields_stand_beside_networks_on_the_same_cells():
    table = learned.beside(synthetic())
    line = next(
        t
        for t in table
        if t["pair"].startswith("DPM++ 2M") and t["scale"] == 1 and t["NFE"] == "<= 20"
    )
    assert line["exact fields"] == "0 better, 2 ties, 0 worse"
    assert line["networks"] == "2 better, 0 ties, 0 worse"
    assert (line["ratio, exact fields"], line["ratio, networks"]) == pytest.approx((1.25, 0.5))
    assert learned.agreement(table) == (
        4,
        4,
        8,
    )  # above 20; at most 20; guided, where the exact ratio is a draw


def test_order_between_the_last_two_counts():
    for line in learned.slopes(synthetic()):
        assert (line["order on exact fields"], line["order on networks"]) == pytest.approx((2, 2))


def test_rho_is_asked_whether_order_three_loses():
    key = {"question": "learned", "part": "error", "scale": 1.0, "shift": 1.0, "nfe": 10}
    found = [("worse", 2.0), ("better", 0.5), ("worse", 1.5), ("better", 0.1), ("tie", 9.0)]
    made = [{**cell(1.0, v, model=str(i), **key), "rho_3": rho} for i, (v, rho) in enumerate(found)]
    value, _, _, lost, won = learned.rho_tells(made)
    assert (value, lost, won) == (1, 2, 2)


def test_section_is_drawn_with_and_without_the_exact_fields(rows):
    for beside in ([], synthetic()):
        made = learned.section(
            rows + [r for r in beside if r["question"] in (nfe.QUESTION, guided.QUESTION)],
            "a command",
        )
        assert made.table and made.figures and "**" in made.answer and made.expected
        assert "nan" not in made.answer


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
    assert clock.shrinkage({"differences": [{**d, "state alone": 1.0} for d in found]})[
        "time alone"
    ] == pytest.approx(4, abs=0.01)


def test_the_clock_is_asked_of_networks_beside_the_exact_field_of_their_data():
    config = dataclasses.replace(TINY, networks=("digits",), fields=("digits",))
    rows = [{**key, **values} for key, values in clock.measure(config, clock.cells(config))]
    assert [r["kind"] for r in rows] == ["exact field", "network"]
    assert clock.shrinkage(rows[0])["state alone"] > 2.5
    made = clock.section(rows, "a command")
    assert made.figures and made.table and "of 1 networks" in made.answer


def told(model, power):
    """Error cells of a network whose errors fall with `power`, in every solver but Euler, which has order 1."""
    made = []
    for shift, n in ((1.0, 20), (1.0, 40), (3.0, 20), (3.0, 40)):
        solvers = [
            {"solver": s, "rms": n ** -(1.0 if s == "Euler" else power)} for s in smooth.SHOWN
        ]
        key = {
            "question": "smooth",
            "part": "error",
            "scale": 1.0,
            "shift": shift,
            "nfe": n,
            "model": model,
        }
        made.append({**key, "solvers": solvers, "pairs": []})
    return made


def test_orders_of_the_twins_are_the_slopes_of_their_errors():
    made = told("rough", 1.0) + told("soft", 2.5)
    table = {line["solver"]: line for line in smooth.orders(made)}
    assert [table["AB3"][name] for name in ("rough", "soft")] == pytest.approx([1.0, 2.5])
    assert table["Euler"]["soft"] == pytest.approx(1.0)
    last = next(
        line
        for line in smooth.gains(made)
        if (line["shift"], line["NFE"], line["solver"]) == (1.0, 40, "AB2")
    )
    assert last["over Euler, soft"] == pytest.approx(40**-1.5)


def test_twins_are_asked_alike_and_their_section_is_drawn():
    config = dataclasses.replace(TINY, smooth=("digits-ot",), network_nfe=(4, 8))
    todo = smooth.cells(config)
    assert {c["model"] for c in todo} == {"digits", "digits-ot"} and max(
        c.get("nfe", 0) for c in todo
    ) == 16
    assert smooth.cells(dataclasses.replace(config, smooth=())) == []
    found = [{**key, **values} for key, values in smooth.measure(config, todo)]
    made = smooth.section(found, "a command")
    assert made.figures and made.table and "nan" not in made.answer
