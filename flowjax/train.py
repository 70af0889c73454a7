"""Training by flow matching: the loss on any schedule, and one compiled step.

With t, noise and an image drawn, the network sees x_t = alpha(t) data + sigma(t) noise and regresses what it predicts; for
the velocity (Lipman et al. 2023, arXiv:2210.02747, eq. 9; Liu et al. 2023, arXiv:2209.03003, eq. 1)

    loss = E |prediction(x_t, t, label) - u|^2,      u = alpha'(t) data + sigma'(t) noise      (linear path: noise - data)

Everything random in a step comes from (key, step, place in the batch) alone: a batch may be cut into microbatches and spread
over devices, and the run is the same but for the order in which gradients are added up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flowjax.errors import check_choice
from flowjax.models.card import CLOCKS

TIMES = ("uniform", "logit-normal", "shifted")


def draw_times(key, kind, *, mean=0.0, std=1.0, shift=3.0, dtype=jnp.float32):
    """One time in (0, 1].

    Args:
      key: a JAX key.
      kind: "uniform"; "logit-normal", sigmoid(mean + std n) with n normal (SD3, arXiv:2403.03206, section 3.1); "shifted",
        s u/(1 + (s-1) u) with u uniform and s = `shift`: more noise for s > 1, as on the shifted grids of sampling.
    """
    check_choice("train.draw_times", "kind", kind, TIMES)
    if kind == "logit-normal":
        return jax.nn.sigmoid(mean + std * jax.random.normal(key, (), dtype))
    u = 1 - jax.random.uniform(
        key, (), dtype
    )  # never 0, where sigma' of some schedules is infinite
    return u if kind == "uniform" else shift * u / (1 + (shift - 1) * u)


def target(schedule, prediction, data, noise, t):
    """What a network that predicts `prediction` should say of one pair on average, (B, *D).

    Args:
      schedule: the path.
      prediction: one of `flowjax.schedules.PREDICTIONS`.
      data, noise: (B, *D).
      t: (B,) in (0, 1].
    """
    if prediction in ("data", "noise"):
        return {"data": data, "noise": noise}[prediction]
    if prediction == "velocity":
        alpha_rate, sigma_rate, rate = schedule.rates(t)
        a, s = alpha_rate / rate, sigma_rate / rate
    else:  # score = -noise/sigma, v = alpha noise - sigma data
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        a, s = (jnp.zeros_like(t), -1 / sigma) if prediction == "score" else (-sigma, alpha)
    wide = (-1,) + (1,) * (data.ndim - 1)
    return a.reshape(wide) * data + s.reshape(wide) * noise


def squared_errors(predict, schedule, prediction, data, noise, t):
    """Mean squared error of each pair, (B,): `predict(x, t)` against `target`."""
    x = schedule.add_noise(data, noise, t)
    error = predict(x, t) - target(schedule, prediction, data, noise, t)
    return jnp.mean(error**2, axis=tuple(range(1, error.ndim)))


def network_prediction(card, params, x, t, label):
    """What the network of `card` predicts, (B, H, W, C): `card.prediction` itself, not yet made a velocity."""
    out = card.raw(params, x, CLOCKS[card.clock](card.schedule, t), label)[
        ..., : card.config.channels
    ]
    return (
        -out if card.clock == "1 - t" else out
    )  # that clock runs towards the data, and so does what it predicts


class State(NamedTuple):
    """What a run carries from step to step, all arrays: steps done, parameters, their running mean, the optimizer's state."""

    step: jax.Array
    params: Any
    ema: Any
    optimizer: Any


