"""The certificate of overlap: the reader against texts and counts by hand, and what it shows."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import overlap as configured
from experiments.benchmarks import gpu
from experiments.benchmarks import overlap as command
from flowjax import grids, models, parallel, plans, records
from flowjax.parallel import traffic
from flowjax.parallel.analysis import hlo, latency, overlap

# The program of a GPU. Its loop of three passes has a gather that two products hide (one of them in
# a fusion), a start that is waited for at once, and a permute that begins before the gather and
# ends under it. A conditional follows, with a synchronous reduction at the end of one branch.
PAIRS = """HloModule pairs, is_scheduled=true, \
    entry_computation_layout={(f32[4,8]{1,0})->f32[4,4]{1,0}}

%product (a: f32[4,8], b: f32[8,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  ROOT %inner = f32[4,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%cheap (c: f32[4,8]) -> f32[4,8] {
  %c = f32[4,8]{1,0} parameter(0)
  %small = f32[8,8]{1,0} constant({...})
  %few = f32[4,8]{1,0} dot(%c, %small), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %alone = f32[4,8]{1,0} all-reduce(%few), channel_id=5, replica_groups=[1,4]<=[4]
}

%dear (e: f32[4,8]) -> f32[4,8] {
  %e = f32[4,8]{1,0} parameter(0)
  %big = f32[8,8]{1,0} constant({...})
  %one = f32[4,8]{1,0} dot(%e, %big), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %two = f32[4,8]{1,0} dot(%one, %big), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %hop = (f32[4,8]{1,0}, f32[4,8]{1,0}) collective-permute-start(%x), channel_id=1, \
    source_target_pairs={{0,1},{1,0}}
  %w = f32[8,8]{1,0} constant({...})
  %q = f32[4,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %begin = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), channel_id=2, \
    replica_groups=[1,4]<=[4], dimensions={0}
  %fused = f32[4,8]{1,0} fusion(%q, %w), kind=kCustom, calls=%product
  %hopped = f32[4,8]{1,0} collective-permute-done(%hop)
  %call = (f32[4,8]{1,0}, s8[64]{0}) custom-call(%fused, %w), custom_call_target="__cublas$gemm", \
    backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"]}}}
  %all = f32[16,8]{1,0} all-gather-done(%begin)
  %waits = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%hopped), channel_id=3, \
    replica_groups=[1,4]<=[4], dimensions={0}, \
    backend_config={"collective_backend_config":{"is_sync":true}}
  %last = f32[4,8]{1,0} dot(%hopped, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %waited = f32[16,8]{1,0} all-gather-done(%waits)
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%i, %last)
}

%condition (now: (s32[], f32[4,8])) -> pred[] {
  %now = (s32[], f32[4,8]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%now), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%turn, %three), direction=LT
}

ENTRY %main (p: f32[4,8]) -> f32[4,4] {
  %p = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], f32[4,8]{1,0}) tuple(%zero, %p)
  %begun = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%p), channel_id=4, \
    replica_groups=[1,4]<=[4], dimensions={0}
  %loop = (s32[], f32[4,8]{1,0}) while(%first), condition=%condition, body=%body, \
    backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  %z = f32[4,8]{1,0} conditional(%zero, %y, %y), branch_computations={%cheap, %dear}
  %ended = f32[16,8]{1,0} all-gather-done(%begun)
  ROOT %end = f32[4,4]{1,0} dot(%z, %p), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
"""

# The program of a TPU. The gather is cut into pieces that are fused with a product; products are
# written as convolutions with holes; only the condition shows the number of passes of the loop.
FUSED = """HloModule fused, is_scheduled=true, entry_computation_layout={()->f32[2,3,4,5]}

%begins (own: bf16[2,4,6]) -> (bf16[2,4,6], bf16[2,8,6], u32[]) {
  %own = bf16[2,4,6]{2,1,0} parameter(0)
  %piece = bf16[2,8,6]{2,1,0} all-gather(%own), channel_id=7, replica_groups={{0,1}}, dimensions={1}
  ROOT %start = (bf16[2,4,6]{2,1,0}, bf16[2,8,6]{2,1,0}, u32[]{:S(2)}) custom-call(%piece), \
    custom_call_target="AsyncCollectiveStart"
}

