"""The mesh axes over which arrays vary inside shard_map; a loop must not change them."""

import jax

from flowjax.types import PyTree


def varying_axes(*arrays: PyTree) -> frozenset[str]:
    """The mesh axes over which at least one leaf of `arrays` varies; none outside shard_map."""
    return frozenset().union(*map(_axes_of, jax.tree.leaves(arrays)))


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """`tree` with all leaves typed as varying over `axes`.

    A loop inside shard_map needs a state whose types do not change from turn to turn.
    """
    return jax.tree.map(lambda leaf: _vary_leaf(leaf, axes), tree)


def _vary_leaf(leaf, axes):
    missing = tuple(sorted(axes - _axes_of(leaf)))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def _axes_of(leaf):
    """Mesh axes over which one array varies."""
    kind = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    # Versions of jax name the attribute differently.
    if hasattr(kind, "vma"):
        return frozenset(kind.vma or ())
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(manual.varying if manual else ())
