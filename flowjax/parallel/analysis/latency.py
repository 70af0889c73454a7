"""A model of the seconds that sampling an image over several devices takes.

The formulas start from what the network computes (`Work`) and what a device can do (`Device`).

    B   samples on a device, twice as many where it computes both branches of guidance
    L   tokens of an image              E   width               K   layers
    n   devices that share the tokens   p   stages that share the layers
    M   patches of a pipeline           b   bytes of a number

    a, c, m   operations of a token in a layer outside attention, of a pair of tokens, of a sample
              (linear attention belongs to a, and c = 0)
    F         peak x achieved, operations a second
    R, W      bytes a second from the device's memory, and from other devices

A layer on T of the tokens, which attend to L, and its exchange with other devices:

    (1)  C = max( B (T a + T L c + m) / F,   (a + m)/2 b / R,   floor )
             the products; reading the weights once; starting the programs of a layer, however small
    (2)  X = latency x rounds + bytes / W
             bytes as in parallel.traffic; rounds 1 (gather, stale), 2 (ulysses), n - 1 (ring);
             of linear attention 1 (sums) and 2 (rows)
    (3)  exposed = X - hidden min(X, window)
             window = 0 (gather, ulysses, sums, rows), (n-1)/n of attention (ring), C (stale)
    (4)  row = K (C + exposed) + ends,   T = L/n
             with guidance over two devices, one sum of velocities in addition

Beyond an island of g devices, W is smaller. A block from beyond enters an island once and the g
network cards of the island share a gather, so together they bound its W. One card bounds the W of
ulysses and of a hop of a ring. ulysses_ring has both exchanges, one after the other.

A network with linear attention exchanges the sums over keys and a row of tokens with either
neighbour ("rows"), one after the other; "gather" is its exact attention. In a stale row nothing
waits for the sums, and the rows are waited for as ever.

Displaced patches (DistriFusion, arXiv:2402.19481) take w synchronous rows as gather and the other
rows as stale. A pipeline of patches (PipeFusion, arXiv:2405.14430) runs ceil(K/p) layers on L/M
tokens in one tick and passes T E numbers to the next stage. A hop takes H, which is (2) with one
round. Where the next stage waits for it, a tick takes C + H. Where it travels under the next
patch's tick, a tick takes max(C, H), and a patch takes `lag` = 2 ticks from one stage to the next
instead of 1 (h of parallel.pipeline.ticks). S stale rows between synchronous ones take

    (5)  ticks = max(M, lag p) (S - 1) + M + lag p - 1

of which M S are work. For M >= p and lag 1 this gives the published utilisation
M S / (M S + p - 1). With fewer than lag p patches, the next row of a patch waits until the patch
returns from the last stage. A synchronous row passes through the stages one after the other.
Stages and sequence parallelism multiply as in xDiT (arXiv:2411.01738): then T = L/(M n), and the
layers of a tick gather patches.

The model leaves out: that collectives take processors from compute, except for the one number
`hidden`; that products lose efficiency in small shards, except for the floor; several groups that
compete for one link; the meter's sum, for which nothing waits; the solver and the forecasts, which
are elementwise; corrections, which attend to the device's own tokens once more, 1/n of attention;
the text encoder and the decoder of latents; loading and compiling. `experiments.latency` compares
the formulas with published measurements.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.models import networks
from flowjax.models.networks import Config
from flowjax.parallel.analysis.costs import SUM_BYTES, Device, Work, layer, transfer, work
from flowjax.parallel.stale.precision import BITS, bytes_of

ATTENTIONS = ("gather", "ulysses", "ring", "ulysses_ring", "stale", "pipefusion")
# Those of a network with linear attention.
OF_SUMS = ("gather", "stale")


class Seconds(NamedTuple):
    """Where the time goes.

    Attributes:
      compute: seconds of products.
      exposed: seconds of transfers that no compute hides.
      idle: seconds in which stages wait because a pipeline fills, drains or waits for a return.
    """

    compute: float
    exposed: float
    idle: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the three."""
        return self.compute + self.exposed + self.idle

    def times(self, count: int) -> "Seconds":
        """The seconds of `count` equal rows."""
        return Seconds(*(count * part for part in self))


