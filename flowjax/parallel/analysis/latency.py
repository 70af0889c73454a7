"""How long sampling an image over several devices takes: formulas, from what the network computes and the devices can do.

Letters: B samples on a device (twice that where it computes both branches of guidance), L tokens, E width, K layers,
n devices that share the tokens, p stages that share the layers, M patches in flight, b bytes a number, rows = evaluations.
Of a network (`Work`): a operations per token and layer outside attention, c per pair of tokens, m per sample and layer. Of a
device (`Device`): F = peak x achieved share, R bytes/s of its memory, W bytes/s from others, latency and floor in seconds.

A layer on T of the tokens that attend to L, and what it says to others:

    (1)  C = max( B (T a + T L c + m) / F,   (a + m)/2 b / R,   floor )
             products; weights read once; what starting a layer's programs costs however small they are
    (2)  X = latency x rounds + bytes / W, bytes as in parallel.traffic and rounds 1 (gather, stale), 2 (ulysses), n - 1 (ring)
             Beyond an island of g devices: W of a gather is bounded by the island's g network cards together, each remote
             block entering an island once; that of ulysses and of a ring's hop by one card. ulysses_ring has both in turn.
    (3)  exposed = X - hidden min(X, window); window = 0 (gather, ulysses), (n-1)/n of attention (ring), C (stale)
    (4)  row = K (C + exposed) + ends, T = L/n; with guidance over two devices, one sum of velocities more

Displaced patches (DistriFusion, arXiv:2402.19481) spend w synchronous rows as gather and the others as stale. A pipeline of
patches (PipeFusion, arXiv:2405.14430) runs ceil(K/p) layers on L/M tokens in a tick and passes T E numbers on, H = (2) of
one round. A hop that is waited for makes a tick C + H, one that flies under the next patch's tick max(C, H), and then it is
`lag` = 2 ticks, not 1, from a stage to the next (h of parallel.pipeline.ticks). S stale rows between synchronous ones take

    (5)  ticks = max(M, lag p) (S - 1) + M + lag p - 1

of which M S are work: for M >= p and lag 1 the published utilisation, M S / (M S + p - 1). With fewer patches than lag p a
patch's next row waits for its return from the last stage. A synchronous row goes through the stages one after the other.
Stages and sequence parallelism multiply as in xDiT (arXiv:2411.01738): then T = L/(M n), and a tick's layers gather patches.

Left out: that collectives take processors from compute, but for the one number `hidden`; products that lose efficiency in
small shards, but for the floor; contention of several groups for one link; the meter's sum, which nothing waits for; the solver
and forecasts (elementwise), corrections (attention to one's own tokens once more, 1/n of it); the text encoder and the decoder of
latents; loading and compiling. `experiments.latency` holds the formulas to published measurements.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.parallel.stale.precision import BITS, bytes_of

ATTENTIONS = ("gather", "ulysses", "ring", "ulysses_ring", "stale", "pipefusion")


class Device(NamedTuple):
    """A device and its links, as a program finds them.

    Attributes:
      peak: operations a second of matrix products in the dtype of the network.
      achieved: share of it that a large layer reaches, everything between its products included.
      memory: bytes a second.
      link: bytes a second that it receives from the others of its island.
      latency: seconds of a collective of no bytes.
      floor: seconds of a layer of no tokens.
      hidden: share of a transfer under compute that costs no time.
      island: devices that `link` joins.
      network: bytes a second that it receives from beyond.
    """

    peak: float
    achieved: float
    memory: float
    link: float
    latency: float = 0.0
    floor: float = 0.0
    hidden: float = 1.0
    island: int = 8
    network: float = math.inf


class Work(NamedTuple):
    """Operations of a transformer, two for each multiplication and addition of a matrix product.

    Attributes:
      layers, width, heads: K, E, and the number of heads.
      token: a, of one token in one layer, outside attention.
      pair: c, of a query and a key in one layer.
      sample: m, of a sample in one layer, whatever its tokens.
      ends: of a token before and after the layers.
      label: of a sample there.
    """

    layers: int
    width: int
    heads: int
    token: float
    pair: float
    sample: float = 0.0
    ends: float = 0.0
    label: float = 0.0

    def operations(self, tokens):
        """Of one evaluation of one sample."""
        layer = tokens * (self.token + tokens * self.pair) + self.sample
        return self.layers * layer + tokens * self.ends + self.label


class Seconds(NamedTuple):
    """Where the time goes: products, transfers that nothing hides, and waiting for a pipeline to fill, return and drain."""

    compute: float
    exposed: float
    idle: float = 0.0

    @property
    def total(self):
        """Their sum."""
        return self.compute + self.exposed + self.idle


def work(config):
    """`Work` of a `DiTConfig`.

    With an MLP r times as wide, patches of P numbers and outputs of p p O: a = (8 + 4 r) E^2, c = 4 E, m = 12 E^2
    (modulation), ends = 2 E (P + p p O), label = 4 E^2 + 2 (256 E + E^2) (last modulation; time).
    """
    e, hidden = config.width, int(config.width * config.mlp_ratio)
    numbers = config.patch**2 * (config.channels + config.outputs)
    return Work(
        config.depth, e, config.heads, token=8 * e**2 + 4 * e * hidden, pair=4 * e, sample=12 * e**2,
        ends=2 * e * numbers, label=6 * e**2 + 512 * e,
    )  # fmt: skip


def of_run(
    config, shape, steps, synced, attention, devices, device, *, guidance=1.0, cfg=1, patches=None, lag=None,
    comm_dtype=None, dtype="bfloat16",
):  # fmt: skip
    """`Seconds` of sampling a batch with a DiT over devices; `.total` is the sum.

    A policy that was decided on the way has its seconds afterwards: hand in `solution.stats.synced`. Sizes are those of
    the network to be modelled, which need not be the one that was measured: of a small one, every layer is floor.

    Args:
      config: its `DiTConfig`.
      shape: (B, H, W, C) of the noise.
      steps: evaluations, the rows of the plan.
      synced: the number of synchronous rows at the start, or (steps,) bool. Only "stale" and "pipefusion" read it.
      attention: one of `ATTENTIONS`.
      devices: that share an image: its tokens, or of "pipefusion" the layers; of "ulysses_ring" (u, r), see `make_mesh`.
      device: a `Device`; configs/latency.py has some.
      guidance, cfg: the scale, 1 is none; cfg=2 gives each branch its own devices, twice as many in all.
      patches: M of "pipefusion", `devices` by default.
      lag: 1: a hop of the pipeline is waited for; 2: it flies under the next patch. None: 2 from 2 n patches on, as in
        `parallel.sample`.
      comm_dtype: of stale messages, as in `parallel.stale.precision`; None for `dtype`. Synchronous ones are whole.
      dtype: of the network; hidden states pass from stage to stage in float32 at least.
    """
    tokens = shape[1] * shape[2] // config.patch**2
    branches = 1 if guidance == 1 else 2
    if cfg not in (1, branches):
        raise ValueError(
            f"latency.of_run: cfg={cfg} with guidance={guidance}; wanted 1, or 2 where there is guidance."
        )
    check_choice("latency.of_run", "comm_dtype", comm_dtype, BITS)
    sizes = {"pipe": devices} if attention == "pipefusion" else {"seq": devices}
    number, head = jnp.dtype(dtype).itemsize, config.width // config.heads
    message = bytes_of(head, comm_dtype, number) / head if attention == "stale" else max(number, 4)
    return seconds(
        work(config), tokens, masked(steps, synced), device, attention=attention, samples=shape[0] * branches // cfg,
        cfg=cfg, patches=patches, lag=lag, number=number, message=message, **sizes,
    )  # fmt: skip


def masked(steps, synced):
    """(steps,) bool of a number of synchronous rows at the start, or of such a mask."""
    mask = np.arange(steps) < synced if np.ndim(synced) == 0 else np.asarray(synced, bool)
    if mask.shape != (steps,) or not mask[0] or (np.ndim(synced) == 0 and synced > steps):
        raise ValueError(
            f"latency: synced={synced!r} for {steps} rows; wanted how many at the start are synchronous, from 1 to {steps}, or a "
            "mask of all rows whose first is True."
        )
    return mask


def seconds(
    work, tokens, synced, device, *, attention, samples=1, cfg=1, seq=1, pipe=1, patches=None, lag=None, number=2,
    message=None,
):  # fmt: skip
    """`Seconds` of a run on seq x pipe x cfg devices.

    Args:
      work: a `Work`.
      tokens: L.
      synced: (rows,) bool; see `masked`.
      device: a `Device`.
      attention: one of `ATTENTIONS`; "pipefusion" alone takes pipe > 1, and gathers where seq > 1.
      samples: B, a device's samples and branches.
      seq: n, or (u, r) of "ulysses_ring".
      cfg: 2 adds the sum over the branches.
      patches: M, `pipe` by default.
      lag: as in `of_run`.
      number, message: bytes of a number, and of one in a stale message, or in the hidden states between stages.
    """
    check_choice("latency.seconds", "attention", attention, ATTENTIONS)
    patches = patches or pipe
    lag = lag or (2 if patches >= 2 * pipe > 2 else 1)
    said = _exchanges(attention, seq)
    seq = math.prod(n for _, n, _ in said)
    _check(work, tokens, said, seq, pipe, patches, lag)
    one = dict(
        work=work, device=device, samples=samples, cfg=cfg, seq=seq, keys=tokens, number=number
    )
    if attention == "pipefusion":
        return _pipeline(one, np.asarray(synced), pipe, patches, lag, message or number)
    if pipe > 1:
        raise ValueError(
            f"latency.seconds: pipe={pipe} with attention={attention!r}; stages want 'pipefusion'."
        )
    if attention != "stale":
        return Seconds(*(len(synced) * part for part in _row(**one, said=said)))
    whole, stale = _row(**one, said=[("gather", seq, 1)]), _row(**one, said=said, message=message)
    count = int(np.sum(synced))
    return Seconds(
        *(count * s + (len(synced) - count) * a for s, a in zip(whole, stale, strict=True))
    )


def _exchanges(attention, seq):
    """What a layer does in turn: (kind, devices, how far apart they are)."""
    pair = isinstance(seq, (tuple, list)) and len(seq) == 2
    if pair != (attention == "ulysses_ring"):
        raise ValueError(
            f"latency.seconds: seq={seq!r} with attention={attention!r}; 'ulysses_ring' wants a pair (u, r), the others a number."
        )
    if pair:
        return [("ulysses", seq[0], 1), ("ring", seq[1], seq[0])]
    return [("gather" if attention == "pipefusion" else attention, seq, 1)]


def _check(work, tokens, said, seq, pipe, patches, lag):
    if not (1 <= seq <= tokens and 1 <= pipe <= work.layers):
        raise ValueError(
            f"latency.seconds: seq={seq}, pipe={pipe} for {tokens} tokens and {work.layers} layers; wanted from 1 to as many."
        )
    kind, n, _ = said[0]
    if kind == "ulysses" and work.heads % n:
        raise ValueError(
            f"latency.seconds: ulysses over {n} devices of {work.heads} heads; wanted a divisor of the heads."
        )
    if not (1 <= patches <= tokens and lag in (1, 2)):
        raise ValueError(
            f"latency.seconds: patches={patches}, lag={lag}; wanted from 1 to {tokens} patches and a lag of 1 or 2."
        )


def _layer(work, device, samples, queries, keys, number):
    """(1): seconds of a layer, and the share of attention in them."""
    attention = samples * queries * keys * work.pair
    products = samples * (queries * work.token + work.sample) + attention
    weights = (work.token + work.sample) / 2 * number
    rate = device.peak * device.achieved
    return max(products / rate, weights / device.memory, device.floor), attention / products


def transfer(device, kind, n, own, apart=1):
    """(2): seconds of what a layer says to the others of n devices.

    Args:
      device: a `Device`.
      kind: "gather", "stale", "ulysses" or "ring".
      n: how many speak to each other.
      own: bytes of a device's keys.
      apart: from one of them to the next; 1 are neighbours.
    """
    if n == 1:
        return 0.0
    near = min(n, max(1, device.island // apart))
    far = n - near
    if kind == "ulysses":
        return 2 * device.latency + 4 * own / n * max((n - 1) / device.link, far / device.network)
    if kind == "ring":
        return (n - 1) * (device.latency + 2 * own / (device.network if far else device.link))
    return device.latency + 2 * own * max((n - 1) / device.link, far / (near * device.network))


def _row(
    work, device, samples, cfg, seq, keys, number, *, said, message=None, queries=None, layers=None
):
    """(4): a row, or a tick's share of one: `Seconds`."""
    queries = math.ceil((queries or keys) / seq)
    layers = layers or work.layers
    compute, attending = _layer(work, device, samples, queries, keys, number)
    exposed = (
        device.latency if cfg == 2 else 0.0
    )  # the velocities of two branches meet: a few numbers a token
    for kind, n, apart in said:
        moved = transfer(
            device, kind, n, samples * queries * work.width * (message or number), apart
        )
        window = {"stale": compute, "ring": compute * attending * (n - 1) / n}.get(kind, 0.0)
        exposed += layers * (moved - device.hidden * min(moved, window))
    ends = samples * (queries * work.ends + work.label) / (device.peak * device.achieved)
    return Seconds(layers * compute + ends, exposed)


