"""Networks: the transformers, and public or shipped checkpoints in the form that samplers take."""

from flowjax.models.card import Card, Model, init, model
from flowjax.models.condition import Condition
from flowjax.models.dc_ae import AutoencoderDC
from flowjax.models.dit import DiTConfig, overview, softmax_attention
from flowjax.models.networks import network, preset
from flowjax.models.sana_sizes import SanaConfig
from flowjax.models.vae import Autoencoder
from flowjax.models.weights import load, save

__all__ = [
    "Autoencoder",
    "AutoencoderDC",
    "Card",
    "Condition",
    "DiTConfig",
    "Model",
    "SanaConfig",
    "init",
    "load",
    "model",
    "network",
    "overview",
    "preset",
    "save",
    "softmax_attention",
]
