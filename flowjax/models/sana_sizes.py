"""Sizes of SANA (Xie et al. 2024, arXiv:2410.10629), and its public networks by name."""

import dataclasses
import math
from typing import Any

from flowjax.errors import check_choice, check_number, check_whole
from flowjax.models.sizes import COMPUTE_DTYPES, check_sizes

# The smallest value of each size.
LEAST = {"channels": 1, "patch": 1, "width": 1, "depth": 1, "heads": 1, "cross_heads": 1}
QK_NORMS = (None, "rms_norm_across_heads", "layer_norm_across_heads", "l2")


@dataclasses.dataclass(frozen=True)
class SanaConfig:
    """Sizes of a SANA transformer. Where a name differs from diffusers', that one follows in ().

    Attributes:
      size: (H, W) of the latent (sample_size); positions of other sizes are scaled to this one.
      channels: C of the latent (in_channels).
      patch: p, which divides H and W (patch_size).
      width, depth, heads: E, the number of layers (num_layers), and the number of heads of the
        linear attention (num_attention_heads). E is a multiple of `heads`.
      cross_heads, cross_width: the number of heads of the attention to the text
        (num_cross_attention_heads), and their total width. cross_width=None becomes E;
        `dataclasses.replace` with another E keeps the number, unless it has cross_width=None too.
      caption: C, the width of the text's embeddings (caption_channels). With `classes` it becomes
        the number of labels, whatever is given.
      out_channels: channels of the output. None means `channels`.
      mlp_ratio: hidden width of the MLP over E, before the gate halves it.
      interpolation: None, and then tokens have no embedding of their place; or the number by which
        the coordinates of places are divided (interpolation_scale).
      qk_norm: the norm of queries and keys over all heads, one of `QK_NORMS`.
      attention_bias: whether queries, keys and values of the linear attention have a bias.
      norm_affine: whether the norm before the MLP has weights (norm_elementwise_affine).
      norm_epsilon: added to the variance in the norms of a layer (norm_eps).
      guidance_embeds: whether the network receives the scale of guidance beside the time.
      classes: None for a network that draws for a text, as all public ones do. With a number the
        network draws for a label, and label `classes` is the null label: it receives each as one
        token of text, a unit vector (C = classes + 1).
      has_null: with `classes`, whether the network was trained with the null label. Without it
        C = classes, and only guidance of scale 1 is possible.
      dtype: the dtype in which matrices are multiplied. None means that of the state. Norms, the
        sums of the linear attention, softmax, modulation, the embedding of time and the residual
        stream are in the state's dtype, at least float32.
      remat: recompute each layer in the backward pass, which saves memory in training.
    """

    size: tuple[int, int]
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    cross_heads: int
    caption: int | None = None
    cross_width: int | None = None
    out_channels: int | None = None
    mlp_ratio: float = 2.5
    interpolation: float | None = None
    qk_norm: str | None = None
    attention_bias: bool = False
    norm_affine: bool = False
    norm_epsilon: float = 1e-6
    guidance_embeds: bool = False
    classes: int | None = None
    dtype: str | None = None
    remat: bool = False
    has_null: bool = True

    def __post_init__(self):
        """Refuse what is no size, and sizes that do not fit together."""
        check_sizes("SanaConfig", self, LEAST, ("mlp_ratio", "norm_epsilon"))
        for option in ("caption", "cross_width", "classes"):
            if getattr(self, option) is not None:
                check_whole("SanaConfig", option, getattr(self, option), 1)
        if self.interpolation is not None:
            check_number("SanaConfig", "interpolation", self.interpolation, 0, above=True)
        if self.caption is None and self.classes is None:
            raise ValueError(
                "SanaConfig: caption=None, classes=None; give caption= to a network that draws for "
                "a text, and classes= to one that draws for a label."
            )
        if self.classes is not None and self.guidance_embeds:
            raise ValueError(
                f"SanaConfig: classes={self.classes} with guidance_embeds=True; a label has no "
                "scale of guidance beside it, so give guidance_embeds=False."
            )

        # Sizes that follow from others
        if self.cross_width is None:
            object.__setattr__(self, "cross_width", self.width)
        if self.classes is not None:
            object.__setattr__(self, "caption", self.labels)

        for width, heads in ((self.width, self.heads), (self.cross_width, self.cross_heads)):
            if width % heads:
                raise ValueError(
                    f"SanaConfig: a width of {width} does not divide into {heads} heads."
                )
        if self.interpolation is not None and self.width % 4:
            raise ValueError(
                f"SanaConfig: width={self.width} with interpolation={self.interpolation}; an "
                "embedding of places wants a multiple of 4."
            )
        check_choice("SanaConfig", "qk_norm", self.qk_norm, QK_NORMS)
        check_choice("SanaConfig", "dtype", self.dtype, COMPUTE_DTYPES)

    @property
    def labels(self) -> int:
        """The number of labels that the network knows, the null label among them; 0 with a text."""
        return 0 if self.classes is None else self.classes + bool(self.has_null)

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.out_channels or self.channels

    @property
    def tokens(self) -> int:
        """L, the number of tokens of a latent of `size`."""
        return math.prod(self.size) // self.patch**2

    @property
    def hidden(self) -> int:
        """The hidden width of the MLP behind the gate; before the gate it is twice that."""
        return int(self.mlp_ratio * self.width)


