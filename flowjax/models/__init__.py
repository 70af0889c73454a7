"""Networks: the transformer, and public or shipped checkpoints in the form that the samplers take."""

from flowjax.models.dit import DiTConfig, network, overview, preset, softmax_attention
from flowjax.models.model import Card, Model, init, model
from flowjax.models.vae import Autoencoder

__all__ = [
    "Autoencoder",
    "Card",
    "DiTConfig",
    "Model",
    "init",
    "model",
    "network",
    "overview",
    "preset",
    "softmax_attention",
]
