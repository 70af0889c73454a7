r"""Draw images for texts with a public SANA: embeddings from a file, a PNG with its settings.

    python -m experiments.embed --config=configs/embed.py \
        --config.text_encoder=/path/to/Sana_600M_512px_diffusers --config.prompts="a red fox"
    python -m experiments.sample --config=configs/sample_sana.py \
        --config.model=/path/to/Sana_600M_512px_diffusers --config.embeddings=embeddings.npz
    python -m experiments.sample --config=configs/sample_sana.py \
        --config.model=FOLDER --config.embeddings=FILE --config.size=1024,512

The network is that of Xie et al. 2024 (arXiv:2410.10629). The folder is a copy of
https://huggingface.co/Efficient-Large-Model/Sana_600M_512px_diffusers (transformer/, vae/,
scheduler/, model_index.json; text_encoder/ and tokenizer/ for experiments.embed), or of one of the
others that docs/networks.md lists. Without --config.model it is fetched from there, with
pip install "flowjax-dit[hub]" and internet. Read the licence on that page.

--config.labels=0,2 takes some of the texts by number. The pipeline's own solver is
--config.solver=scheduler --config.shift=1. Any size is possible whose sides the autoencoder's
factor divides (32 times the patch); the network was trained for about 512 x 512.

Expect: runs/sample_sana/samples.png, a row of images for each text; minutes on a CPU, seconds on a
GPU. No weights come with flowjax, so this was run with random ones only.
"""

from configs.sample import Config


def get_config() -> Config:
    """Two images of each text."""
    return Config(
        model="Efficient-Large-Model/Sana_600M_512px_diffusers",
        labels="",
        count=2,
        batch=4,
        steps=20,
        shift=3.0,
        guidance=4.5,
    )