def adamw(steps, *, learning_rate=1e-3, warmup=50, weight_decay=0.0, clip=1.0):
    """The default optimizer: AdamW on gradients clipped to a global norm, linear warm-up, then a cosine to 0 at `steps`."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup, steps // 2), max(steps, 2)
    )
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.adamw(rate, weight_decay=weight_decay)
    )


def start(params, optimizer):
    """The `State` before the first step."""
    # copies: a step gives the buffers of its state to its result, and none may be given twice
    copy = lambda tree: jax.tree.map(jnp.array, tree)
    return State(
        jnp.zeros((), jnp.int32), copy(params), copy(params), jax.jit(optimizer.init)(params)
    )


def ema_decay(step, decay):
    """Decay of the running mean at a step counted from 0, which soon forgets the start: min(decay, (1 + step)/(10 + step))."""
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step))


def data_mesh(devices=None):
    """A mesh with the one axis "data" over `devices` (a list; all there are by default)."""
    return Mesh(np.asarray(devices or jax.devices()), ("data",))


def shard(batch, mesh):
    """The arrays of a batch (B, ...) spread over the mesh, B/n samples a device."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree, mesh):
    """The arrays of a tree whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def check_split(size, devices, microbatches):
    """Refuse a batch that does not divide into microbatches that divide over the devices."""
    parts = devices * microbatches
    if size % parts:
        near = sorted({max(size // parts, 1) * parts, -(-size // parts) * parts})
        raise ValueError(
            f"train: a batch of {size} does not divide over {devices} device(s) in {microbatches} microbatch(es); take "
            f"{' or '.join(map(str, near))}, or {_divisors(size, microbatches)} devices."
        )


def _divisors(size, microbatches):
    fit = [str(n) for n in range(1, 65) if size % (n * microbatches) == 0]
    return ", ".join(fit) if fit else "a multiple of the microbatches, and then other"


def make_step(card, optimizer, mesh, *, times, label_dropout=0.1, decay=0.999, microbatches=1):
    """The compiled step (state, batch, key) -> (state, metrics); the state given is used up.

    Args:
      card: of the network.
      optimizer: an optax transformation of gradients.
      mesh: see `data_mesh`; the batch lies spread over it (`shard`), the state whole on each device (`replicate`).
      times: key -> one time, such as `functools.partial(draw_times, kind="uniform")`.
      label_dropout: probability that a label is replaced with the null label, for guidance.
      decay: of the running mean of the parameters, see `ema_decay`.
      microbatches: parts of the batch whose gradients are computed one after the other, to save memory.

    Returns:
      Function of a `State`, {"images" (B, H, W, C), "labels" (B,), and "noise" unless it is to be drawn} and a key; metrics
      are {"loss", "gradient"}: the mean loss of the batch before the step, and the global norm of its gradient.
    """

    def mean_loss(params, batch, ids, key):
        images = batch["images"]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
        time_keys, noise_keys, drop_keys = (
            jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(3)
        )
        t = jax.vmap(lambda k: times(k, dtype=images.dtype))(time_keys)
        draw = lambda k: jax.random.normal(k, images.shape[1:], images.dtype)
        noise = batch["noise"] if "noise" in batch else jax.vmap(draw)(noise_keys)
        dropped = jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32) < label_dropout)(
            drop_keys
        )
        label = jnp.where(dropped, card.null_label, batch["labels"])
        predict = lambda x, t: network_prediction(card, params, x, t, label)
        return jnp.mean(squared_errors(predict, card.schedule, card.prediction, images, noise, t))

    def gradient(params, batch, key):
        """Loss and gradient of the batch: the mean over microbatches of theirs."""
        ids = jnp.arange(len(batch["images"]))
        of = jax.value_and_grad(mean_loss)
        if microbatches == 1:
            return of(params, batch, ids, key)
        # sample i goes to microbatch i mod m: each keeps an equal share of every device's samples
        parts = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(-1, microbatches, *a.shape[1:]), 1, 0), (batch, ids)
        )
        add = lambda total, part: (jax.tree.map(jnp.add, total, of(params, *part, key)), None)
        zero = jax.tree.map(jnp.zeros_like, (jnp.zeros((), batch["images"].dtype), params))
        return jax.tree.map(lambda a: a / microbatches, jax.lax.scan(add, zero, parts)[0])

    def step(state, batch, key):
        check_split(len(batch["images"]), mesh.size, microbatches)
        loss, gradients = gradient(state.params, batch, jax.random.fold_in(key, state.step))
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        rest = 1 - ema_decay(state.step, decay)
        ema = jax.tree.map(
            lambda mean, p: mean + rest.astype(p.dtype) * (p - mean), state.ema, params
        )
        metrics = {"loss": loss, "gradient": optax.tree.norm(gradients)}
        return State(state.step + 1, params, ema, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))
