"""Training by flow matching: the loss on any schedule, and one compiled step.

With t, noise and an image drawn, the network receives x_t = alpha(t) data + sigma(t) noise, and its
prediction is fitted to a target by least squares. For the velocity (Lipman et al. 2023,
arXiv:2210.02747, eq. 9; Liu et al. 2023, arXiv:2209.03003, eq. 1)

    loss = E |prediction(x_t, t, label) - u|^2,      u = alpha'(t) data + sigma'(t) noise,

which on the linear path is u = noise - data.

Everything random in a step is a function of (key, step, place in the batch). So a batch may be cut
into microbatches and spread over devices, and the run differs only in the order in which gradients
are added.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flowjax.errors import check_choice, check_number, check_whole
from flowjax.models.card import Card
from flowjax.schedules import Schedule
from flowjax.types import Array, PyTree

TIMES = ("uniform", "logit-normal", "shifted")

# "images" (B, H, W, C), "labels" (B,), and "noise" (B, H, W, C) where it is not to be drawn
Batch: TypeAlias = dict[str, Array]
Metrics: TypeAlias = dict[str, jax.Array]
DrawTime: TypeAlias = Callable[..., jax.Array]  # (key, *, dtype) -> one time in (0, 1]


# The loss.


def draw_times(
    key: jax.Array,
    kind: str,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    shift: float = 3.0,
    dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
    """One time in (0, 1].

    Args:
      key: a JAX key.
      kind: the distribution, with u uniform in (0, 1] and n standard normal:
        "uniform": u;
        "logit-normal": sigmoid(mean + std n) (SD3, arXiv:2403.03206, section 3.1);
        "shifted": s u/(1 + (s-1) u) with s = `shift`. s > 1 gives more noise, as the shifted grids
        of sampling do.
      mean, std: of "logit-normal".
      shift: of "shifted".
      dtype: of the result.
    """
    name = "train.draw_times"
    check_choice(name, "kind", kind, TIMES)
    check_number(name, "mean", mean)
    check_number(name, "std", std, 0)
    check_number(name, "shift", shift, 0, above=True)
    if kind == "logit-normal":
        return jax.nn.sigmoid(mean + std * jax.random.normal(key, (), dtype))
    # uniform is in [0, 1). The time must not be 0, where sigma' of some schedules is infinite.
    u = 1 - jax.random.uniform(key, (), dtype)
    if kind == "uniform":
        return u
    return shift * u / (1 + (shift - 1) * u)


def target(
    schedule: Schedule, prediction: str, data: jax.Array, noise: jax.Array, t: jax.Array
) -> jax.Array:
    """The target (B, *D) of a network that predicts `prediction`, for one pair of data and noise.

    The mean of the target over all pairs with the same x_t is what a perfect network predicts.

    Args:
      schedule: the path.
      prediction: one of `flowjax.schedules.PREDICTIONS`.
      data, noise: (B, *D).
      t: (B,) in (0, 1].
    """
    if prediction == "data":
        return data
    if prediction == "noise":
        return noise
    if prediction == "velocity":
        # alpha' data + sigma' noise; the schedule gives (alpha'/W, sigma'/W, 1/W).
        alpha_rate, sigma_rate, rate = schedule.rates(t)
        data_weight, noise_weight = alpha_rate / rate, sigma_rate / rate
    elif prediction == "score":
        # -noise / sigma
        data_weight, noise_weight = jnp.zeros_like(t), -1 / schedule.sigma(t)
    else:
        # v = alpha noise - sigma data
        data_weight, noise_weight = -schedule.sigma(t), schedule.alpha(t)
    wide = (-1,) + (1,) * (data.ndim - 1)  # (B,) -> (B, 1, ..., 1)
    return data_weight.reshape(wide) * data + noise_weight.reshape(wide) * noise


def squared_errors(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    schedule: Schedule,
    prediction: str,
    data: jax.Array,
    noise: jax.Array,
    t: jax.Array,
) -> jax.Array:
    """The mean squared error (B,) of each pair.

    Args:
      predict: function (x, t) -> (B, *D), such as `Card.predict` with its other arguments bound.
      schedule, prediction, data, noise, t: as for `target`.
    """
    x = schedule.add_noise(data, noise, t)
    error = predict(x, t) - target(schedule, prediction, data, noise, t)
    return jnp.mean(error**2, axis=tuple(range(1, error.ndim)))


# The state of a run, and the optimizer.


class State(NamedTuple):
    """What a run passes from step to step, all arrays.

    Attributes:
      step: number of steps that are done.
      params: the parameters.
      ema: their running mean.
      optimizer: the optimizer's state.
    """

    step: jax.Array
    params: PyTree
    ema: PyTree
    optimizer: PyTree


def adamw(
    steps: int,
    *,
    learning_rate: float = 1e-3,
    warmup: int = 50,
    weight_decay: float = 0.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """The default optimizer: AdamW on gradients that are clipped to a global norm.

    Args:
      steps: length of the run. The learning rate falls to 0 at its end, on a cosine.
      learning_rate: its largest value.
      warmup: steps of linear growth at the start, at most half of the run.
      weight_decay: of AdamW.
      clip: the largest global norm of a gradient.

    Raises:
      ValueError: a number outside its range.
    """
    name = "train.adamw"
    check_whole(name, "steps", steps, 1)
    check_whole(name, "warmup", warmup, 0)
    check_number(name, "learning_rate", learning_rate, 0, above=True)
    check_number(name, "weight_decay", weight_decay, 0)
    check_number(name, "clip", clip, 0, above=True)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup, steps // 2),
        decay_steps=max(steps, 2),
    )
    return optax.chain(
        optax.clip_by_global_norm(clip), optax.adamw(rate, weight_decay=weight_decay)
    )


def start(params: PyTree, optimizer: optax.GradientTransformation) -> State:
    """The `State` before the first step."""
    # The step donates the buffers of its state. No buffer may be donated twice, so all are copies.
    return State(
        step=jnp.zeros((), jnp.int32),
        params=_copy(params),
        ema=_copy(params),
        optimizer=jax.jit(optimizer.init)(params),
    )


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.array, tree)


def ema_decay(step: Array, decay: float) -> jax.Array:
    """Decay of the running mean at a step counted from 0: min(decay, (1 + step)/(10 + step)).

    The small values at the beginning let the mean forget the start soon.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step))


