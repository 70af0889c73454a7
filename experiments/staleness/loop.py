"""(o) When does an error in what others see grow from row to row? The loop gain of forecasts, measured on networks.

In a row each device sees, of the others, W(K1, K2, ...), and computes keys and values with it; these are what the next rows
forecast from. Round that loop goes an error, by way of the layers of one row and by way of the state that moves. Its gain is
that of the row's derivative: with the state x, the last velocity and the keys and values of three rows as one vector,

    copy = sum_m w_m dK_m,    (dv, dK) = d(velocity, K)(x, copy) (dx, copy),    dx' = dx - h (3/2 dv - 1/2 dv'),

repeated at one time of one path. The rate at which that grows, its spectral radius, is to be compared with the path's own.
What to expect: of a wiggle z^-i what is told misses at most |1 - W|, and of that each layer sees a part. Let e_j be what of part j
is missed, and attention even. Part i then errs by what it sees of the others, mended by a share c of its own (`attention.corrected`):

    (n-1)/n c e_i - sum over j != i of e_j / n,

a map of (e_1, ... e_n) with two eigenvalues: (1 - c) (n-1)/n where all miss alike, and 1/n + c (n-1)/n where they differ. The larger
one times max |1 - W| is the `push` of a loop. It is least, 1/2 for every n, at c = (n - 2)/(2 n - 2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments import report
from experiments.staleness import lab
from flowjax import grids, models, plans
from flowjax.parallel.emulation.network import (
    contiguous,
    emulate_with,
    exchange,
    mixed_attention,
    tokens_of,
)
from flowjax.parallel.stale.forecast import CORRECTION, Forecast

QUESTION = "loop"
WEIGHTS = {
    "hold": (1, 0, 0), "linear, half": (1.5, -0.5, 0), "linear over two steps": (1.5, 0, -0.5), "tuned": (1.75, -0.5, -0.25),
    "linear": (2, -1, 0), "quadratic": (3, -3, 1),
}  # of tuned at a gain of 1  # fmt: skip
NETWORKS = {
    "digits": ("digits", "digits-smooth"),
    "random": ("random",),
}  # the shipped one and its twin that is told 1 - t
TIME, STEPS, PARTS = 0.5, 20, (2, 4, 8)
CORRECTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
ROUNDS = 60  # of the loop; the rate is that of the second half
GROWS = 1.05  # a rate this many times the path's own is a loop that grows by itself
FAST = 1.3  # a row: 190 times in 20 rows


def swing(weights):
    """The most of a wiggle z^-i that a forecast misses, max over |z| = 1 of |1 - sum_m w_m z^m|."""
    z = np.exp(1j * np.linspace(0, np.pi, 1001))
    return float(np.abs(1 - sum(w * z ** (m + 1) for m, w in enumerate(weights))).max())


def seen(devices, correction=0.0):
    """The part of what is missed that a layer sees: the larger eigenvalue, with even attention."""
    others = 1 - 1 / devices
    return max((1 - correction) * others, 1 - others + correction * others)


def cells(config):
    """One cell a network, forecast and number of devices, and correction; and of one network, linear, one thing changed."""
    if "network" not in config.asked:
        return []
    networks = NETWORKS.get(config.network, (config.network,))
    base = {"question": QUESTION, "network": networks[0], "forecast": "linear", "devices": PARTS[-1], "layers": 0,
            "time": TIME, "steps": STEPS, "state": "moves", "correction": 0.0}  # fmt: skip
    matrix = [
        base | {"network": network, "forecast": name, "devices": devices}
        for network in networks
        for name in WEIGHTS
        for devices in PARTS
    ]
    depth = network_of(networks[0]).card.config.depth
    changes = [
        *({"layers": count} for count in range(1, depth)), *({"time": time} for time in (0.9, 0.7, 0.3, 0.1)),
        *({"steps": steps} for steps in (2 * STEPS, 4 * STEPS)), {"state": "rests"},
    ]  # fmt: skip
    corrected = [
        cell | {"correction": share}
        for share in CORRECTIONS
        for cell in matrix
        if cell["devices"] == PARTS[-1] or share == CORRECTION
    ]
    return matrix + [base | change for change in changes] + corrected


@functools.cache
def network_of(name):
    """The network called `name`."""
    return lab.stand_in() if name == "random" else models.load(name)


@functools.cache
def program(name):
    """(params, x, t, step, label, weights, fresh (L, L), layers, moves, correction) -> (ROUNDS,) growth of each round."""
    model = network_of(name)
    config = model.card.config

    def rounds(params, x, t, step, label, weights, fresh, layers, moves, correction):
        def row(x, copy):
            def attend(q, k, v, layer, carry):
                seen = (fresh | (layer >= layers))[None, None]
                return mixed_attention(copy, seen, fresh[None, None], correction)(
                    q, k, v, layer, carry
                )

            return model.apply(
                params, x, t, label, attention=attend, carry=jax.tree.map(jnp.zeros_like, copy)
            )

        shape = (
            config.depth,
            len(x),
            tokens_of(model, x),
            config.heads,
            config.width // config.heads,
        )
        zeros = (jnp.zeros(shape, x.dtype),) * 2
        everyone = mixed_attention(zeros, jnp.ones_like(fresh)[None, None])
        _, truth = model.apply(params, x, t, label, attention=everyone, carry=zeros)
        _, derivative = jax.linearize(row, x, truth)

        def again(errors, _):
            dx, before, history = errors
            copy = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), history)
            velocity, new = derivative(dx, copy)
            dx = dx - moves * step * (1.5 * velocity - 0.5 * before)
            history = jax.tree.map(
                lambda old, newest: jnp.concatenate([newest[None], old[:-1]]), history, new
            )
            errors = dx, velocity, history
            size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(errors)))
            return jax.tree.map(lambda leaf: leaf / jnp.where(size > 0, size, 1), errors), size

        draw = lambda key: jax.random.normal(key, (len(weights), *shape), x.dtype)
        state = jax.random.normal(jax.random.key(1), x.shape, x.dtype)
        start = (
            moves * state,
            jnp.zeros_like(x),
            tuple(map(draw, jax.random.split(jax.random.key(0)))),
        )
        return jax.lax.scan(again, start, None, ROUNDS)[1]

    return jax.jit(rounds)


@functools.cache
def setting(name, samples):
    """(noise (B, *D), labels (B,), {t: state} along the synchronous path of STEPS steps)."""
    model = network_of(name)
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(samples), lab.SHAPES["network"]).astype(
        np.float32
    )
    label = np.arange(samples) % model.card.config.classes
    plan = plans.dpm_solver_pp(model.card.schedule, grids.uniform(STEPS), 2)
    solve = jax.jit(
        lambda p: (
            flowjax.sample(
                lambda x, t: model.apply(p, x, t, label), noise, plan, save_path=True
            ).path
        )
    )
    return (
        noise,
        label,
        dict(zip(np.round(grids.uniform(STEPS), 12), np.asarray(solve(model.params)), strict=True)),
    )


@functools.cache
def rate_of(network, forecast, devices, layers, time, steps, state, correction, samples=2):
    """The rate of a cell; with one device nothing is stale, and it is the path's own."""
    model = network_of(network)
    _, label, path = setting(network, samples)
    x = path[round(time, 12)]
    part = contiguous(tokens_of(model, x), devices)
    sizes = program(network)(
        model.params, x, np.float32(time), np.float32(1 / steps), label, np.float32(WEIGHTS[forecast]),
        part[:, None] == part, layers or model.card.config.depth, np.float32(state == "moves"), np.float32(correction),
    )  # fmt: skip
    late = np.asarray(sizes[ROUNDS // 2 :], np.float64)
    return float(np.exp(np.mean(np.log(late)))) if late.all() else 0.0


@functools.cache
def sampled(name, samples):
    """(name of weights, devices, correction) -> endpoints of whole runs."""
    model = network_of(name)
    noise, label, _ = setting(name, samples)
    plan = plans.dpm_solver_pp(model.card.schedule, grids.uniform(STEPS), 2)
    run = jax.jit(
        lambda params, told: emulate_with(model._replace(params=params), noise, label, plan, told).x
    )

    @functools.cache
    def end(forecast, devices, correction=0.0):
        told = exchange(plan, tokens_of(model, noise), devices, slots=max(PARTS))
        weights = np.where(np.arange(STEPS)[:, None] < 3, WEIGHTS["hold"], WEIGHTS[forecast])
        rows = told.rows._replace(
            forecast=Forecast(weights, None, None), correction=np.float64(correction)
        )
        return np.asarray(run(model.params, told._replace(rows=rows)))

    return end


def measure(config, todo):
    """Yield (key, values): the rate, the path's own, what the forecast misses of a wiggle, and what became of whole runs.

    `worse`, of the matrix only, is the RMS distance of a run to the synchronous one, over that of held keys and values.
    """
    for key in todo:
        missed = swing(WEIGHTS[key["forecast"]])
        cell = {name: value for name, value in key.items() if name != "question"}
        alone = rate_of(**cell | {"forecast": "hold", "devices": 1, "layers": 0, "correction": 0.0})
        values = {"rate": rate_of(**cell), "own_rate": alone, "swing": missed}
        values |= {"push": seen(key["devices"], key["correction"]) * missed}
        if of_matrix(key | {"correction": 0.0}):
            end, devices = sampled(key["network"], config.network_samples), key["devices"]
            found = np.linalg.norm(
                end(key["forecast"], devices, key["correction"]) - end("hold", 1)
            )
            values["worse"] = float(found / np.linalg.norm(end("hold", devices) - end("hold", 1)))
        yield key, values


def of_matrix(key):
    """Whether nothing but network, forecast and devices was changed."""
    changeable = tuple(key[name] for name in ("layers", "time", "steps", "state", "correction"))
    return changeable == (0, TIME, STEPS, "moves", 0.0)


def grows(row):
    """Whether the loop grows by itself."""
    return row["rate"] > GROWS * row["own_rate"]


def section(rows, command):
    """The section of the page."""
    plain = [r for r in rows if of_matrix(r)]
    mended = [r for r in rows if r["correction"]]
    changed = [r for r in rows if not of_matrix(r) and not r["correction"]]
    fig, axes = report.canvas(1, 2)
    for ax, y, words in zip(
        axes, ("rate", "worse"), ("growth a row", "error over that of holding"), strict=True
    ):
        for network in dict.fromkeys(r["network"] for r in plain):
            color = None
            for kind, fill in ((plain, {}), (mended, {"markerfacecolor": "none"})):
                own = [r for r in kind if r["network"] == network]
                style = {
                    "marker": "o",
                    "linestyle": "",
                    "color": color,
                    "label": None if color else network,
                } | fill
                (dots,) = ax.plot([r["push"] for r in own], [r[y] for r in own], **style)
                color = dots.get_color()
        ax.axhline(1, color=report.GREY, linestyle=(0, (1, 3)))
        ax.set(xlabel="push of the loop", ylabel=words)
    axes[1].set_yscale("log")
    axes[0].legend()
    return report.Section(
        question="When does an error in what others see grow from row to row?",
        expected="Where a forecast misses much of a wiggle: each layer forecasts anew what the layers before it missed, so the loop's gain is "
        "a power of its push, (n-1)/n max |1 - W| without a correction, and steep forecasts are unstable on many devices and in deep networks. A "
        "correction lessens it up to a share near 1/2, and more of it makes it worse.",
        answer="\n".join([*_said(plain, mended), *_rested([r for r in changed if r["network"] == plain[0]["network"]])]),
        figures=(
            report.picture(
                fig,
                "Growth of an error a row, and the error of whole runs over that of held keys and values, against the push of the loop; the networks, "
                "with corrections and without, lie on one curve that leaves 1 at one place.",
                f"Push: the part of what is missed that a layer sees, times max |1 - W|. Filled: six forecasts on 2, 4 and 8 devices. Hollow: corrected by the receiver, by {', '.join(map(str, CORRECTIONS))} on {PARTS[-1]} devices, and by "
                f"{CORRECTION} on fewer. t = {TIME}, {STEPS} steps.",
            ),
        ),
        table=[
            {name: r[name] for name in ("network", "forecast", "devices", "correction", "push", "rate", "own_rate", "worse")} | {"grows": grows(r)}
            for r in plain + mended
        ],
        caveat="A rate is that of one place of one path, with its steps; a run sees all of them, and its errors stop growing where softmax and norms "
        "saturate. Where little is missed, `worse` also holds what the forecast gains. " + _changes(changed),
        command=command,
    )  # fmt: skip


def _said(plain, mended):
    """Sentences of the answer, but for the state at rest."""
    rows = plain + mended
    yield from splits(rows)
    better = [r["worse"] for r in rows if not grows(r)]
    slow, fast = (
        [r["worse"] for r in rows if grows(r) and (r["rate"] > FAST) == kind]
        for kind in (False, True)
    )
    ends = [("whose loop does not grow end {} times as far from the synchronous one as held keys and values do", better),
            (f"whose loop grows by less than {FAST} a row {{}} times", slow), ("by more {} times", fast)]  # fmt: skip
    yield (
        "Runs "
        + ", those ".join(words.format(_span(values)) for words, values in ends if values)
        + "."
    )
    for name in WEIGHTS:
        own = [r for r in plain if r["forecast"] == name and r["network"] == plain[0]["network"]]
        rates = ", ".join(report.sig(r["rate"], 3) for r in own)
        again = [
            r for r in mended if all(r[k] == own[-1][k] for k in ("network", "forecast", "devices"))
        ]
        shares = ", ".join(f"{r['correction']}: {report.sig(r['rate'], 3)}" for r in again)
        yield (
            f"{name.capitalize()} (misses {report.sig(own[0]['swing'])}): {rates} a row on {', '.join(str(r['devices']) for r in own)} devices"
            + (f"; on {own[-1]['devices']} by correction {shares}." if shares else ".")
        )


def splits(rows):
    """From which push on loops grow, without a correction and with one, as sentences."""
    plain, mended = [r for r in rows if of_matrix(r)], [r for r in rows if r["correction"]]
    return [
        _split(own, name)
        for own, name in ((plain, "without a correction"), (mended, "with one"))
        if own
    ]


def _split(rows, name):
    """From which push on loops grow, as a sentence."""
    quiet, loud = ([r["push"] for r in rows if grows(r) == kind] for kind in (False, True))
    said = f"{len(loud)} of {len(rows)} loops {name} grow by themselves"
    if not quiet or not loud:
        return f"{said}."
    if max(quiet) < min(loud):
        return f"{said}: **all from a push of {report.sig(min(loud))} on and none up to {report.sig(max(quiet))}**."
    sure = [push for push in loud if push > max(quiet)]
    calm = [push for push in quiet if push < min(loud)]
    if not sure or not calm:
        return f"{said}, and no push parts them from the others."
    between = len(rows) - len(sure) - len(calm)
    return (
        f"{said}: **all from a push of {report.sig(min(sure))} on and none up to {report.sig(max(calm))}**; of {between} between, "
        f"{len(loud) - len(sure)}."
    )


def _rested(changed):
    """What the loop is while the state rests, as a sentence."""
    rest = [r for r in changed if r["state"] == "rests"]
    if rest:
        yield (
            f"While the state rests the rate is **{report.sig(rest[0]['rate'])}**: a layer sees only what layers before it missed, so after as many rows as "
            "layers have passed it on, nothing is left. What closes the loop is the state, which moves with the wrong velocity."
        )


def _span(values):
    low, high = report.sig(min(values)), report.sig(max(values))
    return low if low == high else f"{low} to {high}"


def _changes(changed):
    """What depth, time and steps do to the linear forecast, as a sentence."""
    parts = []
    for name, words, default in (
        ("layers", "stale layers", 0),
        ("time", "t", TIME),
        ("steps", "steps", STEPS),
    ):
        own = [r for r in changed if r[name] != default]
        if own:
            parts.append(
                f"{words} "
                + ", ".join(f"{report.sig(r[name])}: {report.sig(r['rate'], 3)}" for r in own)
            )
    return (
        "The linear forecast's rate on 8 devices by " + "; by ".join(parts) + "." if parts else ""
    )
