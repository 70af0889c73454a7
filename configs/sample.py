"""The options of `experiments.sample`, which configs/sample_*.py set, one file a model."""

import dataclasses


@dataclasses.dataclass
class Config:
    """Which images, and how they are drawn."""

    # What `flowjax.models.load` takes: a folder, a file, a name on the hub, "digits" or "emoji".
    model: str
    # Names or numbers separated by commas; "null" is the label of no class. For a network that
    # draws for texts: their numbers in `embeddings`, "" for all of them.
    labels: str
    count: int = 8  # images of each label
    batch: int = 64  # images drawn together; it bounds the memory and changes no image
    # A file of text embeddings, .npz or .safetensors (see `experiments.cli.embeddings`), for a
    # network that draws for texts; "" for one that draws for labels.
    embeddings: str = ""
    seed: int = 0  # image k of a label depends on the seed, the label and k only

    # The solver and its grid.
    steps: int = 20  # of the solver
    # A key of `experiments.sample.SOLVERS`, "scheduler" for that of the pipeline's
    # scheduler_config.json, or "tuned" for the table that comes with the network.
    solver: str = "dpm_solver_pp"
    order: int = 2  # of the solvers that have several
    grid: str = "uniform"  # a key of `experiments.sample.GRIDS`
    shift: float = 1.0  # of the grid towards noise; 1 is none
    # A plan as a file (flowjax.plans.save) in the place of solver, steps, order, grid and shift.
    plan: str = ""

    # Image to image: the file of an image of the model's own size, and the fraction of the steps
    # that are taken, above 0 (which keeps the image) up to 1 (which starts from noise).
    image: str | None = None
    strength: float | None = None

    # Classifier-free guidance.
    guidance: float = 1.5  # the scale; 1 is none
    # How many of the first channels are guided; None is all, 3 is the original code of DiT.
    guidance_channels: int | None = None
    guidance_interval: tuple[float, ...] = (0.0, 1.0)  # (low, high), the times in which it acts

    # The network and its images.
    dtype: str = "float32"  # of matrix products: "float32" or "bfloat16"
    size: tuple[int, ...] = ()  # (height, width) of the images in pixels; () is the model's own
    # Side in pixels of the tiles in which latents are decoded, for images too large for the
    # device; None decodes an image in one piece.
    tile: int | None = None

    # Several devices: factors such as "seq=4" or "data=2, cfg=2, seq=2" (see
    # `flowjax.parallel.make_mesh`); "" is one device. A CPU then shows so many virtual devices,
    # which give the numbers of many devices, not their speed.
    mesh: str = ""
    # "gather", "ring", "ulysses", "ulysses_ring" (all exact), "stale" or "pipefusion".
    attention: str = "gather"
    patches: int = 0  # of pipefusion, the number of patches of the image; 0 elsewhere

    # Stale attention, see `flowjax.parallel.sample`.
    warmup: int = 1  # synchronous steps at the start, exactly
    refresh: int | None = 1  # steps between two exchanges; None is no exchange after the warm-up
    # "late" gathers the keys and values of others one layer ahead, "early" keeps those of all
    # devices; None is "late" where it is possible.
    gather: str | None = None
    residual: bool = False  # send the error of the forecast in place of the forecast
    # Which steps are synchronous, instead of warmup: "tolerance=0.05, cool_down=2",
    # "window=0.7:0.3", "every=4", "warm_up=3" or "sqrt_rule=2" (see
    # `flowjax.parallel.stale.policies`). With several parts, a step is synchronous where one of
    # them makes it so.
    policy: str = ""
    # "0", "1", "2" or "tuned"; "plan" takes policy, forecast and correction from the file of
    # `plan`, if its table was tuned for stale attention.
    forecast: str = "0"
    gains_per: str = "device"  # tokens with one gain of the tuned forecast: "device" or "token"
    # A fraction from 0 to 1; None is the one that goes with the forecast: 0.4 for "tuned", else 0.
    correction: float | None = None
    comm_dtype: str = ""  # of messages: "" (as they are), "bfloat16", "int8" or "int4"