# The devices.


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data" over `devices`, all that there are by default."""
    return Mesh(np.asarray(devices or jax.devices()), ("data",))


def shard(batch: Batch, mesh: Mesh) -> Batch:
    """The arrays of a batch (B, ...) spread over the mesh, B/n samples on each of n devices."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The arrays of a tree, complete on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def check_split(size: int, devices: int, microbatches: int) -> None:
    """Refuse a batch that does not divide into microbatches that divide over the devices."""
    for option, value in {"batch": size, "devices": devices, "microbatches": microbatches}.items():
        check_whole("train", option, value, 1)
    parts = devices * microbatches
    if size % parts == 0:
        return
    below = max(size // parts, 1) * parts
    above = -(-size // parts) * parts
    sizes = " or ".join(str(near) for near in sorted({below, above}))
    raise ValueError(
        f"train: a batch of {size} does not divide over {devices} device(s) in {microbatches} "
        f"microbatch(es); take {sizes}, or {_fitting_devices(size, microbatches)} devices."
    )


def _fitting_devices(size: int, microbatches: int) -> str:
    """The numbers of devices, up to 64, over which a batch of this size divides."""
    fitting = [str(n) for n in range(1, 65) if size % (n * microbatches) == 0]
    return ", ".join(fitting) or "a multiple of the microbatches, and then other"


# One step, in its parts.


def make_step(
    card: Card,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    times: DrawTime,
    label_dropout: float = 0.1,
    decay: float = 0.999,
    microbatches: int = 1,
) -> Callable[[State, Batch, jax.Array], tuple[State, Metrics]]:
    """The compiled step (state, batch, key) -> (state, metrics).

    It donates the buffers of the state that it receives, which cannot be used after it.

    Args:
      card: of the network.
      optimizer: an optax transformation of gradients.
      mesh: see `data_mesh`. The batch lies spread over it (`shard`), and the state lies complete on
        each device (`replicate`).
      times: draws one time from a key.
      label_dropout: the probability that a label is replaced with the null label, for guidance.
      decay: of the running mean of the parameters, see `ema_decay`.
      microbatches: parts of the batch whose gradients are computed one after the other, which saves
        memory.

    Returns:
      A function of a `State`, a batch and a key. The batch has "images" (B, H, W, C) and "labels"
      (B,), and "noise" (B, H, W, C) where it is not to be drawn. The metrics are "loss", the mean
      loss of the batch before the step, and "gradient", the global norm of its gradient.

    Raises:
      ValueError: a probability or a decay outside [0, 1], or no microbatch.
    """
    name = "train.make_step"
    check_number(name, "label_dropout", label_dropout, 0, 1)
    check_number(name, "decay", decay, 0, 1)
    check_whole(name, "microbatches", microbatches, 1)
    loss_of = functools.partial(mean_loss, card=card, times=times, label_dropout=label_dropout)

    def step(state, batch, key):
        check_split(len(batch["images"]), mesh.size, microbatches)
        step_key = jax.random.fold_in(key, state.step)
        # The gradient of the batch, on all devices; XLA adds up what the devices found.
        loss, gradients = accumulate(loss_of, state.params, batch, step_key, microbatches)
        # The step of the optimizer, and of the running mean.
        params, optimizer_state = apply_gradients(optimizer, gradients, state)
        ema = update_ema(state.ema, params, state.step, decay)
        metrics = {"loss": loss, "gradient": optax.tree.norm(gradients)}
        return State(state.step + 1, params, ema, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=NamedSharding(mesh, PartitionSpec()))


def mean_loss(
    params: PyTree,
    batch: Batch,
    ids: jax.Array,
    key: jax.Array,
    *,
    card: Card,
    times: DrawTime,
    label_dropout: float,
) -> jax.Array:
    """The mean loss of a microbatch.

    Args:
      params: the parameters of the network.
      batch: as in `make_step`, or some samples of one.
      ids: (B,) the places of these samples in the batch of the step; they fix what is drawn.
      key: the key of the step.
      card, times, label_dropout: as in `make_step`.
    """
    images = batch["images"]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)  # one for each sample
    time_keys, noise_keys, drop_keys = (
        jax.vmap(jax.random.fold_in, (0, None))(keys, purpose) for purpose in range(3)
    )
    t = jax.vmap(functools.partial(times, dtype=images.dtype))(time_keys)  # (B,)
    noise = batch["noise"] if "noise" in batch else _draw_noise(noise_keys, images)
    label = batch["labels"]
    # Where no label is dropped, the network need not have a null label.
    if label_dropout != 0:
        label = _drop_labels(drop_keys, label, label_dropout, card.null_label)

    def predict(x, t):
        return card.predict(params, x, t, label)

    errors = squared_errors(predict, card.schedule, card.prediction, images, noise, t)
    return jnp.mean(errors)


def _draw_noise(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Normal noise shaped like the images (B, H, W, C), one key (B,) for each."""
    draw = functools.partial(jax.random.normal, shape=images.shape[1:], dtype=images.dtype)
    return jax.vmap(draw)(keys)


