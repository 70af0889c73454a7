"""Networks: the transformer, and public or shipped checkpoints in the form that samplers take."""

from flowjax.models.card import Card, Model, init, model
from flowjax.models.dit import DiTConfig, network, overview, preset, softmax_attention
from flowjax.models.vae import Autoencoder
from flowjax.models.weights import load, save

__all__ = [
    "Autoencoder",
    "Card",
    "DiTConfig",
    "Model",
    "init",
    "load",
    "model",
    "network",
    "overview",
    "preset",
    "save",
    "softmax_attention",
]
