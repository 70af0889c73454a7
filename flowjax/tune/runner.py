"""Run a model along a plan, and push tangents through it: with JAX, or as a black box.

Tuning needs two things of a model: its velocity, and the change of its velocity for a change of
state and time. The second is a forward derivative (`jax.jvp`), which stores nothing of the network,
or a difference of two evaluations for a function that JAX cannot see through. This file hides which
of the two it is.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.table import DEPTH, Plan
from flowjax.sampling import in_dtype, sample, update
from flowjax.types import Array, PyTree

DERIVATIVES = ("jvp", "differences")
RELATIVE_STEP = 1e-3  # of a difference, relative to the size of the state (float32 networks)
TIME_STEP = 1e-4  # of a difference in time


class Runner:
    """A model with what tuning asks of it.

    Attributes:
      evaluations: network evaluations of one sample that were spent so far; a derivative counts as
        one.
      derivatives: "jvp" or "differences".
    """

    def __init__(self, model: Callable, derivatives: str = "jvp"):
        """Wrap `model(x, t)` or `model(x, t, condition)`; a black box may return numpy arrays."""
        self.model = model
        self.derivatives = derivatives
        self.evaluations = 0
        # Compiled once for all plans of one length, since a plan is data of the program.
        self._run = jax.jit(self._sample)
        self._path = jax.jit(functools.partial(self._sample, save_path=True))
        self._velocity = jax.jit(self._in_type_of_state)
        self._push = jax.jit(self._tangents)

    def run(self, plan: Plan, x: Array, condition: PyTree = None) -> np.ndarray:
        """The endpoints (B, *D) of a plan, in float64 on the host."""
        self.evaluations += plan.rows * len(x)
        if self.derivatives == "differences":
            return np.asarray(self._by_hand(plan, x, condition)[-1], np.float64)
        return np.asarray(self._run(plan, x, condition), np.float64)

    def states(self, plan: Plan, x: Array, condition: PyTree = None) -> list[Array]:
        """The accepted states of a plan, the start first: (steps + 1) arrays (B, *D)."""
        self.evaluations += plan.rows * len(x)
        if self.derivatives == "differences":
            return self._by_hand(plan, x, condition)
        return list(self._path(plan, x, condition))

    def velocity(self, x: Array, t: float, condition: PyTree = None) -> Array:
        """The velocity (B, *D) at the state `x` and the label time `t`."""
        self.evaluations += len(x)
        if self.derivatives == "differences":
            # A black box gets numpy arrays and Python numbers only.
            return np.asarray(self._call(np.asarray(x), float(t), condition), x.dtype)
        return self._velocity(x, jnp.asarray(t, x.dtype), condition)

    def push(self, x: Array, t: float, condition: PyTree, x_dot: Array, t_dot: np.ndarray) -> Array:
        """Derivatives of the velocity along P directions of state and time.

        Args:
          x: (b, *D) the state.
          t: the label time.
          condition: as in `run`.
          x_dot: (P, b, *D) directions of the state.
          t_dot: (P,) directions of the time.

        Returns:
          (P, b, *D).
        """
        self.evaluations += len(x) * len(t_dot)
        if self.derivatives == "jvp":
            time = jnp.asarray(t, x.dtype)
            return self._push(x, time, condition, x_dot, jnp.asarray(t_dot, x.dtype))
        directions = zip(np.asarray(x_dot), t_dot, strict=True)
        changes = [self._difference(x, t, condition, *direction) for direction in directions]
        return np.stack(changes)

    def _call(self, x: Array, t: Any, condition: PyTree) -> Array:
        return self.model(x, t) if condition is None else self.model(x, t, condition)

    def _in_type_of_state(self, x: jax.Array, t: jax.Array, condition: PyTree) -> jax.Array:
        """The velocity as `flowjax.sample` uses it, also of a network in half precision."""
        return self._call(x, t, condition).astype(x.dtype)

    def _sample(
        self, plan: Plan, x: jax.Array, condition: PyTree, save_path: bool = False
    ) -> jax.Array:
        def velocity(x, t):
            return self._call(x, t, condition)

        solution = sample(velocity, x, plan, save_path=save_path)
        return solution.path if save_path else solution.x

    def _tangents(
        self, x: jax.Array, t: jax.Array, condition: PyTree, x_dot: jax.Array, t_dot: jax.Array
    ) -> jax.Array:
        def velocity(x, t):
            return self._in_type_of_state(x, t, condition)

        def along(x_dot, t_dot):
            _, change = jax.jvp(velocity, (x, t), (x_dot, t_dot))
            return change

        # The network itself is evaluated once for all directions: vmap sees that it does not
        # depend on them.
        return jax.vmap(along)(x_dot, t_dot)

    def _difference(
        self, x: np.ndarray, t: float, condition: PyTree, x_dot: np.ndarray, t_dot: float
    ) -> np.ndarray:
        """A central difference along one direction of state and time."""
        x = np.asarray(x)
        self.evaluations += len(x)  # two evaluations, of which `push` has counted one
        state_size = np.sqrt(np.mean(np.square(x))) + 1e-30
        change = np.sqrt(np.mean(np.square(x_dot))) / state_size
        t = float(t)
        # The step suits whichever of state and time moves more. Along nothing it is of no use.
        step = min(RELATIVE_STEP / max(change, 1e-30), TIME_STEP / max(abs(t_dot), 1e-30))
        along_x = (step * x_dot).astype(x.dtype)
        along_t = float(step * t_dot)
        after = np.asarray(self._call(x + along_x, t + along_t, condition), np.float64)
        before = np.asarray(self._call(x - along_x, t - along_t, condition), np.float64)
        return ((after - before) / (2 * step)).astype(x.dtype)

    def _by_hand(self, plan: Plan, x: np.ndarray, condition: PyTree) -> list[np.ndarray]:
        """The accepted states of a plan for a model that JAX cannot trace."""
        # The same recursion as flowjax.sample, without a scan.
        x = np.asarray(at_least_float32(x))
        base = x
        history = (np.zeros_like(x),) * DEPTH
        states = [x]
        # Rows in the type of the starts, so that the states keep it.
        rows = rows_of(plan, x.dtype)
        for row, label_time in zip(rows, plan.label_time, strict=True):
            velocity = np.asarray(self._call(x, float(label_time), condition), x.dtype)
            x, base, history = update(row, velocity, x, base, history, 0)
            if row.ends_step:
                states.append(x)
        return states


def at_least_float32(noise: Array) -> Array:
    """Starts of half precision in float32, as `flowjax.sample` takes them; others as they are."""
    noise = noise if isinstance(noise, jax.Array) else np.asarray(noise)
    is_half = jnp.issubdtype(noise.dtype, jnp.floating) and noise.dtype.itemsize < 4
    return noise.astype(np.float32) if is_half else noise


def check_batch(name: str, noise: Array, condition: PyTree, exact: Array | None = None) -> None:
    """Check that every start has its own condition and, where they are given, its own endpoint.

    Args:
      name: the public function that an error speaks for.
      noise: (B, *D) the starts.
      condition: a pytree with leading axis B, or None.
      exact: (B, *D) the converged endpoints, or None.

    Raises:
      ValueError: a leaf of the condition has another leading axis, or the endpoints have another
        shape than the starts.
    """
    batch = len(noise)
    # JAX gives the last entry of an array for an index beyond its end, without an error.
    for leaf in jax.tree.leaves(condition):
        if np.shape(leaf)[:1] != (batch,):
            raise ValueError(
                f"{name}: condition has a leaf of shape {np.shape(leaf)} for {batch} starts; "
                "wanted leading axis B, one entry for each start."
            )
    if exact is not None and np.shape(exact) != np.shape(noise):
        raise ValueError(
            f"{name}: exact has shape {np.shape(exact)} and noise {np.shape(noise)}; wanted the "
            "same, one converged endpoint for each start."
        )


def rows_of(plan: Plan, dtype: Any) -> list[Plan]:
    """The rows of a plan one by one, with their numbers in `dtype`."""
    cast = jax.device_get(in_dtype(plan, dtype))
    return [jax.tree.map(lambda column, i=i: column[i], cast) for i in range(plan.rows)]
