"""Sizes of a DiT, and the named presets of Peebles & Xie 2023, arXiv:2212.09748."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from flowjax.errors import check_number, check_whole

# The smallest value of each size. A network without labels has the null label alone.
LEAST = {"channels": 1, "patch": 1, "width": 1, "depth": 1, "heads": 1, "classes": 0}
COMPUTE_DTYPES = (None, "float32", "bfloat16", "float16")


def check_sizes(name: str, config: Any, least: dict[str, int], positive: Sequence[str]) -> None:
    """Refuse what is no size, and an image that is no grid of patches; make `size` a tuple.

    Args:
      name: the class that the errors speak for.
      config: with the fields `size`, `patch`, `channels` and `out_channels`, and those named below.
      least: the fields that are whole numbers, with the smallest value of each.
      positive: the fields that are numbers above 0.

    Raises:
      ValueError: the first field that is none.
    """
    for option, smallest in least.items():
        check_whole(name, option, getattr(config, option), smallest)
    for option in positive:
        check_number(name, option, getattr(config, option), 0, above=True)
    if config.out_channels is not None:
        check_whole(name, "out_channels", config.out_channels, 1)
        if config.out_channels < config.channels:
            raise ValueError(
                f"{name}: out_channels={config.out_channels} is less than "
                f"channels={config.channels}."
            )
    # The image
    if not isinstance(config.size, (tuple, list)):
        raise ValueError(f"{name}: size={config.size!r}; wanted (H, W).")
    # A list, as JSON gives it, would make the configuration unhashable.
    object.__setattr__(config, "size", tuple(config.size))
    for side in config.size:
        check_whole(name, "size", side, 1)
    if len(config.size) != 2 or any(s < config.patch or s % config.patch for s in config.size):
        raise ValueError(
            f"{name}: size={config.size} is not (H, W), both multiples of patch={config.patch}."
        )


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of a DiT.

    Attributes:
      size: (H, W) of the image or latent. Positions of other sizes are scaled to this one.
      channels: C.
      patch: p, which divides H and W.
      width, depth, heads: E, the number of layers, and the number of heads. E is a multiple of
        `heads` and of 4.
      classes: number of labels; label `classes` is the null label.
      has_null: whether the network was trained with the null label. Without it only guidance of
        scale 1 is possible.
      out_channels: channels of the output. None means C. The original DiT has 2 C: it also learns a
        variance, which sampling drops.
      mlp_ratio: hidden width of the MLP over E.
      frequency_shift: 0 in DiT and SiT, 1 in diffusers. The frequencies of the time embedding are
        10000^(-i/(128 - frequency_shift)).
      mlp_epsilon: added to the variance by the norm before the MLP (1e-6 in every other norm).
      dtype: the dtype in which matrices are multiplied. None means that of the state. Norms,
        softmax, modulation, the embedding of time and the residual stream are in the state's dtype,
        at least float32.
      remat: recompute each layer in the backward pass, which saves memory in training.
    """

    size: tuple[int, int]
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int
    out_channels: int | None = None
    mlp_ratio: float = 4.0
    frequency_shift: int = 0
    mlp_epsilon: float = 1e-6
    dtype: str | None = None
    remat: bool = False
    has_null: bool = True

    def __post_init__(self):
        """Refuse what is no size, and sizes that do not fit together."""
        check_sizes("DiTConfig", self, LEAST, ("mlp_ratio", "mlp_epsilon"))
        # The frequencies are divided by 128 less the shift.
        check_whole("DiTConfig", "frequency_shift", self.frequency_shift, 0, 1)
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"DiTConfig: width={self.width}; wanted a multiple of heads={self.heads} and of 4."
            )
        if not self.labels:
            raise ValueError("DiTConfig: classes=0 and has_null=False leave no label at all.")
        if self.dtype not in COMPUTE_DTYPES:
            choices = ", ".join(map(str, COMPUTE_DTYPES))
            raise ValueError(
                f"DiTConfig: dtype={self.dtype!r} is not known; the choices are {choices}."
            )

    @property
    def labels(self) -> int:
        """The number of labels that the network knows, the null label among them."""
        return self.classes + bool(self.has_null)

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.out_channels or self.channels

    @property
    def tokens(self) -> int:
        """L, the number of tokens of an image of `size`."""
        return math.prod(self.size) // self.patch**2


# Table 1 of arXiv:2212.09748.
SIZES = {
    "S": dict(width=384, depth=12, heads=6),
    "B": dict(width=768, depth=12, heads=12),
    "L": dict(width=1024, depth=24, heads=16),
    "XL": dict(width=1152, depth=28, heads=16),
}
PATCHES = ("2", "4", "8")

# Two small networks, for the data sets that come with flowjax.
SMALL = {
    "digits": DiTConfig((8, 8), channels=1, patch=1, width=96, depth=6, heads=8, classes=10),
    "emoji": DiTConfig((32, 32), channels=3, patch=4, width=192, depth=6, heads=8, classes=9),
}


def preset(name: str, **changes: Any) -> DiTConfig:
    """The sizes of a named network.

    Args:
      name: "digits", "emoji", or "DiT-S/2" ... "DiT-XL/8" (32 x 32 x 4 latents, 1000 classes).
      **changes: fields of `DiTConfig` to replace, such as `size=(64, 64)` for 512 x 512 images.

    Raises:
      ValueError: the name is not known.
    """
    family, _, patch = name.removeprefix("DiT-").partition("/")  # DiT-XL/2: XL and 2
    if name in SMALL:
        config = SMALL[name]
    elif name.startswith("DiT-") and family in SIZES and patch in PATCHES:
        config = DiTConfig(
            # Latents of 256 x 256 images, and the classes of ImageNet.
            size=(32, 32),
            channels=4,
            patch=int(patch),
            classes=1000,
            out_channels=8,  # 4 of the noise and 4 of the learned variance
            **SIZES[family],
        )
    else:
        raise ValueError(
            f"models.preset: {name!r} is not known; wanted {', '.join(map(repr, SMALL))} or "
            f"DiT-X/p with X of {', '.join(SIZES)} and p of {', '.join(PATCHES)}."
        )
    return dataclasses.replace(config, **changes)
