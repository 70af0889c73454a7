"""How many floating-point operations a forward pass of a DiT needs, by hand."""


def forward(config, size=None):
    """Operations of one forward pass of one sample, two for each multiplication and addition of a matrix product.

    With L tokens of width E, K layers, an MLP r times as wide, patches of P = p p C numbers and outputs of p p O:

        layers       K (8 L E^2  queries, keys, values, output    + 4 L^2 E  attention
                        + 4 r L E^2  MLP                          + 12 E^2  modulation)
        ends         2 L P E + 2 L E p p O + 4 E^2  (last modulation) + 2 (256 E + E^2)  (time)

    Norms, softmax and gelu are left out, as is usual where a share of the matrix peak is quoted (PaLM, arXiv:2204.02311,
    appendix B): they make the share smaller, not larger.

    Args:
      config: a `flowjax.models.DiTConfig`.
      size: (H, W) of the latents, config.size by default.
    """
    height, width = size or config.size
    tokens, e = height * width // config.patch**2, config.width
    inputs, outputs = config.patch**2 * config.channels, config.patch**2 * config.outputs
    hidden = int(e * config.mlp_ratio)
    layer = 8 * tokens * e**2 + 4 * tokens**2 * e + 4 * tokens * e * hidden + 12 * e**2
    return (
        config.depth * layer + 2 * tokens * e * (inputs + outputs) + 4 * e**2 + 2 * (256 * e + e**2)
    )