# Widths and depths: SanaMS_600M_P1_D28, SanaMS_1600M_P1_D20 and SanaMS_4800M_P1_D60 in
# diffusion/model/nets/sana_multi_scale.py of NVlabs/Sana; their linear attention has heads of 32
# numbers (linear_head_dim). The same sizes stand in scripts/convert_sana_to_diffusers.py.
SANA_SIZES = {
    "0.6B": dict(width=1152, depth=28, heads=36, cross_heads=16),
    "1.6B": dict(width=2240, depth=20, heads=70, cross_heads=20),
    "4.8B": dict(width=2240, depth=60, heads=70, cross_heads=20),
}
# Pixels a side -> what the resolution changes. The interpolation is pe_interpolation of
# configs/sana_config/2048ms and 4096ms; use_pe is false at 512 and 1024.
RESOLUTIONS = {"512": None, "1024": None, "2K": 1.0, "4K": 2.0}
PIXELS = {"512": 512, "1024": 1024, "2K": 2048, "4K": 4096}
# The public networks: family -> their sizes and resolutions. SANA 1.5 (arXiv:2501.18427) has norms
# of queries and keys: qk_norm and cross_norm of configs/sana1-5_config/1024ms.
PUBLIC = {
    "SANA": {"0.6B": ("512", "1024"), "1.6B": ("512", "1024", "2K", "4K")},
    "SANA1.5": {"1.6B": ("1024",), "4.8B": ("1024",)},
}
FACTOR = 32  # pixels of the image for one of the latent, in the autoencoder of all of them
NAMES = tuple(
    f"{family}-{size}/{resolution}"
    for family, sizes in PUBLIC.items()
    for size, resolutions in sizes.items()
    for resolution in resolutions
)


def sana_preset(name: str, **changes: Any) -> SanaConfig:
    """The sizes of a public SANA.

    Args:
      name: one of `NAMES`, such as "SANA-0.6B/512", "SANA-1.6B/4K" or "SANA1.5-4.8B/1024".
      **changes: fields of `SanaConfig` to replace.

    Raises:
      ValueError: the name is not known.
    """
    check_choice("models.preset", "name", name, NAMES)
    family, _, rest = name.partition("-")
    size, _, resolution = rest.partition("/")
    side = PIXELS[resolution] // FACTOR
    sizes = dict(
        size=(side, side),
        channels=32,
        patch=1,
        caption=2304,  # Gemma-2-2B
        interpolation=RESOLUTIONS[resolution],
        qk_norm="rms_norm_across_heads" if family == "SANA1.5" else None,
        **SANA_SIZES[size],
    )
    # Sizes that follow from others, such as cross_width, follow from the changed ones.
    return SanaConfig(**(sizes | changes))
