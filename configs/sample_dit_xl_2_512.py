r"""Draw ImageNet classes with the public DiT-XL/2 of 512 x 512 images.

    python -m experiments.sample --config=configs/sample_dit_xl_2_512.py \
        --config.model=/path/to/DiT-XL-2-512
    python -m experiments.sample --config=configs/sample_dit_xl_2_512.py \
        --config.labels="golden retriever, 417"

The network is that of Peebles & Xie 2023 (arXiv:2212.09748). The folder is a copy of
https://huggingface.co/facebook/DiT-XL-2-512 (transformer/, vae/, scheduler/, model_index.json).
Without --config.model it is fetched from there, with pip install "flowjax-dit[hub]" and internet.
Its licence is CC BY-NC 4.0.

Labels: numbers 0 to 999, or names and synonyms as in flowjax/assets/imagenet_classes.txt.
DDIM in 50 steps, as the published pipeline draws: --config.solver=scheduler --config.steps=50.

Expect: runs/sample_dit_xl_2_512/samples.png, two giant pandas; minutes on a CPU, seconds on a GPU.
No weights come with flowjax, so this was run with random ones only.
"""

from configs.sample import Config


def get_config() -> Config:
    """Two images of a class."""
    return Config(
        model="facebook/DiT-XL-2-512",
        labels="giant panda",
        count=2,
        batch=4,
        steps=25,
        guidance=4.0,
    )
