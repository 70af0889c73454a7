r"""Embed texts for a text-to-image network, by its text encoder.

    python -m experiments.embed --config=configs/embed.py \
        --config.text_encoder=/path/to/Sana_600M_512px_diffusers --config.prompts="a red fox"
    python -m experiments.embed --config=configs/embed.py \
        --config.text_encoder=/path/to/gemma --config.prompts_file=prompts.txt \
        --config.out=prompts.safetensors

It needs pip install "flowjax-dit[text]" (torch and transformers). The text encoder of SANA is
Gemma-2-2B; a pipeline's folder has it in text_encoder/ and tokenizer/.

The original code puts an instruction before each text (its "complex human instruction"). It is off
here; --config.instruction=FILE takes one from a file, as it stands there. The negative text never
has one.

Expect: embeddings.npz, for --config.embeddings of experiments.sample. The networks that come with
flowjax are drawn for labels, so this was run with a small random Gemma only.
"""

import dataclasses


@dataclasses.dataclass
class Config:
    """Which texts, and by which encoder."""

    # A folder with text_encoder/ and tokenizer/, or one in which transformers finds both.
    text_encoder: str = ""
    prompts: str = ""  # texts, separated by "|"
    prompts_file: str = ""  # or a file with one text a line
    negative: str = ""  # the text from which guidance leads away
    instruction: str = ""  # a file whose text is put before each prompt; "" is none
    length: int = 300  # tokens of a text, padding included; longer texts are cut
    dtype: str = "float32"  # in which the encoder computes: "float32" or "bfloat16"
    out: str = "embeddings.npz"  # or a name that ends in .safetensors


def get_config() -> Config:
    """The defaults."""
    return Config()
