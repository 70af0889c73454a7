"""A folder of cases, and the run that most cases are: a plan on an exact field."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import guidance, plans
from flowjax.fields import GaussianMixture

ROWS = (10, 24, 52)  # plans are padded to these, so that few programs are compiled


class Folder:
    """The cases of a folder and what they start from."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        manifest = self.path / "manifest.json"
        if not manifest.is_file():
            raise ValueError(
                f"tests.golden: no {manifest}; wanted a folder with manifest.json, fields.npz and "
                "outputs."
            )
        content = json.loads(manifest.read_text(encoding="utf-8"))
        self.cases = content["cases"]
        self.sources = content["sources"]
        # Each file and each field is read once.
        self.file = functools.cache(self.file)
        self.field = functools.cache(self.field)

    def file(self, name):
        """{name: array} of an .npz file."""
        with np.load(self.path / f"{name}.npz") as arrays:
            return dict(arrays)

    def array(self, file, name):
        """One array of a file."""
        return self.file(file)[name]

    def given(self, case, name):
        """An array of the case's field in fields.npz, such as xT."""
        return self.array("fields", f"{case['field']}__{name}")

    def field(self, name, schedule):
        """The mixture of this name on the path of `schedule`."""
        parts = (self.array("fields", f"{name}__{part}") for part in ("w", "mu", "U", "L"))
        return GaussianMixture.from_eigen(*parts, schedule)

    def source(self, case):
        """The public code that computed the case."""
        return self.sources[case["source"]]


# Hooks read their numbers from an argument, so that one program serves them all.


def _hooks(hook, numbers):
    """The hooks of `flowjax.sample`: None, "data" (dynamic thresholding) or "state" (shrinking)."""
    if hook is None:
        return {}
    if hook == "data":
        return {"data_hook": guidance.dynamic_threshold(numbers[0], least=numbers[1])}

    def shrink(x, t, step):
        return x * (1 - numbers * step)

    return {"state_hook": shrink}


@functools.partial(jax.jit, static_argnames=("hook", "save_path"))
def _sampled(field, x, plan, key, numbers, hook, save_path):
    solution = flowjax.sample(
        field.velocity, x, plan, key=key, save_path=save_path, **_hooks(hook, numbers)
    )
    return solution.path if save_path else solution.x


def run(
    folder,
    case,
    schedule,
    plan,
    *,
    start=None,
    key=None,
    hook=None,
    numbers=0.0,
    save_path=False,
    dtype=np.float64,
):
    """Our answer to a case: the plan, padded, on the case's field.

    Args:
      folder: the `Folder`.
      case: an entry of its manifest. A count of evaluations in it must be the plan's.
      schedule: the path.
      plan: the plan.
      start: (B, D), or None for the case's xT.
      key: the noise of stochastic plans, (rows, B, D), or None.
      hook: None, "data" or "state"; see `_hooks`.
      numbers: of the hook.
      save_path: return the accepted states in place of the end.
      dtype: of the state.
    """
    if case.get("nfe") is not None and plan.nfe != case["nfe"]:
        raise ValueError(f"{plan.nfe} evaluations, the original {case['nfe']}")
    start = folder.given(case, "xT") if start is None else start
    rows = next((rows for rows in ROWS if rows >= plan.rows), plan.rows)
    padded = plans.pad(plan, rows)
    if key is not None:
        no_noise = np.zeros((rows - len(key), *key.shape[1:]))
        key = jnp.asarray(np.concatenate([key, no_noise]))
    field = folder.field(case["field"], schedule)
    x = jnp.asarray(start, dtype)
    result = np.asarray(_sampled(field, x, padded, key, jnp.asarray(numbers), hook, save_path))
    return result[: plan.steps + 1] if save_path else result
