r"""Texts to embeddings, by the text encoder of a text-to-image network.

    python -m experiments.embed --config=configs/embed.py --config.text_encoder=FOLDER \
        --config.prompts="a red fox|a house in the snow"

It writes the file of `experiments.cli.embeddings`, with the embeddings of the negative text. The
encoder runs once for each text, so files of embeddings can be made on another machine.

The embeddings are the last hidden state of the encoder at each token. Tokens are padded on the
right to `length`, and texts are in small letters, without spaces around. With an instruction of so
many tokens that the text has more than `length`, the first token and the last length - 1 are kept,
as SANA's pipeline in diffusers does.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.cli import embeddings
from experiments.cli.run import act_on
from flowjax.errors import check_choice, check_whole
from flowjax.models import Condition


def check(config: Any) -> None:
    """Refuse a configuration before an encoder is loaded."""
    if not config.text_encoder:
        raise ValueError(
            "text_encoder='': give the folder of a text encoder, or of a pipeline with "
            "text_encoder/ and tokenizer/."
        )
    if not pathlib.Path(config.text_encoder).is_dir():
        raise ValueError(f"text_encoder={config.text_encoder!r}: there is no such folder.")
    check_choice("embed", "dtype", config.dtype, ("float32", "bfloat16"))
    check_whole("embed", "length", config.length, 2)
    embeddings.check_ending("out", config.out)


def prompts_of(config: Any) -> list[str]:
    """The texts of the configuration."""
    if bool(config.prompts) == bool(config.prompts_file):
        raise ValueError(
            "wanted prompts, such as --config.prompts='a red fox|a house', or prompts_file, one of "
            "them."
        )
    if config.prompts:
        words = config.prompts.split("|")
    else:
        words = _text("prompts_file", config.prompts_file).splitlines()
    found = [word.strip() for word in words if word.strip()]
    if not found:
        raise ValueError("there is no text in the prompts; give at least one.")
    return found


def _text(option: str, path: str) -> str:
    """The text of a file."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{option}={path!r} cannot be read: {error.strerror}.") from None


def load(config: Any) -> tuple[Any, Any]:
    """(tokenizer, text encoder) of the configuration's folder, as transformers gives them."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f"embedding needs torch and transformers, and {error.name} is not installed; run "
            "pip install 'flowjax-dit[text]'."
        ) from None
    folder = pathlib.Path(config.text_encoder)
    # A pipeline has both parts in folders of their own.
    parts = [folder / part for part in ("tokenizer", "text_encoder")]
    parts = [part if part.is_dir() else folder for part in parts]
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(parts[0])
        dtype = getattr(torch, config.dtype)
        encoder = transformers.AutoModel.from_pretrained(parts[1], dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"text_encoder={config.text_encoder!r} cannot be read: {reason}") from None
    tokenizer.padding_side = "right"
    return tokenizer, encoder.eval()


def encode(
    tokenizer: Any, encoder: Any, prompts: Sequence[str], length: int, instruction: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (P, length, C) float32 and mask (P, length) of texts, one at a time.

    Args:
      tokenizer, encoder: of `load`.
      prompts: P texts.
      length: tokens of a text that are kept.
      instruction: put before each text.
    """
    import torch

    # The instruction has its own tokens beside those of a text. The two that are taken off are its
    # first one, which is kept, and the space before the text.
    extra = len(tokenizer.encode(instruction)) - 2 if instruction else 0
    kept = [0, *range(-length + 1, 0)]
    found = []
    for prompt in prompts:
        tokens = tokenizer(
            instruction + prompt.lower().strip(),
            padding="max_length",
            max_length=length + extra,
            truncation=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask
        with torch.no_grad():
            hidden = encoder(tokens.input_ids, attention_mask=mask)[0]  # (1, tokens, C)
        found.append((hidden[0, kept].float().numpy(), mask[0, kept].numpy()))
    hidden, masks = zip(*found, strict=True)
    return np.stack(hidden), np.stack(masks)


def embed(config: Any, workdir: str, overwrite: bool, command: str) -> None:
    """Embed the texts of the configuration, write the file, and report it in one line."""
    check(config)
    prompts = prompts_of(config)
    instruction = _text("instruction", config.instruction) if config.instruction else ""
    out = pathlib.Path(workdir) / config.out
    if out.exists() and not overwrite:
        raise ValueError(f"{out} is there already; give another name, or --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)

    tokenizer, encoder = load(config)
    found, mask = encode(tokenizer, encoder, prompts, config.length, instruction)
    negative, negative_mask = encode(tokenizer, encoder, [config.negative], config.length)
    # Each text has its own negative one in a `Condition`; the same for all here.
    condition = Condition(
        found,
        mask,
        np.repeat(negative, len(prompts), axis=0),
        np.repeat(negative_mask, len(prompts), axis=0),
    )
    embeddings.write(out, condition, prompts)
    longest = int(mask.sum(axis=1).max())
    width = found.shape[-1]
    print(f"{len(prompts)} texts of at most {longest} tokens, each of {width} numbers; {out}")


def _here(config: str) -> str:
    """`out` is a path from the current directory, unless --workdir is given."""
    return "."


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    act_on(embed, argv, workdir=_here)


if __name__ == "__main__":
    main()
