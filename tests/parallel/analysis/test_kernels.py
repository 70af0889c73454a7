"""The reader of kernels, against a text by hand and the program of a small sampler."""

import jax
import jax.numpy as jnp
import pytest

from flowjax.parallel.analysis import hlo, kernels
from flowjax.parallel.analysis.products import Products

# A loop of three passes with a product by cuBLAS, one in a fusion in a fusion, and the fused
# attention of 2 samples, 4 heads, 16 queries and keys, and heads of 8 numbers.
GPU = """HloModule sampler, is_scheduled=true, entry_computation_layout={()->f32[32,8]{1,0}}

%tile (a: bf16[32,8], b: bf16[8,8]) -> f32[32,8] {
  %a = bf16[32,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  ROOT %inner = f32[32,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%around (c: bf16[32,8], d: bf16[8,8]) -> f32[32,8] {
  %c = bf16[32,8]{1,0} parameter(0)
  %d = bf16[8,8]{1,0} parameter(1)
  ROOT %outer = f32[32,8]{1,0} fusion(%c, %d), kind=kCustom, calls=%tile
}

%body (state: (s32[], bf16[32,8])) -> (s32[], bf16[32,8]) {
  %state = (s32[], bf16[32,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[32,8]{1,0} get-tuple-element(%state), index=1
  %w = bf16[8,8]{1,0} constant({...})
  %wide = f32[8,8]{1,0} convert(%w)
  %q = bf16[2,16,4,8]{3,2,1,0} bitcast(%x)
  %triton = f32[32,8]{1,0} fusion(%x, %w), kind=kCustom, calls=%around
  %library = (f32[32,8]{1,0}, s8[64]{0}) custom-call(%triton, %wide), \
    custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %attend = (bf16[2,4,16,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), \
    custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config": \
{"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "4", "16", "16"], \
"layout": {"minor_to_major": ["3", "2", "1", "0"]}}, "bmm1_dot_dimension_numbers": \
{"lhs_contracting_dimensions": ["3"]}}}
  ROOT %next = (s32[], bf16[32,8]{1,0}) tuple(%i, %x)
}

%condition (now: (s32[], bf16[32,8])) -> pred[] {
  %now = (s32[], bf16[32,8]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (p: (s32[], bf16[32,8])) -> f32[32,8] {
  %p = (s32[], bf16[32,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[32,8]{1,0}) while(%p), condition=%condition, body=%body, \
    backend_config={"known_trip_count":{"n":"3"}}
}
"""
MATRIX = 2 * 32 * 8 * 8  # a product of (32, 8) and (8, 8)
# Scores and values: 2 samples, 4 heads, 16 queries, 16 keys, 8 numbers of a head.
ATTENTION = 2 * (2 * 2 * 4 * 16 * 16 * 8)


def test_every_form_of_a_product_is_found_with_its_types():
    assert kernels.products(GPU) == [
        kernels.Product("dot", ("bf16", "bf16"), MATRIX, 3),
        kernels.Product("cuBLAS", ("f32", "f32"), MATRIX, 3),
        kernels.Product("cuDNN attention", ("bf16", "bf16"), ATTENTION, 3),
    ]


def test_products_of_the_fused_attention_count_with_the_others():
    bodies, entry = hlo.computations(GPU)
    assert Products(bodies).of(entry) == 3 * (2 * MATRIX + ATTENTION)


def test_nothing_stops_a_loop_of_known_length():
    assert kernels.stops(GPU) == {}


LOOP = "  ROOT %next = (s32[]"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%s = (s32[], token[]) infeed(%t)", "infeed or outfeed"),
        ("%s = token[] outfeed(%x, %t)", "infeed or outfeed"),
        (
            "%s = (f32[2]{0}, u32[], token[]) send(%x, %t), is_host_transfer=true",
            "transfer to or from the host",
        ),
        (
            '%s = f32[2]{0} custom-call(%x), custom_call_target="xla_ffi_python_gpu_callback"',
            "Python callback",
        ),
        ("%s = bf16[32,8]{1,0:S(5)} copy(%x)", "array in the host's memory"),
        ("%s = f32[2]{0} conditional(%i, %x, %x), branch_computations={}", "conditional"),
    ],
)
def test_each_stop_for_the_host_is_found_as_often_as_its_loop_runs(line, reason):
    assert kernels.stops(GPU.replace(LOOP, f"  {line}\n{LOOP}")) == {reason: 3}


def test_a_transfer_between_devices_is_no_stop():
    line = "  %s = (f32[2]{0}, u32[], token[]) send(%x, %t), channel_id=1\n"
    assert kernels.stops(GPU.replace(LOOP, line + LOOP)) == {}


def test_a_loop_of_unknown_length_stops_for_its_condition():
    text = GPU.replace('{"known_trip_count":{"n":"3"}}', "{}")
    assert kernels.stops(text) == {"loop of unknown length": 1}


def test_a_callback_in_a_scan_is_found_in_a_real_program():
    def step(x, _):
        jax.debug.callback(lambda y: None, x[0])
        return x * 2, None

    run = jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0])
    text = run.lower(jnp.ones(2)).compile().as_text()
    assert kernels.stops(text).get("Python callback") == 3
