"""What a measured number may depend on besides its configuration: versions, devices, commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

SECONDS = 20  # for an answer of git, which may lie on a slow network disk


def environment() -> dict:
    """Versions, devices, precision flags and commit of this process, as values for JSON.

    JAX is asked for its devices only when it is already imported, because the question alone would
    start a backend. `commit` is None outside a git checkout; `dirty` is true when tracked files
    differ from the commit.
    """
    jax = sys.modules.get("jax")
    devices = jax.devices() if jax else []
    tracked = _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is not None
    changes = _git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {
        "python": platform.python_version(),
        **_versions(),
        "platform": devices[0].platform if devices else None,
        "device_kind": ", ".join(sorted({d.device_kind for d in devices})) or None,
        "device_count": len(devices),
        "x64": bool(jax.config.jax_enable_x64) if jax else None,
        "matmul_precision": jax.config.jax_default_matmul_precision if jax else None,
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "commit": _git("rev-parse", "HEAD") if tracked else None,
        "dirty": bool(changes) if tracked else None,
    }


def _versions() -> dict:
    """{package: version} of the packages that compute; None for one that is not installed."""
    packages = ["jax", "jaxlib", "numpy"]
    # Only networks use flax, and a run on exact fields does not depend on its version.
    if "flax" in sys.modules:
        packages.append("flax")

    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _git(*arguments: str) -> str | None:
    """The output of git in the folder of this file; None without git, or where git fails."""
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