def of_run(
    config: Config,
    shape: Sequence[int],
    steps: int,
    synced: int | np.ndarray,
    attention: str,
    devices: int | tuple[int, int],
    device: Device,
    *,
    guidance: float = 1.0,
    cfg: int = 1,
    patches: int | None = None,
    lag: int | None = None,
    comm_dtype: str | None = None,
    dtype: str = "bfloat16",
) -> Seconds:
    """The `Seconds` of sampling a batch over devices; `.total` is their sum.

    The seconds of a policy that decides during the run are known after it: pass
    `solution.stats.synced`. Give the sizes of the network to be modelled, which need not be the
    one that was measured; in a small network every layer takes the floor.

    Args:
      config: the sizes of a DiT or a SANA. A text has `costs.TEXT` tokens.
      shape: (B, H, W, C) of the noise.
      steps: evaluations, which are the rows of the plan.
      synced: the number of synchronous rows at the start, or a mask (steps,). Only "stale" and
        "pipefusion" use it.
      attention: one of `ATTENTIONS`; of `OF_SUMS` where attention is linear.
      devices: the devices that share an image. They share its tokens, or for "pipefusion" the
        layers; for "ulysses_ring" a pair (u, r), see `make_mesh`.
      device: a `Device`; configs/latency.py has some.
      guidance: the scale of guidance; 1 is none.
      cfg: 2 gives each branch of guidance its own devices, twice as many in all.
      patches: M of "pipefusion"; the number of devices by default.
      lag: 1 where the next stage waits for a hop, 2 where a hop travels under the next patch's
        tick. None: 2 where M >= 2 p, as in `parallel.sample`.
      comm_dtype: the format of stale messages, as in `parallel.stale.precision`; None for `dtype`.
        Synchronous rows always send `dtype`.
      dtype: of the network. Hidden states pass from stage to stage in float32 at least.

    Raises:
      ValueError: sizes or options that do not fit.
    """
    # Without cfg=2 a device computes both branches of guidance.
    tokens = shape[1] * shape[2] // config.patch**2
    branches = 1 if guidance == 1 else 2
    if cfg not in (1, branches):
        raise ValueError(
            f"latency.of_run: cfg={cfg} with guidance={guidance}; wanted 1, or 2 where there is "
            "guidance."
        )
    check_choice("latency.of_run", "comm_dtype", comm_dtype, BITS)
    if networks.is_linear(config):
        _check_sums(config, shape, attention, devices, comm_dtype)
    number = jnp.dtype(dtype).itemsize
    if attention == "stale":
        # A message in fewer bits has a scale for each head of each token.
        head = config.width // config.heads
        message = bytes_of(head, comm_dtype, number) / head
    else:
        message = max(number, 4)  # hidden states between stages
    # The devices of an image share its layers or its tokens.
    sizes = {"pipe": devices} if attention == "pipefusion" else {"seq": devices}
    return seconds(
        work(config, shape[2] // config.patch),
        tokens,
        masked(steps, synced),
        device,
        attention=attention,
        samples=shape[0] * branches // cfg,
        cfg=cfg,
        patches=patches,
        lag=lag,
        number=number,
        message=message,
        **sizes,
    )


def _check_sums(config, shape, attention, devices, comm_dtype):
    """Refuse what a network with linear attention has not."""
    check_choice("latency.of_run", "attention", attention, OF_SUMS)
    rows = shape[1] // config.patch
    if devices > rows or comm_dtype is not None:
        raise ValueError(
            f"latency.of_run: {devices} devices with comm_dtype={comm_dtype!r} for a network with "
            f"linear attention and {rows} rows of tokens; wanted at most {rows} devices, each of "
            "which holds whole rows, and comm_dtype=None: sums are sent as they are."
        )


def masked(steps: int, synced: int | np.ndarray) -> np.ndarray:
    """The mask (steps,) of synchronous rows, from their number at the start or from a mask."""
    is_count = np.ndim(synced) == 0
    mask = np.arange(steps) < synced if is_count else np.asarray(synced, bool)
    if mask.shape != (steps,) or not mask[0] or (is_count and synced > steps):
        raise ValueError(
            f"latency: synced={synced!r} for {steps} rows; wanted the number of synchronous rows "
            f"at the start, from 1 to {steps}, or a mask of all rows whose first is True."
        )
    return mask


def seconds(
    work: Work,
    tokens: int,
    synced: np.ndarray,
    device: Device,
    *,
    attention: str,
    samples: int = 1,
    cfg: int = 1,
    seq: int | tuple[int, int] = 1,
    pipe: int = 1,
    patches: int | None = None,
    lag: int | None = None,
    number: float = 2,
    message: float | None = None,
) -> Seconds:
    """The `Seconds` of a run on seq x pipe x cfg devices.

    Args:
      work: a `Work`.
      tokens: L.
      synced: (rows,) bool, the synchronous rows; see `masked`.
      device: a `Device`.
      attention: one of `ATTENTIONS`. Only "pipefusion" takes pipe > 1; it gathers where seq > 1.
      samples: B, samples and branches of guidance on one device.
      cfg: 2 adds the sum over the branches of guidance.
      seq: n, or the pair (u, r) of "ulysses_ring".
      pipe: p, the stages of a pipeline.
      patches: M; `pipe` by default.
      lag: as in `of_run`.
      number: bytes of a number.
      message: bytes of a number in a stale message, or in the hidden states between stages;
        `number` by default.

    Raises:
      ValueError: sizes or options that do not fit.
    """
    check_choice("latency.seconds", "attention", attention, ATTENTIONS)
    patches = patches or pipe
    lag = lag or (2 if patches >= 2 * pipe > 2 else 1)
    exchanges = _exchanges_of(work, attention, seq)
    shards = math.prod(seq) if attention == "ulysses_ring" else seq
    _check(work, tokens, exchanges, shards, pipe, patches, lag)
    run = _Run(work, device, samples, cfg, shards, tokens, number)
    synced = np.asarray(synced)

    # A pipeline, then rows that are all alike, then synchronous and stale rows.
    if attention == "pipefusion":
        return _pipeline(run, synced, pipe, patches, lag, message or number)
    if pipe > 1:
        raise ValueError(
            f"latency.seconds: pipe={pipe} with attention={attention!r}; only 'pipefusion' has "
            "stages."
        )
    if attention != "stale":
        return _row(run, exchanges).times(len(synced))
    # Displaced patches: synchronous rows gather, the others hide their gather under compute.
    count = int(np.sum(synced))
    synchronous = _row(run, _exchanges_of(work, "gather", shards)).times(count)
    stale = _row(run, exchanges, message=message).times(len(synced) - count)
    return Seconds(*(one + other for one, other in zip(synchronous, stale, strict=True)))


class _Run(NamedTuple):
    """What all rows of a run have in common; `seq` is n, `tokens` is L and `number` is b."""

    work: Work
    device: Device
    samples: int
    cfg: int
    seq: int
    tokens: int
    number: float


class _Exchange(NamedTuple):
    """One exchange of a layer: its kind, its devices, and how far apart they are."""

    kind: str
    devices: int
    apart: int


def _exchanges_of(work: Work, attention: str, seq: int | tuple[int, int]) -> list[_Exchange]:
    """The exchanges of one layer, one after the other."""
    if work.sums:
        check_choice("latency.seconds", "attention", attention, OF_SUMS)
    is_pair = isinstance(seq, (tuple, list)) and len(seq) == 2
    if is_pair != (attention == "ulysses_ring"):
        raise ValueError(
            f"latency.seconds: seq={seq!r} with attention={attention!r}; 'ulysses_ring' wants a "
            "pair (u, r), the others a number."
        )
    if work.sums:
        sums = "stale sums" if attention == "stale" else "sums"
        return [_Exchange(sums, seq, 1), _Exchange("rows", seq, 1)]
    if is_pair:
        inner, outer = seq
        return [_Exchange("ulysses", inner, 1), _Exchange("ring", outer, inner)]
    return [_Exchange("gather" if attention == "pipefusion" else attention, seq, 1)]


def _check(
    work: Work,
    tokens: int,
    exchanges: list[_Exchange],
    seq: int,
    pipe: int,
    patches: int,
    lag: int,
) -> None:
    """Refuse sizes that do not fit."""
    if not (1 <= seq <= tokens and 1 <= pipe <= work.layers):
        raise ValueError(
            f"latency.seconds: seq={seq}, pipe={pipe} for {tokens} tokens and {work.layers} "
            f"layers; wanted seq from 1 to {tokens} and pipe from 1 to {work.layers}."
        )
    first = exchanges[0]
    if first.kind == "ulysses" and work.heads % first.devices:
        raise ValueError(
            f"latency.seconds: ulysses over {first.devices} devices with {work.heads} heads; "
            "wanted a divisor of the heads."
        )
    if not (1 <= patches <= tokens and lag in (1, 2)):
        raise ValueError(
            f"latency.seconds: patches={patches}, lag={lag}; wanted from 1 to {tokens} patches and "
            "a lag of 1 or 2."
        )


def _row(
    run: _Run,
    exchanges: list[_Exchange],
    *,
    message: float | None = None,
    queries: int | None = None,
    layers: int | None = None,
) -> Seconds:
    """(4): one row, or with fewer `queries` and `layers` one tick of a pipeline."""
    work, device = run.work, run.device
    # T tokens attend to L: all of a row, or those of one patch.
    queries = math.ceil((queries or run.tokens) / run.seq)
    layers = layers or work.layers
    compute, attending = layer(work, device, run.samples, queries, run.tokens, run.number)

    # With cfg=2 the velocities of the two branches are added: a few numbers a token.
    exposed = device.latency if run.cfg == 2 else 0.0
    keys = queries * work.width * (message or run.number)
    sums = work.sums * max(run.number, SUM_BYTES)
    sizes = {"sums": sums, "stale sums": sums, "rows": work.row * run.number}
    for kind, n, apart in exchanges:
        own = run.samples * sizes.get(kind, keys)
        moved = transfer(device, kind.removeprefix("stale "), n, own, apart)
        ring = compute * attending * (n - 1) / n
        windows = {"stale": compute, "stale sums": compute, "ring": ring}
        exposed += layers * (moved - device.hidden * min(moved, windows.get(kind, 0.0)))  # (3)

    # The embedding of the tokens and the head of the network, which no device shares.
    rate = device.peak * device.achieved
    ends = run.samples * (queries * work.ends + work.label) / rate
    return Seconds(layers * compute + ends, exposed)


def _pipeline(
    run: _Run, synced: np.ndarray, pipe: int, patches: int, lag: int, message: float
) -> Seconds:
    """(5): all rows of a pipeline, which drains before each synchronous row."""
    queries = math.ceil(run.tokens / patches)
    layers = math.ceil(run.work.layers / pipe)
    gather = [_Exchange("gather", run.seq, 1)]
    # A synchronous row takes the image through all layers; a tick takes a patch through one stage.
    image = _row(run, gather)
    tick = _row(run, gather, queries=queries, layers=layers)

    # What a hop adds to a tick: all of it, or what the next patch's tick does not cover.
    hop = _hop(run, pipe, queries, message)
    added = hop if lag == 1 else max(0.0, hop - tick.total)

    # Runs of stale rows lie between an edge from synchronous to stale and the next edge back.
    edges = np.flatnonzero(np.diff(np.concatenate([[1], synced, [1]]).astype(int)))
    lengths = (edges[1::2] - edges[::2]).tolist()
    # (5). A stage works in M ticks of each stale row; in the other ticks it waits.
    period, passage = max(patches, lag * pipe), patches + lag * pipe - 1
    ticks = sum(period * (length - 1) + passage for length in lengths)
    busy = patches * sum(lengths)

    count = int(np.sum(synced))
    hops = (pipe - 1) * _hop(run, pipe, run.tokens, message)  # of one synchronous row
    return Seconds(
        compute=count * image.compute + busy * tick.compute,
        exposed=count * (image.exposed + hops) + busy * (tick.exposed + added),
        idle=(ticks - busy) * (tick.total + added),
    )


def _hop(run: _Run, pipe: int, tokens: int, message: float) -> float:
    """Seconds in which the hidden states of `tokens` tokens pass from one stage to the next."""
    if pipe == 1:
        return 0.0
    device = run.device
    # The stages of one image are one group; if it is larger than an island, some hop leaves it.
    leaves_island = pipe * run.seq * run.cfg > device.island
    rate = device.network if leaves_island else device.link
    size = run.samples * math.ceil(tokens / run.seq) * run.work.width * message
    return device.latency + size / rate
