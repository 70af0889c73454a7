"""The work of a transformer, the rates of a device, and the seconds of a layer and an exchange.

Formulas (1) and (2) of `parallel.analysis.latency`, whose letters are used here.
"""

import math
from typing import NamedTuple

from flowjax.models.networks import Config
from flowjax.models.sana_sizes import SanaConfig
from flowjax.models.sizes import DiTConfig

TEXT = 300  # tokens of the text of a public SANA, to which its pipeline pads
SUM_BYTES = 4  # of a number in the sums of linear attention, at least


class Device(NamedTuple):
    """A device and its links, as a program finds them.

    Attributes:
      peak: operations a second of matrix products in the dtype of the network.
      achieved: the fraction of `peak` that a large layer reaches, with everything that runs between
        its products.
      memory: bytes a second of its memory.
      link: bytes a second that it receives from other devices of its island.
      latency: seconds of a collective that moves no bytes.
      floor: seconds of a layer that has no tokens.
      hidden: the fraction of a transfer under compute that costs no time.
      island: the number of devices that `link` joins.
      network: bytes a second that it receives from beyond its island.
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
    """Operations of a transformer: two for each multiplication and addition of a matrix product.

    Attributes:
      layers: K.
      width: E.
      heads: the number of heads of attention.
      token: a, of one token in one layer, outside attention.
      pair: c, of one query and one key in one layer.
      sample: m, of one sample in one layer, whatever the number of its tokens.
      ends: of one token before and after the layers.
      label: of one sample before and after the layers.
      weights: the numbers of the weights of one layer. None: one for two operations of a and m.
      sums: S, the numbers of the sums over keys of one sample in one layer, where attention is
        linear; 0 where it is not.
      row: r, the numbers that a neighbour receives of one row of tokens of one sample in one layer
        of such a network.
    """

    layers: int
    width: int
    heads: int
    token: float
    pair: float
    sample: float = 0.0
    ends: float = 0.0
    label: float = 0.0
    weights: float | None = None
    sums: float = 0.0
    row: float = 0.0

    def operations(self, tokens: int) -> float:
        """Operations of one evaluation of one sample that has `tokens` tokens."""
        layer = tokens * (self.token + tokens * self.pair) + self.sample
        return self.layers * layer + tokens * self.ends + self.label


def work(config: Config, columns: int | None = None) -> Work:
    """The `Work` of a DiT or a SANA.

    Args:
      config: the sizes of the network.
      columns: tokens in one row of the image; by default in one of config.size.
    """
    if isinstance(config, SanaConfig):
        return _of_sana(config, columns or config.size[1] // config.patch)
    return _of_dit(config)


def _of_dit(config: DiTConfig) -> Work:
    """The `Work` of a DiT.

    With an MLP r times as wide, patches of P numbers, and outputs of p p O numbers a patch:

        a = (8 + 4 r) E^2       c = 4 E       m = 12 E^2 (modulation)
        ends = 2 E (P + p p O)
        label = 4 E^2 (last modulation) + 2 (256 E + E^2) (embedding of the time)
    """
    e = config.width
    hidden = int(e * config.mlp_ratio)
    numbers = config.patch**2 * (config.channels + config.outputs)  # P + p p O
    return Work(
        layers=config.depth,
        width=e,
        heads=config.heads,
        token=8 * e**2 + 4 * e * hidden,
        pair=4 * e,
        sample=12 * e**2,
        ends=2 * e * numbers,
        label=6 * e**2 + 512 * e,
    )


def _of_sana(config: SanaConfig, columns: int) -> Work:
    """The `Work` of a SANA.

    With heads of d numbers, G the width of the attention to T tokens of text, whose embeddings have
    C numbers, and an MLP whose hidden width is F behind the gate:

        a = 8 E^2 + 4 E (d + 1)     queries, keys, values, output; the sums and their use
          + 4 E G + 4 T G           the attention to the text
          + 6 E F + 36 F            the MLP, and its 3 x 3 convolution of 2 F channels
        c = 0                       tokens see each other through sums
        m = 4 T E G                 keys and values of the text
        ends = 2 E (P + p p O)
        label = 2 (256 E + E^2) + 12 E^2 (the time) + 2 T (C E + E^2) (the text)
    """
    e, f, g = config.width, config.hidden, config.cross_width
    head = e // config.heads
    # A label reaches the network as one token.
    text = TEXT if config.classes is None else 1
    matrices = 8 * e**2 + 4 * e * g + 6 * e * f + 36 * f
    numbers = config.patch**2 * (config.channels + config.outputs)  # P + p p O
    return Work(
        layers=config.depth,
        width=e,
        heads=config.heads,
        token=matrices + 4 * e * (head + 1) + 4 * text * g,
        pair=0.0,
        sample=4 * text * e * g,
        ends=2 * e * numbers,
        label=14 * e**2 + 512 * e + 2 * text * (config.caption * e + e**2),
        weights=matrices / 2 + 2 * e * g,
        sums=e * (head + 1),
        row=columns * 2 * f,
    )


def layer(
    work: Work, device: Device, samples: float, queries: int, keys: int, number: float
) -> tuple[float, float]:
    """(1): seconds of one layer, and the fraction of its operations that attention takes.

    Args:
      work: a `Work`.
      device: a `Device`.
      samples: B.
      queries: T, the tokens of one sample on the device.
      keys: L, the tokens to which each of them attends.
      number: b, bytes of a number.
    """
    # The scores and the weighted values, then all other products of the layer.
    attention = samples * queries * keys * work.pair
    operations = samples * (queries * work.token + work.sample) + attention
    weights = (work.token + work.sample) / 2 if work.weights is None else work.weights
    rate = device.peak * device.achieved
    seconds = max(operations / rate, weights * number / device.memory, device.floor)
    return seconds, attention / operations


def transfer(device: Device, kind: str, n: int, own: float, apart: int = 1) -> float:
    """(2): seconds of the exchange of one layer among `n` devices.

    Args:
      device: a `Device`.
      kind: "gather", "stale", "ulysses" or "ring"; "sums" or "rows" of linear attention.
      n: the number of devices that exchange.
      own: bytes of one device's keys, of its sums, or of one of its rows.
      apart: the distance from one of these devices to the next; 1 for neighbours.
    """
    if n == 1:
        return 0.0
    # Devices that lie `apart` fill an island with fewer of the group.
    near = min(n, max(1, device.island // apart))  # devices of one island
    far = n - near
    if kind == "ulysses":
        slowest = max((n - 1) / device.link, far / device.network)
        return 2 * device.latency + 4 * own / n * slowest
    if kind == "ring":
        rate = device.network if far else device.link
        return (n - 1) * (device.latency + 2 * own / rate)
    if kind == "sums":
        # An all-reduce; the network cards of an island share what the other islands add.
        slowest = max((n - 1) / n / device.link, far / n / (near * device.network))
        return device.latency + 2 * own * slowest
    if kind == "rows":
        # Two permutes: a row from either neighbour.
        return 2 * device.latency + 2 * own / (device.network if far else device.link)
    # The network cards of an island share the blocks that come from beyond it.
    slowest = max((n - 1) / device.link, far / (near * device.network))
    return device.latency + 2 * own * slowest
