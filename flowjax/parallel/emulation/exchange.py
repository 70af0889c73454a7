"""What the parts of an image send to each other, row by row, as a table that a program can trace.

The parts are those of the devices, or the patches of PipeFusion. No compiled program of the
emulation depends on their number, on the warm-up, the policy, the order of the forecast's
polynomial or the bits of a message: all of them are numbers in an `Exchange`.
"""

from typing import Any, NamedTuple

import numpy as np

from flowjax.errors import is_whole
from flowjax.parallel.options import USES, Options, check, from_keywords
from flowjax.parallel.pipeline.setup import check_patches
from flowjax.parallel.stale.precision import bits_of
from flowjax.parallel.stale.rows import RowSchedule, row_schedule
from flowjax.plans.table import Plan

NAME = "parallel.emulate"  # in whose name refusals speak


class Exchange(NamedTuple):
    """What the parts send to each other, row by row. A pytree of arrays.

    Attributes:
      shards: (L,) int, the part of each token.
      fresh: (n, n) bool, with n at least the number of parts: whether part i sees the keys and
        values of part j of this row, even in a stale row.
      rows: the `RowSchedule`.
      gain_groups: (n or L, L) bool. The tokens that are marked in one row have their fitted gains
        in common; each token is marked in one row.
      bits: (), of a number in a message (see parallel.stale.precision); 0 sends it unchanged.
      residual: () bool, whether a message is the error of the forecast instead of the forecast.
    """

    shards: np.ndarray
    fresh: np.ndarray
    rows: RowSchedule
    gain_groups: np.ndarray
    bits: np.ndarray
    residual: np.ndarray


def contiguous(tokens: int, devices: int, name: str = NAME, *, together: int = 1) -> np.ndarray:
    """The device of each token, (tokens,): runs of ceil(tokens/devices) tokens.

    The last runs may be shorter, or empty. A refusal speaks in the name of `name`. So many
    neighbouring tokens as `together` says, such as those of a row of the image, stay on one device.
    """
    if together > 1:
        rows = contiguous(tokens // together, devices, f"{name}: split by rows")
        return np.repeat(rows, together)
    if not is_whole(devices, 1, tokens):
        raise ValueError(
            f"{name}: {devices} devices for {tokens} tokens; wanted from 1 to as many devices as "
            "tokens."
        )
    return np.arange(tokens) // -(-tokens // devices)


def exchange(
    plan: Plan,
    tokens: int,
    devices: int,
    *,
    slots: int | None = None,
    together: int = 1,
    **options: Any,
) -> Exchange:
    """The `Exchange` of a run.

    Args:
      plan: a `Plan` with known numbers.
      tokens: L.
      devices: the number of parts: devices, or patches of "pipefusion".
      slots: the size of the tables, at least the number of parts; by default that number.
        Exchanges of one size share a compiled program.
      together: as for `contiguous`.
      **options: the fields of `parallel.options.Options`, each by its name. Here attention is
        "stale" by default, and comm_dtype may also be a number of bits.

    Raises:
      ValueError: options or a number of parts that do not fit.
    """
    given = from_keywords(NAME, {"attention": "stale"} | options)
    # `check` knows the formats of a mesh, of which a number of bits is none.
    has_bits = isinstance(given.comm_dtype, int)
    check(NAME, given._replace(comm_dtype=None) if has_bits else given, plan)
    return exchange_of(plan, tokens, devices, given, slots, together)


def exchange_of(
    plan: Plan,
    tokens: int,
    devices: int,
    options: Options,
    slots: int | None = None,
    together: int = 1,
) -> Exchange:
    """`exchange` with `Options` that `options.check` accepted; `together` as for `contiguous`."""
    # The parts of a pipeline are its patches. Its stages change nothing.
    parts = devices
    if options.attention == "pipefusion":
        parts = devices if options.patches is None else options.patches
        check_patches(NAME, tokens, options._replace(patches=parts), devices)
        if not is_whole(devices, 1):
            raise ValueError(f"{NAME}: devices={devices!r}; wanted a number of stages, at least 1.")
    shards = contiguous(tokens, parts, together=together)
    everyone = np.arange(slots or parts)
    # Exact attention is a run whose steps are all synchronous.
    if USES[options.attention].is_exact:
        options = options._replace(warmup=plan.steps, refresh=1)

    # In a pipeline the parts before a part passed through the layer in this row already.
    if options.attention == "pipefusion":
        fresh = everyone[:, None] >= everyone[None]
    else:
        fresh = everyone[:, None] == everyone[None]
    # A row of the table for each group of tokens with gains in common.
    if options.gains_per == "token":
        gain_groups = np.eye(tokens, dtype=bool)
    else:
        gain_groups = shards[None] == everyone[:, None]
    # A number of bits is a format that only the emulation has.
    bits = options.comm_dtype
    if not isinstance(bits, int):
        bits = bits_of(NAME, bits)
    return Exchange(
        shards=shards,
        fresh=fresh,
        rows=row_schedule(plan, options),
        gain_groups=gain_groups,
        bits=np.float64(bits),
        residual=np.bool_(options.residual),
    )