%goes.on (own.1: bf16[2,4,6], q: f32[2,3,4,6], k: f32[2,3,5,6]) -> (f32[2,3,4,5], bf16[2,8,6]) {
  %own.1 = bf16[2,4,6]{2,1,0} parameter(0)
  %q = f32[2,3,4,6]{3,2,1,0} parameter(1)
  %k = f32[2,3,5,6]{3,2,1,0} parameter(2)
  %scores = f32[2,3,4,5]{3,2,1,0} convolution(%q, %k), \
    window={size=2x3 stride=1x2 lhs_dilate=2x3}, \
    dim_labels=01bf_01oi->01bf
  %piece.1 = bf16[2,8,6]{2,1,0} all-gather(%own.1), channel_id=7, replica_groups={{0,1}}, \
    dimensions={1}
  ROOT %both = (f32[2,3,4,5]{3,2,1,0}, bf16[2,8,6]{2,1,0}) tuple(%scores, %piece.1)
}

%ends (own.2: bf16[2,4,6], all.2: bf16[2,8,6]) -> bf16[2,8,6] {
  %own.2 = bf16[2,4,6]{2,1,0} parameter(0)
  %all.2 = bf16[2,8,6]{2,1,0} parameter(1)
  %piece.2 = bf16[2,8,6]{2,1,0} all-gather(%own.2), channel_id=7, replica_groups={{0,1}}, \
    dimensions={1}
  ROOT %done = bf16[2,8,6]{2,1,0} custom-call(%all.2, %piece.2), \
    custom_call_target="AsyncCollectiveDone"
}

%body (state: (s32[], bf16[2,4,6], f32[2,3,4,6], f32[2,3,5,6])) -> (s32[], bf16[2,4,6], \
    f32[2,3,4,6], f32[2,3,5,6]) {
  %state = (s32[]{:T(128)}, bf16[2,4,6]{2,1,0}, f32[2,3,4,6]{3,2,1,0}, \
    f32[2,3,5,6]{3,2,1,0}) parameter(0)
  %mine = bf16[2,4,6]{2,1,0} get-tuple-element(%state), index=1
  %q.1 = f32[2,3,4,6]{3,2,1,0} get-tuple-element(%state), index=2
  %k.1 = f32[2,3,5,6]{3,2,1,0} get-tuple-element(%state), index=3
  %before = f32[4,10]{1,0} convolution(%flat, %weights), dim_labels=bf_io->bf
  %flat = f32[4,6]{1,0} constant({...})
  %weights = f32[6,10]{1,0} constant({...})
  %async-collective-start = (bf16[2,4,6]{2,1,0}, bf16[2,8,6]{2,1,0}, \
    u32[]{:S(2)}) fusion(%mine), kind=kCustom, calls=%begins
  %own.3 = bf16[2,4,6]{2,1,0} get-tuple-element(%async-collective-start), index=0
  %step = (f32[2,3,4,5]{3,2,1,0}, bf16[2,8,6]{2,1,0}) fusion(%own.3, %q.1, %k.1), kind=kCustom, \
    calls=%goes.on
  %all.3 = bf16[2,8,6]{2,1,0} get-tuple-element(%step), index=1
  %async-collective-done = bf16[2,8,6]{2,1,0} fusion(%own.3, %all.3), kind=kCustom, calls=%ends
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %next = (s32[]{:T(128)}, bf16[2,4,6]{2,1,0}, f32[2,3,4,6]{3,2,1,0}, \
    f32[2,3,5,6]{3,2,1,0}) tuple(%i, %mine, %q.1, %k.1)
}

