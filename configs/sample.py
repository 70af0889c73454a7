"""What `experiments.sample` is told: the options that configs/sample_*.py set, one file a model."""

import dataclasses


@dataclasses.dataclass
class Config:
    """Which images, and how they are drawn.

    Attributes:
      model: what `flowjax.models.load` takes: a folder, a file, a name on the hub, "digits" or "emoji".
      labels: names or numbers separated by commas; "null" is the label of no class.
      count: images of each label.
      batch: images drawn together; it bounds the memory and changes no image.
      steps: of the solver.
      solver: a key of `experiments.sample.SOLVERS`, or "scheduler": what the pipeline's scheduler_config.json says.
      order: of the solvers that have several.
      grid: a key of `experiments.sample.GRIDS`.
      shift: of the grid towards noise; 1 is none.
      guidance: scale of classifier-free guidance; 1 is none.
      guidance_channels: how many of the first channels are guided; None is all. (3 is what the original code of DiT does.)
      guidance_interval: (low, high), the times in which it acts.
      seed: image k of a label depends on the seed, the label and k only.
      dtype: "float32" or "bfloat16", what matrices are multiplied in.
      size: (height, width) of the images in pixels; () is the model's own.
      tile: side in pixels of the tiles in which latents are decoded, for images too large for the device; None decodes whole.
      mesh: factors such as "seq=4" or "data=2, cfg=2, seq=2" (see `flowjax.parallel.make_mesh`); "" is one device. A CPU
        then shows so many virtual devices: the numbers of many devices, not their speed.
      attention: of a mesh: "gather", "ring", "ulysses", "ulysses_ring" (exact), "stale" or "pipefusion".
      patches: of pipefusion, into how many the image is cut; 0 elsewhere.
      warmup, refresh, residual: of stale attention, see `flowjax.parallel.sample`.
      policy: in the place of warmup, which steps are synchronous: "tolerance=0.05, cool_down=2", "window=0.7:0.3", "every=4",
        "warm_up=3" or "sqrt_rule=2" (see `flowjax.parallel.stale.policies`); where one of several says so.
      forecast: of stale attention: "0", "1", "2" or "tuned".
      correction: of stale attention, a share from 0 to 1; None: what goes with the forecast, 0.4 of "tuned", else 0.
      comm_dtype: of stale attention: "" (as it is), "bfloat16", "int8" or "int4".
    """

    model: str
    labels: str
    count: int = 8
    batch: int = 64
    steps: int = 20
    solver: str = "dpm_solver_pp"
    order: int = 2
    grid: str = "uniform"
    shift: float = 1.0
    guidance: float = 1.5
    guidance_channels: int | None = None
    guidance_interval: tuple[float, ...] = (0.0, 1.0)
    seed: int = 0
    dtype: str = "float32"
    size: tuple[int, ...] = ()
    tile: int | None = None
    mesh: str = ""
    attention: str = "gather"
    patches: int = 0
    warmup: int = 1
    refresh: int | None = 1
    residual: bool = False
    policy: str = ""
    forecast: str = "0"
    correction: float | None = None
    comm_dtype: str = ""