def _drop_labels(
    keys: jax.Array, labels: jax.Array, probability: float, null_label: int
) -> jax.Array:
    """Labels (B,), each replaced with the null label with this probability."""
    draw = functools.partial(jax.random.uniform, shape=(), dtype=jnp.float32)
    dropped = jax.vmap(draw)(keys) < probability
    return jnp.where(dropped, null_label, labels)


def accumulate(
    loss_of: Callable[..., jax.Array],
    params: PyTree,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
) -> tuple[jax.Array, PyTree]:
    """The loss of a batch and its gradient: the means of those of its microbatches.

    Args:
      loss_of: function (params, batch, ids, key) -> loss, see `mean_loss`.
      params: the parameters.
      batch: as in `make_step`.
      key: the key of the step.
      microbatches: m.
    """
    ids = jnp.arange(len(batch["images"]))
    loss_and_gradient = jax.value_and_grad(loss_of)
    if microbatches == 1:
        return loss_and_gradient(params, batch, ids, key)

    # Sample i goes to microbatch i mod m, so each has equally many samples of every device.
    split = functools.partial(_split, microbatches)
    parts = jax.tree.map(split, (batch, ids))  # (m, B/m, ...)

    def add(total, part):
        return jax.tree.map(jnp.add, total, loss_and_gradient(params, *part, key)), None

    zero_loss = jnp.zeros((), batch["images"].dtype)
    zero = jax.tree.map(jnp.zeros_like, (zero_loss, params))
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda a: a / microbatches, total)


def _split(parts: int, a: jax.Array) -> jax.Array:
    """(B, ...) -> (parts, B/parts, ...), sample i in part i mod `parts`."""
    return jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0)


def apply_gradients(
    optimizer: optax.GradientTransformation, gradients: PyTree, state: State
) -> tuple[PyTree, PyTree]:
    """The optimizer's step: (parameters, optimizer's state) after it."""
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    return optax.apply_updates(state.params, updates), optimizer_state


def update_ema(ema: PyTree, params: PyTree, step: jax.Array, decay: float) -> PyTree:
    """The running mean after a step: mean + (1 - decay) (params - mean)."""
    rest = 1 - ema_decay(step, decay)
    return jax.tree.map(lambda mean, p: mean + rest.astype(p.dtype) * (p - mean), ema, params)
