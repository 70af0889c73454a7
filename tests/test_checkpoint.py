"""Checkpoints: what goes in comes out, and nothing that goes wrong destroys what was there."""

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flowjax import checkpoint

DETAILS = {"config": {"rate": 0.5}, "loss": float("nan")}


def tree(value=1.0):
    params = {
        "a": {"kernel": jnp.full((3, 2), value, jnp.float32)},
        "b": jnp.arange(4, dtype=jnp.bfloat16),
    }
    return {
        "step": jnp.asarray(7, jnp.int32),
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
    }


def same(a, b):
    a, b = checkpoint.flatten(a), checkpoint.flatten(b)
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a
    )


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path, 7, tree(), {"config": {"rate": 0.5}})
    found, details = checkpoint.restore(tmp_path, 7, tree(2.0))
    assert same(found, tree()) and isinstance(found["optimizer"], type(tree()["optimizer"]))
    assert details == {"config": {"rate": 0.5}}


def test_newest_are_kept(tmp_path):
    for step in (3, 12, 100, 101):
        checkpoint.save(tmp_path, step, {"x": np.full(2, float(step))}, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [100, 101]
    assert checkpoint.restore(tmp_path, 101, {"x": np.zeros(2)})[0]["x"].tolist() == [101, 101]


def test_no_folder_holds_no_steps(tmp_path):
    assert checkpoint.steps(tmp_path / "none") == []


def largest(path):
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("harm", ["truncated", "changed", "missing"])
def test_damaged_checkpoint_is_refused_and_left(tmp_path, harm):
    checkpoint.save(tmp_path, 1, tree(), {})
    file = largest(tmp_path / "00000001" / "arrays")
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(
            content[:-1] if harm == "truncated" else content[:-1] + bytes([content[-1] ^ 1])
        )
    with pytest.raises(ValueError, match=f"damaged: .*{file.name}.*Remove that folder"):
        checkpoint.restore(tmp_path, 1, tree())
    assert checkpoint.steps(tmp_path) == [1]


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "00000005").mkdir()
    with pytest.raises(ValueError, match="no checkpoint of flowjax"):
        checkpoint.restore(tmp_path, 5, tree())
    (tmp_path / "00000005" / "card.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="no checkpoint of flowjax"):
        checkpoint.restore(tmp_path, 5, tree())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["params"].pop("b"),
        lambda t: t["params"].update(b=np.zeros(5)),
        lambda t: t.update(more=np.zeros(1)),
    ],
)
def test_checkpoint_of_another_model_is_refused(tmp_path, change):
    checkpoint.save(tmp_path, 1, tree(), {})
    other = tree()
    change(other)
    with pytest.raises(
        ValueError, match="another model or optimizer: .* in the checkpoint, .* wanted"
    ):
        checkpoint.restore(tmp_path, 1, other)


@pytest.mark.parametrize("when", ["before", "while Orbax writes"])
def test_full_disk_keeps_the_older_checkpoint(tmp_path, monkeypatch, when):
    if when != "before":  # something else filled the disk in between
        monkeypatch.setattr(checkpoint, "_ask_for_room", lambda folder, size: None)
    checkpoint.save(tmp_path, 1, {"x": np.zeros(20000)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(ValueError, match="step 2 cannot be written .*step 1 is kept"):
            checkpoint.save(tmp_path, 2, {"x": np.random.default_rng(0).random(20000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    assert not checkpoint.restore(tmp_path, 1, {"x": np.zeros(20000)})[0]["x"].any()
    checkpoint.save(tmp_path, 2, {"x": np.ones(20000)}, {})


SAVER = """
    import os, signal, sys
    import numpy as np
    from flowjax import checkpoint

    if sys.argv[2] == "at the rename":
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    step = max(checkpoint.steps(sys.argv[1]), default=0)
    while True:
        step += 1
        tree = {"x": np.full((300, 300), float(step)), "step": np.asarray(step)}
        checkpoint.save(sys.argv[1], step, tree, {}, keep=2)
        print(step, flush=True)
"""


def start_saver(folder, where):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SAVER), str(folder), where],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def newest_is_whole(folder):
    step = checkpoint.steps(folder)[-1]
    found, _ = checkpoint.restore(folder, step, {"x": np.zeros((300, 300)), "step": np.asarray(0)})
    return found["step"] == step and bool(np.all(found["x"] == step))


def test_kill_before_the_rename_leaves_the_older_checkpoint(tmp_path):
    like = {"x": np.full((300, 300), 1.0), "step": np.asarray(1)}
    checkpoint.save(tmp_path, 1, like, {})
    saver = start_saver(tmp_path, "at the rename")
    assert saver.wait() == -signal.SIGKILL
    saver.stdout.close()
    assert [p.name for p in tmp_path.glob(".*")] == [".saving-00000002"]  # it was within a save
    assert checkpoint.steps(tmp_path) == [1] and newest_is_whole(tmp_path)
    checkpoint.save(tmp_path, 3, like, {})
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path):
    chance = random.Random(0)
    within = 0
    for _ in range(8):
        with start_saver(tmp_path, "") as saver:
            saver.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            saver.kill()
        within += bool(list(tmp_path.glob(".saving-*")))
        assert newest_is_whole(tmp_path)
    assert within  # a save takes most of the loop, so that kills fell into some