def _pipeline(one, synced, pipe, patches, lag, message):
    """(5): all rows of a pipeline, drained before each synchronous one."""
    work, device, keys = one["work"], one["device"], one["keys"]
    layers, queries = math.ceil(work.layers / pipe), math.ceil(keys / patches)
    crosses = pipe * one["seq"] * one["cfg"] > device.island
    rate = device.network if crosses else device.link

    def hop(tokens):
        size = one["samples"] * math.ceil(tokens / one["seq"]) * work.width * message
        return device.latency + size / rate if pipe > 1 else 0.0

    said = [("gather", one["seq"], 1)]
    whole, tick = _row(**one, said=said), _row(**one, said=said, queries=queries, layers=layers)
    late = (
        hop(queries) if lag == 1 else max(0.0, hop(queries) - tick.total)
    )  # what a hop adds to a tick
    edges = np.flatnonzero(np.diff(np.concatenate([[1], synced, [1]]).astype(int)))
    runs = (edges[1::2] - edges[::2]).tolist()  # the lengths of runs of stale rows
    ticks = sum(max(patches, lag * pipe) * (s - 1) + patches + lag * pipe - 1 for s in runs)
    busy, count = patches * sum(runs), int(np.sum(synced))
    return Seconds(
        count * whole.compute + busy * tick.compute,
        count * (whole.exposed + (pipe - 1) * hop(keys)) + busy * (tick.exposed + late),
        (ticks - busy) * (tick.total + late),
    )
