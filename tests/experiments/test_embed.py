"""Texts to embeddings: a tiny random Gemma-2 with its tokenizer, and what is refused."""

import pathlib

import numpy as np
import pytest

from configs.embed import Config
from experiments import embed
from experiments.cli import embeddings

ROOT = pathlib.Path(__file__).parents[2]
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "red", "fox", "house", "describe", ":"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a text encoder and a tokenizer, as a pipeline has them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("pipeline")
    # The tokenizer: one token a word, with a token at the start.
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    # The encoder.
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=len(WORDS),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformers.Gemma2Model(config).save_pretrained(folder / "text_encoder")
    return folder


def command(encoder, out, *words):
    embed.main(
        [
            "embed",
            f"--config={ROOT}/configs/embed.py",
            f"--config.text_encoder={encoder}",
            f"--config.out={out}",
            "--config.length=8",
            *words,
        ]
    )


class Card:
    """A network that takes embeddings of 24 numbers."""

    class config:
        caption = 24


# transformers warns of what later versions change.
@pytest.mark.filterwarnings("default")
def test_command_writes_embeddings_that_sampling_reads(encoder, tmp_path):
    out = tmp_path / "texts.safetensors"
    command(encoder, out, "--config.prompts=a red fox|a house")
    texts = embeddings.read(str(out), Card)
    assert texts.prompts == ["a red fox", "a house"]
    # The start token and the words; the negative text is the start token alone.
    assert texts.condition.mask.sum(axis=1).tolist() == [4, 3]
    assert texts.condition.negative_mask.sum(axis=1).tolist() == [1, 1]
    assert texts.condition.embeddings.shape == (2, 8, 24)
    # A causal encoder: the start token and "a" have the same embeddings in both texts.
    same = np.abs(texts.condition.embeddings[0] - texts.condition.embeddings[1]).max(axis=1)
    assert np.all(same[:2] < 1e-5) and same[2] > 1e-3


@pytest.mark.filterwarnings("default")
def test_an_instruction_is_put_before_the_text_and_cut_off_again(encoder, tmp_path):
    instruction = tmp_path / "instruction.txt"
    instruction.write_text("describe a house : ")
    plain, led = tmp_path / "plain.npz", tmp_path / "led.npz"
    command(encoder, plain, "--config.prompts=red fox")
    command(encoder, led, "--config.prompts=red fox", f"--config.instruction={instruction}")
    a, b = (embeddings.read(str(path), Card).condition for path in (plain, led))
    assert b.embeddings.shape == a.embeddings.shape
    # The first token is kept and is the same; the text follows other words, so it differs.
    np.testing.assert_allclose(a.embeddings[0, 0], b.embeddings[0, 0], atol=1e-5)
    assert np.max(np.abs(a.embeddings[0, 1] - b.embeddings[0, 1])) > 1e-3
    # The negative text has no instruction.
    np.testing.assert_array_equal(a.negative, b.negative)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_encoder": ""}, "give the folder of a text encoder"),
        ({"text_encoder": "nowhere"}, "there is no such folder"),
        ({"length": 1}, "length=1"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"out": "texts.json"}, "ends in .npz or .safetensors"),
        ({"prompts": ""}, "wanted prompts"),
        ({"prompts": " | "}, "no text in the prompts"),
        ({"prompts": "", "prompts_file": "nowhere.txt"}, "prompts_file='nowhere.txt' cannot be"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, words):
    config = Config(**{"text_encoder": str(tmp_path), "prompts": "a fox", **changes})
    with pytest.raises(ValueError, match=words):
        embed.check(config)
        embed.prompts_of(config)


def test_an_existing_file_is_not_overwritten_unasked(tmp_path):
    out = tmp_path / "texts.npz"
    out.write_bytes(b"kept")
    config = Config(text_encoder=str(tmp_path), prompts="a fox", out=str(out))
    with pytest.raises(ValueError, match="is there already"):
        embed.embed(config, "", False, "")
    assert out.read_bytes() == b"kept"
