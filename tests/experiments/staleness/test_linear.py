"""Linear beside softmax attention: runs without staleness, and words that follow the rows."""

import dataclasses

import jax
import numpy as np
import pytest

import flowjax
from configs.staleness import get_config
from experiments.staleness import linear, subjects
from flowjax import models
from flowjax.parallel.emulation.network import emulate_with, exchange

SMALL = dataclasses.replace(
    get_config(),
    seeds=2,
    linear_starts=2,
    fine_steps=8,
    linear_networks=(subjects.RANDOM, subjects.RANDOM_LINEAR),
    linear_steps=(4,),
)


# ---- the measurement


def test_a_linear_network_whose_steps_are_all_synchronous_gives_the_plain_sample():
    model = subjects.random_linear_network()
    noise = subjects.starts_of("network", 1, 2).astype(np.float32)
    label, plan = np.arange(2), subjects.plan_of("DPM++ 2M", 4)

    @jax.jit
    def plain(params):
        return flowjax.sample(lambda x, t: model.apply(params, x, t, label), noise, plan).x

    # Numbers of synchronous steps are numbers of one program.
    @jax.jit
    def emulated(params, given):
        return emulate_with(model._replace(params=params), noise, label, plan, given).x

    expected = plain(model.params)
    all_synchronous, one = (
        emulated(model.params, exchange(plan, subjects.TOKENS, 2, warmup=count)) for count in (4, 1)
    )
    np.testing.assert_allclose(all_synchronous, expected, rtol=0, atol=1e-5)
    assert np.abs(one - expected).max() > 1e-3


@pytest.mark.slow
def test_the_first_network_has_ratio_one_and_the_others_are_compared_on_its_starts():
    rows = [{**key, **values} for key, values in linear.measure(SMALL, linear.cells(SMALL))]
    assert len(rows) == 2 * len(linear.COUNTS)
    for row in rows:
        if row["network"] == subjects.RANDOM:
            assert row["rms_ratio"] == row["median_ratio"] == 1
        assert row["own_rms_ratio"] == pytest.approx(row["sync_rms"] / row["own_rms"])
    first, other = (linear.at(rows, name, 4)[-1] for name in SMALL.linear_networks)
    assert other["rms_ratio"] == pytest.approx(other["sync_rms"] / first["sync_rms"])


def test_a_network_whose_rows_do_not_divide_is_refused(monkeypatch):
    six = dataclasses.replace(models.preset("digits"), size=(6, 6))
    card = models.Card("six", six)
    monkeypatch.setattr(linear.models, "load", lambda name: models.Model(None, None, card))
    config = dataclasses.replace(SMALL, linear_networks=("digits",))
    with pytest.raises(ValueError, match="'digits' has 6 rows of tokens; wanted a multiple of 8"):
        linear.check(config)


# ---- words, on made rows


def made(network, low, high, steps=20, devices=8):
    """A row whose ratios to "soft" have this interval, by the RMS and by the median."""
    middle = (low * high) ** 0.5
    row = {
        "question": "linear",
        "network": network,
        "steps": steps,
        "devices": devices,
        "first": "soft",
        "solver": "DPM++ 2M",
        "samples": 60,
        "doubling": 1e-4,
        "own_rms": 0.01,
    }
    for name in ("sync_rms", "sync_median"):
        row |= {f"{name}{end}": 0.05 for end in ("", "_low", "_high")}
    for name in ("rms", "median", "own_rms"):
        row |= {f"{name}_ratio": middle, f"{name}_low": low, f"{name}_high": high}
    return row


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.2, 1.5, "worse"),
        (0.5, 0.8, "better"),
        (0.95, 1.05, "alike"),
        (0.9, 1.3, "undecided"),
        (1.05, 1.5, "undecided"),
    ],
)
def test_the_word_follows_the_interval(low, high, word):
    row = made("sums", low, high)
    assert linear.word(row) == linear.word(row, "median") == word
    rows = [made("soft", 1.0, 1.0), row]
    assert linear.counts(rows)[word] == 1
    section = linear.section(rows, "command")
    assert f"by the RMS {word} in 1; by the median {word} in 1." in section.answer
    assert f"times on 8 devices ({word})" in section.answer


def test_the_claim_of_the_figure_counts_the_cells_beyond_the_band():
    rows = [made("soft", 1.0, 1.0, devices=n) for n in linear.COUNTS]
    ends = ((1.2, 1.5), (0.5, 0.8), (0.95, 1.05))
    rows += [made("sums", *end, devices=n) for n, end in zip(linear.COUNTS, ends, strict=True)]
    assert "in 1 of 3 cells, less in 1" in linear.claim(rows)
