"""How much staleness can you bear? Stale attention over n devices against exact attention.

    python -m experiments.staleness --config=configs/staleness.py:quick \\
        --workdir=runs/staleness-quick
    python -m experiments.staleness --config=configs/staleness.py --workdir=runs/staleness

The devices are emulated on one device. The first command takes 45 seconds on two cores, the second
33 minutes on two busy ones.

Expect: order min(p, q + 1) from a solver of order p and a forecast of degree q; a distance to the
synchronous run that grows as (n-1)/n, not as sqrt(n); and that the steps worth synchronising
differ: those in the middle on the exact field, the last ones on the digits network, the first ones
on the emoji network. So no fixed policy does well on all three, and a tolerance does not beat them
all; a warm-up of 40 of 50 steps leaves two thirds of the error on digits. Messages of 4 bits are
free as residuals; a forecast with a gain, corrected by the receiver, leaves a third of the error on
digits and half on emoji.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the staleness experiment.

    Some questions survey: they measure a run and its distance to the synchronous one (orders,
    error, warmup, placement, pictures; loop takes its starts from them). The others compare: each
    of their cells has a ratio to another cell on the same starts (pipeline, window, pareto,
    forecasts, precision, solvers, partition, resolution; gallery takes its starts from them).

    Attributes:
      subjects: of the survey: "field", the exact field of the digits, and "network".
      network: a name for `flowjax.models.load`, or "random", a small network with random weights,
        for development.
      seeds: of the starts; all runs of a subject have them in common.
      field_starts, network_starts: of the survey, for each seed. On the field a few starts change
        their datum and dominate the RMS, so it needs many.
      solvers: names of `experiments.lab.solvers.SOLVERS` with one evaluation a step.
      steps, devices: the matrix of errors; one synchronous step at the start.
      one_solver, one_steps: the solver and its steps of all questions that vary something else.
      warmups: numbers of synchronous steps at the start, up to `one_steps`.
      placed: numbers of synchronous steps that are placed at the start, in the middle, at the end,
        or spread.
      order_steps: step counts of the measured orders, on a field.
      reference_steps: RK4 steps of the converged runs of the survey and of the digits' field.
      pictures: images of the question pictures.
      compared_subjects: of most comparisons: "field", "network", and "emoji", the guided emoji
        network.
      compared_field_starts, compared_network_starts, compared_emoji_starts, compared_pixel_starts:
        of the comparisons, for each seed; pixel: of the exact fields of emoji.
      emoji_guidance: scale of the emoji network's guidance.
      fine_steps: RK4 steps of the converged runs of the comparisons, but for
      emoji_fine_steps: those of the emoji network.
      parts: numbers of displaced patches, and of patches in a pipeline.
      pixels: sides of the emoji whose exact fields are compared.
      solver_steps: step counts at which solvers are compared.
      tolerances: of the policy by tolerance.
      precision_subjects: subjects whose keys and values are sent with fewer bits.
      bits: of a number in a message; 32 sends it as it is.
      gallery_pictures: images of the gallery, at most six.
      questions: which questions to measure, by the names in their rows; () is all of them.
    """

    subjects: tuple[str, ...] = ("field", "network")
    network: str = "digits"
    seeds: int = 5
    field_starts: int = 32
    network_starts: int = 8
    solvers: tuple[str, ...] = ("Euler", "DPM++ 2M", "DPM++ 3M exact")
    steps: tuple[int, ...] = (10, 20, 40, 80)
    devices: tuple[int, ...] = (2, 4, 8, 16)
    one_solver: str = "DPM++ 2M"
    one_steps: int = 20
    warmups: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 16, 20)
    placed: tuple[int, ...] = (2, 4, 8)
    order_steps: tuple[int, ...] = (32, 64, 128, 256)
    reference_steps: int = 160
    pictures: int = 10
    compared_subjects: tuple[str, ...] = ("field", "network", "emoji")
    compared_field_starts: int = 16
    compared_network_starts: int = 5
    compared_emoji_starts: int = 4
    compared_pixel_starts: int = 6
    emoji_guidance: float = 3.0
    fine_steps: int = 64
    emoji_fine_steps: int = 80
    parts: tuple[int, ...] = (2, 4, 8, 16)
    pixels: tuple[int, ...] = (8, 16, 32)
    solver_steps: tuple[int, ...] = (10, 20, 50)
    tolerances: tuple[float, ...] = (0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
    precision_subjects: tuple[str, ...] = ("network", "emoji")
    bits: tuple[int, ...] = (32, 16, 8, 4, 3, 2)
    gallery_pictures: int = 6
    questions: tuple[str, ...] = unrecorded(())


# The demo: 10 and 20 steps, up to 8 devices. The comparisons are shown from kept rows.
QUICK = {
    "seeds": 3,
    "field_starts": 16,
    "network_starts": 3,
    "steps": (10, 20),
    "devices": (2, 4, 8),
    "warmups": (1, 5, 10, 20),
    "placed": (4,),
    "order_steps": (32, 64, 128),
    "reference_steps": 40,
    "pictures": 9,
    "compared_subjects": (),
    "pixels": (),
    "precision_subjects": (),
    "gallery_pictures": 0,
}


def get_config(arg: str = "") -> Config:
    """The full experiment, or with `arg` "quick" the demo."""
    return shrink(Config(), arg, quick=QUICK)
