r"""What tuning a large network costs, from compiled programs: no weights are needed.

    python -m experiments.tune.cost --model=DiT-XL/2 --size=32 --batch=8 --steps=10

It compiles two programs for a network of these sizes: one evaluation of a batch, as sampling does
it, and the derivatives that Levenberg-Marquardt takes with as many evaluations in memory. It prints
the temporary memory of both and the floating point operations of a whole refinement.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import grids, models, plans
from flowjax.parallel.analysis import hlo
from flowjax.parallel.analysis.products import Products
from flowjax.tune import numbers as numbering
from flowjax.tune.jacobian import at_once_shape, pushes


class Cost(NamedTuple):
    """Of one network, one batch and one number of steps.

    Attributes:
      sampling, derivatives: temporary bytes of one evaluation of the batch, and of one call that
        takes derivatives.
      forward, tangent: operations of matrix products of one evaluation and of one derivative, of
        one sample.
      numbers: free numbers of the table.
      tangents: derivatives of one sample that a Jacobian takes.
    """

    sampling: int
    derivatives: int
    forward: float
    tangent: float
    numbers: int
    tangents: int


def cost(config: models.DiTConfig, batch: int, steps: int, dtype: str = "float32") -> Cost:
    """Compile both programs and read their memory and operations.

    Args:
      config: sizes of the network.
      batch: starts that are sampled together, and evaluations in memory while derivatives are
        taken.
      steps: of the table that is refined, from Adams-Bashforth 3.
      dtype: of the state.
    """
    card = models.Card("cost", config)
    params = models.network(config).shapes()

    def velocity(params: Any, x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
        return card.velocity(params, x, t, label)

    def push(params: Any, x: jax.Array, t: jax.Array, label: jax.Array, x_dot: jax.Array) -> Any:
        def along(x_dot: jax.Array) -> jax.Array:
            moves = (x_dot, jnp.ones((), dtype))
            return jax.jvp(lambda x, t: velocity(params, x, t, label), (x, t), moves)[1]

        return jax.vmap(along)(x_dot)

    starts, chunk = at_once_shape(batch, batch)
    sample = (*config.size, config.channels)
    time = jax.ShapeDtypeStruct((), dtype)

    def arguments(count: int) -> tuple[Any, ...]:
        x = jax.ShapeDtypeStruct((count, *sample), dtype)
        return params, x, time, jax.ShapeDtypeStruct((count,), jnp.int32)

    forward = _compiled(velocity, *arguments(batch))
    directions = jax.ShapeDtypeStruct((chunk, starts, *sample), dtype)
    derivative = _compiled(push, *arguments(starts), directions)

    def make(grid: np.ndarray) -> plans.Plan:
        return plans.adams_bashforth(grid, 3)

    grid = grids.uniform(steps)
    numbers = numbering.numbers_of("cost", make, grid, ("times", "state", "outputs"))
    tangents = numbers.tangents(grid, np.zeros(numbers.count))
    return Cost(
        forward.memory_analysis().temp_size_in_bytes,
        derivative.memory_analysis().temp_size_in_bytes,
        _operations(forward) / batch,
        _operations(derivative) / (starts * chunk),
        numbers.count,
        pushes(tangents),
    )


def _compiled(function: Any, *arguments: Any) -> jax.stages.Compiled:
    return jax.jit(function).lower(*arguments).compile()


def _operations(program: jax.stages.Compiled) -> float:
    # XLA's own analysis counts the body of a loop, such as the layers, once.
    bodies, entry = hlo.computations(program.as_text())
    return float(Products(bodies).of(entry))


def main(argv: list[str] | None = None) -> None:
    """Print the cost of a network of known sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="DiT-XL/2", help="a name of models.preset")
    parser.add_argument("--size", type=int, default=32, help="side of the latents")
    parser.add_argument("--batch", type=int, default=8, help="starts that are sampled together")
    parser.add_argument("--steps", type=int, default=10, help="evaluations of the table")
    parser.add_argument("--starts", type=int, default=24, help="training starts")
    parser.add_argument("--dtype", default="bfloat16", help="of matrix products")
    values = parser.parse_args(argv)
    config = models.preset(values.model, size=(values.size, values.size), dtype=values.dtype)
    found = cost(config, values.batch, values.steps)
    jacobian = values.starts * found.tangents
    ratio = found.derivatives / found.sampling
    print(
        f"{values.model}, latents of {values.size} x {values.size}, {values.batch} evaluations in "
        f"memory, on {jax.default_backend()}:\n"
        f"  temporary memory: {found.sampling / 2**20:.0f} MiB for sampling, "
        f"{found.derivatives / 2**20:.0f} MiB for derivatives ({ratio:.2f} times)\n"
        f"  operations: {found.forward:.3g} an evaluation, {found.tangent:.3g} a derivative "
        f"({found.tangent / found.forward:.2f} times)\n"
        f"  a table of {values.steps} evaluations has {found.numbers} free numbers; with "
        f"{values.starts} training starts each Jacobian takes {jacobian} derivatives, "
        f"{jacobian * found.tangent:.3g} operations"
    )


if __name__ == "__main__":
    main()
