"""The work of a transformer, the rates of a device, and the seconds of a layer and an exchange.

Formulas (1) and (2) of `parallel.analysis.latency`, whose letters are used here.
"""

import math
from typing import NamedTuple

from flowjax.models.dit import DiTConfig


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
    """

    layers: int
    width: int
    heads: int
    token: float
    pair: float
    sample: float = 0.0
    ends: float = 0.0
    label: float = 0.0

    def operations(self, tokens: int) -> float:
        """Operations of one evaluation of one sample that has `tokens` tokens."""
        layer = tokens * (self.token + tokens * self.pair) + self.sample
        return self.layers * layer + tokens * self.ends + self.label


def work(config: DiTConfig) -> Work:
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
    weights = (work.token + work.sample) / 2 * number  # bytes
    rate = device.peak * device.achieved
    seconds = max(operations / rate, weights / device.memory, device.floor)
    return seconds, attention / operations


def transfer(device: Device, kind: str, n: int, own: float, apart: int = 1) -> float:
    """(2): seconds of the exchange of one layer among `n` devices.

    Args:
      device: a `Device`.
      kind: "gather", "stale", "ulysses" or "ring".
      n: the number of devices that exchange.
      own: bytes of one device's keys.
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
    # The network cards of an island share the blocks that come from beyond it.
    slowest = max((n - 1) / device.link, far / (near * device.network))
    return device.latency + 2 * own * slowest
