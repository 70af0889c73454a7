"""Which network a configuration describes: DiT or SANA, by the class of the configuration.

A network's module has `network(config)`, the functions on its parameters, and `positions(config,
size)`, the embedding of its tokens' places. A network also takes as an argument how its tokens see
each other: the attention of a DiT, the `Mixing` of a SANA. `on_one_device` gives the one of a
device that has all tokens.
"""

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from flowjax.models import dit, sana
from flowjax.models.sana_sizes import SanaConfig, sana_preset
from flowjax.models.sizes import DiTConfig
from flowjax.models.sizes import preset as dit_preset

Config: TypeAlias = DiTConfig | SanaConfig
# The class of a configuration -> the module of its network.
MODULES: dict[type, ModuleType] = {DiTConfig: dit, SanaConfig: sana}


def network(config: Config) -> dit.Network:
    """The functions of the network of these sizes."""
    return MODULES[type(config)].network(config)


def positions(config: Config, size: tuple[int, int] | None = None) -> np.ndarray:
    """The embedding of each token's place in an image of `size`, config.size by default: (L, E)."""
    return MODULES[type(config)].positions(config, size)


def on_one_device(config: Config, size: tuple[int, int]) -> Any:
    """What the network takes for its attention where one device has all tokens of an image."""
    if isinstance(config, SanaConfig):
        return sana.on_one_device(config, size)
    return dit.softmax_attention


def tokens_together(config: Config, size: tuple[int, int]) -> int:
    """How many neighbouring tokens of an image of `size` stay on one device.

    For a SANA it is a row of the image, since its convolution reads rows; else 1.
    """
    return size[1] // config.patch if isinstance(config, SanaConfig) else 1


def is_linear(config: Config) -> bool:
    """Whether tokens see each other through sums over keys, and not through keys and values."""
    return isinstance(config, SanaConfig)


def takes_text(config: Config) -> bool:
    """Whether the network is drawn for a `Condition` and not for a label."""
    return isinstance(config, SanaConfig) and config.classes is None


def preset(name: str, **changes: Any) -> Config:
    """The sizes of a named network.

    Args:
      name: of a DiT, see `models.sizes.preset`; or of a public SANA, one of
        `models.sana_sizes.NAMES`, such as "SANA-0.6B/512" or "SANA1.5-4.8B/1024".
      **changes: fields of the configuration to replace.

    Raises:
      ValueError: the name is not known.
    """
    is_sana = name.upper().startswith("SANA")
    return sana_preset(name, **changes) if is_sana else dit_preset(name, **changes)