%condition (now: (s32[], bf16[2,4,6], f32[2,3,4,6], f32[2,3,5,6])) -> pred[] {
  %twelve = s32[]{:T(128)} constant(12), metadata={op_name="x"}
  %now = (s32[]{:T(128)}, bf16[2,4,6]{2,1,0}, f32[2,3,4,6]{3,2,1,0}, \
    f32[2,3,5,6]{3,2,1,0}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%now), index=0
  ROOT %less = pred[]{:T(512)} compare(%turn, %twelve), direction=LT
}

ENTRY %main (p: (s32[], bf16[2,4,6], f32[2,3,4,6], f32[2,3,5,6])) -> s32[] {
  %p = (s32[]{:T(128)}, bf16[2,4,6]{2,1,0}, f32[2,3,4,6]{3,2,1,0}, \
    f32[2,3,5,6]{3,2,1,0}) parameter(0)
  %loop = (s32[]{:T(128)}, bf16[2,4,6]{2,1,0}, f32[2,3,4,6]{3,2,1,0}, \
    f32[2,3,5,6]{3,2,1,0}) while(%p), \
    condition=%condition, body=%body
  ROOT %i.1 = s32[]{:T(128)} get-tuple-element(%loop), index=0
}
"""


# -- the reader


def test_starts_find_their_ends():
    one = 2 * 4 * 8 * 8  # a product of (4, 8) and (8, 8)
    found = {(o.operation, o.times, o.bytes): o for o in overlap.overlaps(PAIRS)}
    hop = found["collective-permute", 3, 4 * 8 * 4]
    assert (hop.hidden, hop.body, hop.asynchronous) == (2 * one, 4 * one, True)
    gathers = [o for o in overlap.overlaps(PAIRS) if o.operation == "all-gather" and o.times == 3]
    assert [(o.hidden, o.asynchronous, o.devices, o.received) for o in gathers] == [
        (2 * one, True, 4, 3 * 4 * 8 * 4),
        (0, False, 4, 3 * 4 * 8 * 4),
    ]
    assert gathers[0].share == 0.5
    # Over the three passes of the loop and the cheaper branch.
    around = found["all-gather", 1, 16 * 8 * 4]
    assert (around.hidden, around.branch) == (3 * 4 * one + one, None)
    assert around.body == around.hidden + 2 * 4 * 4 * 8
    (reduce,) = (o for o in overlap.overlaps(PAIRS) if o.operation == "all-reduce")
    assert (reduce.branch, reduce.hidden, reduce.body, reduce.asynchronous) == (0, 0, one, False)


def test_pieces_of_a_gather_fused_with_products_are_one_gather():
    (found,) = overlap.overlaps(FUSED)
    hidden = 2 * (2 * 3) * 4 * 5 * 6  # six products of (4, 6) and (6, 5)
    assert found == overlap.Overlap(
        "all-gather", 2 * 8 * 6 * 2, 2, 12, None, True, hidden, hidden + 2 * 4 * 6 * 10
    )


def test_a_text_that_is_not_scheduled_is_refused():
    with pytest.raises(ValueError, match="does not say is_scheduled=true"):
        overlap.overlaps(PAIRS.replace("is_scheduled=true", "is_scheduled=false"))


def met(places, weights, out, window):
    """Pairs of place and weight that meet in a convolution over one axis, one by one."""
    stride, (low, _), hole, spread = window
    pairs = 0
    # A pair meets unless it falls on the padding or into a hole.
    for result, weight in itertools.product(range(out), range(weights)):
        at = result * stride + weight * spread - low
        pairs += 0 <= at <= (places - 1) * hole and at % hole == 0
    return pairs


@pytest.mark.parametrize("seed", range(6))
def test_operations_of_a_convolution_are_those_that_meet_a_number(seed):
    draw = np.random.default_rng(seed)
    batch, features, channels = (int(n) for n in draw.integers(1, 5, 3))
    places, weights = draw.integers(2, 7, 2), draw.integers(1, 4, 2)
    stride, hole, spread = draw.integers(1, 4, (3, 2))
    # Padding of at least the reach of the window, so that it fits once.
    pad = draw.integers(0, 3, (2, 2)) + [(0, reach) for reach in (weights - 1) * spread]
    out = ((places - 1) * hole + 1 + pad.sum(1) - ((weights - 1) * spread + 1)) // stride + 1

    def by(pair):
        return "x".join(map(str, pair))

    def shape(*sizes):
        return f"f32[{','.join(map(str, sizes))}]"

    padding = by(f"{low}_{high}" for low, high in pad)
    window = (
        f"size={by(weights)} stride={by(stride)} pad={padding} "
        f"lhs_dilate={by(hole)} rhs_dilate={by(spread)}"
    )
    lines = [
        f"  %x = {shape(batch, *places, channels)} parameter(0)",
        f"  %w = {shape(*weights, channels, features)} parameter(1)",
        f"  %y = {shape(batch, *out, features)} convolution(%x, %w), window={{{window}}}, "
        "dim_labels=b01f_01io->b01f",
    ]
    pairs = math.prod(
        met(*each[:3], each[3:])
        for each in zip(places, weights, out, stride, pad, hole, spread, strict=True)
    )
    assert overlap.Products({"main": lines}).of("main") == 2 * batch * features * channels * pairs


def test_operations_of_a_network_are_the_formula():
    """Layers in a loop, as the compiler wrote it for this machine, against the count by hand."""
    config = models.DiTConfig(
        (8, 4), channels=4, patch=2, width=24, depth=3, heads=2, classes=3, out_channels=8
    )
    network = models.network(config)

    def apply(params, *args):
        return network.apply(params, *args, models.softmax_attention, None)[0]

    def number(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    patches = number(1, config.tokens, config.patch**2 * config.channels)
    positions = number(config.tokens, config.width)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(apply).lower(network.shapes(), patches, number(1), label, positions)
    bodies, entry = hlo.computations(lowered.compile().as_text())
    counted = latency.work(config).operations(config.tokens)
    assert overlap.Products(bodies).of(entry) == counted


# -- programs for machines that are not here


def test_without_its_extra_a_sentence_and_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install the extra.*certificate"):
        command.run(configured.get_config(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_contender_is_refused(tmp_path):
    with pytest.raises(ValueError, match="contender='lazy'"):
        command.run(configured.Config(programs=("v5e:2x2 lazy",)), tmp_path)


def test_what_no_compiler_knows_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    def unknown(**_):
        raise RuntimeError("no such chip")

    monkeypatch.setattr(
        overlap, "missing", lambda platform: None if platform == "tpu" else "it is not here"
    )
    monkeypatch.setattr(overlap.topologies, "get_topology_desc", unknown)
    with pytest.raises(
        ValueError, match="'v9z:1x1' is no machine that the compiler for tpu knows: no such chip"
    ):
        command.run(configured.Config(programs=("v9z:1x1 late",)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_laid_out_by_shapes_alone():
    """The same program, whether its arguments are arrays or only their shapes."""
    sizes = models.preset("digits", depth=2)
    plan, mesh = plans.euler(grids.uniform(3)), parallel.make_mesh(seq=2)
    shapes = models.model(models.Card("digits", sizes), models.network(sizes).shapes())
    arrays = shapes._replace(
        params=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.params)
    )
    noise = jnp.zeros((1, 8, 8, 1), jnp.float32)
    # Once with arrays, once with shapes.
    run, args, *_ = parallel.program(arrays, noise, None, plan, mesh)
    again, abstract, *_ = parallel.program(shapes, jax.eval_shape(lambda: noise), None, plan, mesh)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    assert run.lower(*args).as_text() == again.lower(*abstract).as_text()


def test_a_run_without_one_of_the_compilers_is_not_complete(tmp_path, monkeypatch, capsys):
    """All that can be certified here is there already; the table is drawn, the rest is named."""
    config = configured.Config(programs=("v5e:2x2 late",), gpus=("4 late",), linear_programs=())
    row = {"machine": "v5e:2x2", "contender": "late", "kind": command.PROGRAM, "number": 0}
    records.Records(tmp_path, config).add(row, temporary=2**20)
    monkeypatch.setattr(
        overlap, "missing", lambda platform: None if platform == "tpu" else "no compiler for cuda"
    )
    monkeypatch.setattr(command, "target", lambda config, machine: None)
    with pytest.raises(SystemExit) as status:
        command.run(config, tmp_path)
    assert status.value.code == 0
    assert "left out: no compiler for cuda." in capsys.readouterr().out
    assert (tmp_path / "table.md").exists() and not (tmp_path / "done.json").exists()


@pytest.mark.slow
def test_seconds_of_gathers_are_measured_where_devices_are():
    """On virtual devices the seconds mean nothing, but that all three programs ran."""
    found = command.measured(models.preset("digits", depth=2), 1, 3, 1, jax.devices()[:2])
    assert found.keys() == {"gather", "late", "frozen", "hidden", "share"}
    assert all(found[name] > 0 for name in ("gather", "late", "frozen"))
    # Late gathers hide part of what a program that gathers nothing saves.
    waited, none = found["gather"], found["frozen"]
    assert found["hidden"] * (waited - none) == pytest.approx(waited - found["late"])


def test_several_gpus_get_a_sentence():
    row = dict(size=8, batch=2, contender="flowjax", failed="no memory", peak=1e12)
    several = dict(gpus=4, gather=3e-3, late=2e-3, frozen=1e-3, hidden=0.5, share=1.0)
    text = gpu.markdown([row, several], "command")
    assert "4 GPUs that share an image: 3 ms" in text and "so 50% of their time is hidden" in text
    assert text.count("| no memory") == 1


def carried(text, heads):
    """Bytes of keys and values that the loop over rows carries: arrays that end in `heads`."""
    bodies, entry = hlo.computations(text)
    (loop,) = (line for line in bodies[entry] if " while(" in line)
    arrays = re.findall(rf"bf16\[([\d,]+,{heads[0]},{heads[1]})\]", loop.split(" while(")[0])
    return sum(2 * math.prod(map(int, sizes.split(","))) for sizes in arrays)


@pytest.mark.slow
def test_late_gathers_lie_under_a_layer_and_early_ones_do_not():
    """Two layers as wide as DiT-XL/2's, 4096 tokens on four TPU v5e; a minute a program."""
    pytest.importorskip("libtpu", reason="the compiler for TPU comes with the extra certificate")
    sizes = models.preset("DiT-XL/2", size=(128, 128), depth=2, dtype="bfloat16")
    plan = plans.euler(grids.uniform(3))
    mesh = parallel.make_mesh(seq=4, devices=overlap.topology("tpu", "v5e:2x2"))
    shape = 2, *sizes.size, sizes.channels
    with jax.enable_x64(False):
        programs = {
            gather: overlap.compiled(sizes, 2, plan, mesh, attention="stale", gather=gather)
            for gather in ("late", "early")
        }
    for gather, program in programs.items():
        text = program.as_text()
        sync, exchange = (o for o in overlap.overlaps(text) if o.times == 3 * 2)
        # Branch 0 is synchronous, branch 1 stale; each layer gathers once.
        assert (sync.operation, sync.branch) == ("all-gather", 0)
        assert (exchange.operation, exchange.branch) == ("all-gather", 1)
        assert sync.body == exchange.body
        assert sync.received == traffic.received(sizes, shape, mesh, "stale", 1.0, "bfloat16")
        assert 0.04 < sync.share < 0.06  # the queries' projection
        assert exchange.share == 1 if gather == "late" else 0.04 < exchange.share < 0.06
        kept = traffic.buffer(sizes, shape, mesh, gather, 1.0, "bfloat16")
        assert carried(text, (16, 72)) == kept
    late, early = (
        programs[gather].memory_analysis().temp_size_in_bytes for gather in ("late", "early")
    )
    assert late < early
