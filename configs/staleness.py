"""How much staleness can you bear? Stale attention over n devices against exact attention, emulated on one device.

    python -m experiments.staleness --config=configs/staleness.py:quick --workdir=runs/staleness-quick
    python -m experiments.staleness --config=configs/staleness.py --workdir=runs/staleness

Expect: order min(p, q + 1) from a solver of order p and a forecast of degree q; a distance to the synchronous run that grows as
(n-1)/n, not as sqrt(n); and that the steps worth synchronising differ: those in the middle on the exact field, the last ones on
the digits network, the first ones on the emoji network. So no fixed policy does well on all three, and a tolerance does not beat
them all; a warm-up of 40 of 50 steps leaves two thirds of the error on digits. Messages of 4 bits are free as residuals; a
forecast with a gain, corrected by the receiver, leaves a third of the error on digits and half on emoji. The first command takes
45 seconds on two cores, the second 33 minutes on two busy ones.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the staleness experiment.

    Attributes:
      subjects: "field", the exact field of the digits, and "network".
      network: a name for `flowjax.models.load`, or "random", a small network with random weights, for development.
      seeds: of the starts; all runs of a subject share them.
      field_samples, network_samples: starts a seed. On the field few starts change their datum and rule the RMS: it needs many.
      solvers: names of `experiments.order.lab.SOLVERS` with one evaluation a step.
      steps, devices: the matrix of errors; one synchronous step at the start.
      one_solver, one_steps: the solver and its steps for the questions of warm-up and placement.
      warmups: numbers of synchronous steps at the start, up to `one_steps`.
      placed: numbers of synchronous steps that are placed at the start, in the middle, at the end, or spread.
      claim_steps: step counts of the measured orders, on the field.
      reference_steps: RK4 steps of the converged run.
      pictures: images shown.

    The later questions have seeds and subjects of their own:
      repeats: seeds.
      asked: subjects of most of them: "field", "network", and "emoji", the guided emoji network.
      field_starts, network_starts, emoji_starts, pixel_starts: starts a seed; pixel: of the exact fields of emoji.
      emoji_guidance: scale of the emoji network's guidance.
      fine_steps, emoji_fine_steps: RK4 steps of the converged runs of networks and of emoji fields, and of the emoji network.
      parts: numbers of parts that an image is cut into, displaced or in a pipeline.
      pixels: sides of the emoji whose exact fields are compared.
      robust_steps: step counts at which solvers are compared.
      tolerances: of the policy by tolerance.
      sent: subjects whose keys and values are sent with fewer bits.
      bits: of a number; 32 is sent as it is.
      shown: images of the gallery.
      questions: which questions to measure, by the names in their rows; () is all of them.
    """

    subjects: tuple[str, ...] = ("field", "network")
    network: str = "digits"
    seeds: int = 5
    field_samples: int = 32
    network_samples: int = 8
    solvers: tuple[str, ...] = ("Euler", "DPM++ 2M", "DPM++ 3M exact")
    steps: tuple[int, ...] = (10, 20, 40, 80)
    devices: tuple[int, ...] = (2, 4, 8, 16)
    one_solver: str = "DPM++ 2M"
    one_steps: int = 20
    warmups: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 16, 20)
    placed: tuple[int, ...] = (2, 4, 8)
    claim_steps: tuple[int, ...] = (32, 64, 128, 256)
    reference_steps: int = 160
    pictures: int = 10
    repeats: int = 5
    asked: tuple[str, ...] = ("field", "network", "emoji")
    field_starts: int = 16
    network_starts: int = 5
    emoji_starts: int = 4
    pixel_starts: int = 6
    emoji_guidance: float = 3.0
    fine_steps: int = 64
    emoji_fine_steps: int = 80
    parts: tuple[int, ...] = (2, 4, 8, 16)
    pixels: tuple[int, ...] = (8, 16, 32)
    robust_steps: tuple[int, ...] = (10, 20, 50)
    tolerances: tuple[float, ...] = (0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
    sent: tuple[str, ...] = ("network", "emoji")
    bits: tuple[int, ...] = (32, 16, 8, 4, 3, 2)
    shown: int = 6
    questions: tuple[str, ...] = unrecorded(())


def get_config(arg=""):
    """`arg` "quick" is the demo: 10 and 20 steps, up to 8 devices; the later questions are shown from kept rows."""
    return shrink(
        Config(),
        arg,
        quick={
            "seeds": 3, "field_samples": 16, "network_samples": 3, "steps": (10, 20), "devices": (2, 4, 8),
            "warmups": (1, 5, 10, 20), "placed": (4,), "claim_steps": (32, 64, 128), "reference_steps": 40, "pictures": 9,
            "asked": (), "pixels": (), "sent": (), "shown": 0,
        },
    )  # fmt: skip
