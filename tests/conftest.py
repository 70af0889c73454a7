"""Settings of every test, made before jax starts: float64, eight CPU devices, cached programs."""

import dataclasses
import gc
import os
import pathlib

import jax
import matplotlib
import pytest

matplotlib.use("Agg")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests speak of numbers, so they run where these are the same for everyone, also on a machine with
# an accelerator.
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", 8)

# Most of the time of these tests is compilation, so a second run is several times quicker with the
# programs of the first. jax's own thresholds would leave out the small ones.
# JAX_ENABLE_COMPILATION_CACHE=0 measures a first run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        / "flowjax"
        / "jax"
    )
    jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Forget the compiled programs of a test file when it ends.

    A compiled CPU program holds about 13 memory maps, and Linux allows a process 65,530 of them
    (vm.max_map_count). A process that keeps the programs of all test files reaches that limit; LLVM
    then cannot allocate memory, and JAX ends with a segmentation fault where it writes the program
    to its cache.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def small_order_run(tmp_path_factory):
    """Work directory of the order experiment, run through on sizes that only show that it runs."""
    from configs.order import get_config
    from experiments import order

    config = dataclasses.replace(
        get_config("quick"),
        seeds=2,
        samples=4,
        fields=("ring", "mixture-2"),
        nfe=(5, 10, 20),
        claim_steps=(16, 32),
        stds=(0.15, 0.5),
        dial_nfe=(6, 10),
        crossover_nfe=(4, 8, 16),
        smooth=("digits-smooth",),
        network_steps=64,
        reference_steps=40,
        repeats=2,
    )
    workdir = tmp_path_factory.mktemp("order")
    order.run(config, workdir)
    return workdir
