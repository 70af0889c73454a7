"""How much staleness can you bear? Stale attention over n devices against exact attention.

    python -m experiments.staleness --config=configs/staleness.py:quick \\
        --workdir=runs/staleness-quick
    python -m experiments.staleness --config=configs/staleness.py --workdir=runs/staleness

The devices are emulated on one device. The first command takes 45 seconds on two cores, the second
33 minutes on two busy ones without the questions viewer (14 minutes of one core), layers (11 on a
busy machine), fractions and linear. Two selections are left to a run of their own:

    --config.questions=viewer --config.viewer_networks=digits,digits-smooth,emoji,emoji-smooth
    --config.questions=threshold --config.threshold_networks=digits

Expect: order min(p, q + 1) from a solver of order p and a forecast of degree q; a distance to the
synchronous run that grows as (n-1)/n on the digits network; and that the steps worth synchronising
differ: those in the middle on the exact field, the last ones on the digits network, the first ones
on the emoji network. So no fixed policy does well on all three, and a tolerance does not beat them
all; a warm-up of 40 of 50 steps leaves two thirds of the error on digits. Messages of 4 bits are
free as residuals; a forecast with a gain, corrected by the receiver, leaves a third of the error on
digits and half on emoji. A classifier tells few stale runs from synchronous ones, first those of
few steps on many devices.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the staleness experiment.

    Some questions survey: they measure a run and its distance to the synchronous one. The others
    compare: each of their cells has a ratio to another cell on the same starts.
    """

    # Of all questions.
    # For `flowjax.models.load`, also a folder of your own; "random" is a small one for development.
    network: str = "digits"
    network_guidance: float = 1.0  # scale of its classifier-free guidance; 1 is none
    seeds: int = 5  # of the starts; all runs of a subject have them in common
    one_solver: str = "DPM++ 2M"  # where a question varies something else
    one_steps: int = 20  # and its steps
    # RK4 steps of the converged runs of the survey, and of the digits' field.
    reference_steps: int = 160

    # The survey: orders, error, warmup, placement, pictures. "field" is the exact field of the
    # digits. "emoji" and "emoji-smooth" may be named too, with `compared_emoji_starts`.
    subjects: tuple[str, ...] = ("field", "network")
    # Starts for each seed. On the field a few starts change their datum and dominate the RMS, so it
    # needs many. The question loop uses those of the network too.
    field_starts: int = 32
    network_starts: int = 8
    # Names of `experiments.lab.solvers.SOLVERS` with one evaluation a step.
    solvers: tuple[str, ...] = ("Euler", "DPM++ 2M", "DPM++ 3M exact")
    # The matrix of errors, with one synchronous step at the start.
    steps: tuple[int, ...] = (10, 20, 40, 80)
    devices: tuple[int, ...] = (2, 4, 8, 16)
    # Numbers of synchronous steps at the start, up to `one_steps`.
    warmups: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 16, 20)
    # Numbers of synchronous steps that stand at the start, in the middle, at the end, or spread.
    placed: tuple[int, ...] = (2, 4, 8)
    order_steps: tuple[int, ...] = (32, 64, 128, 256)  # of the measured orders, on a field
    pictures: int = 10  # images of the question pictures

    # The comparisons: pipeline, window, pareto, forecasts, loop, solvers, partition.
    # Also "emoji-smooth".
    compared_subjects: tuple[str, ...] = ("field", "network", "emoji")
    # Starts for each seed; pixel: of the exact fields of emoji.
    compared_field_starts: int = 16
    compared_network_starts: int = 5
    compared_emoji_starts: int = 4
    compared_pixel_starts: int = 6
    emoji_guidance: float = 3.0  # scale of the emoji network's guidance
    fine_steps: int = 64  # RK4 steps of the converged runs of networks and of emoji's fields,
    emoji_fine_steps: int = 80  # and of the emoji network
    parts: tuple[int, ...] = (2, 4, 8, 16)  # displaced patches, and patches in a pipeline
    solver_steps: tuple[int, ...] = (10, 20, 50)  # at which solvers are compared
    tolerances: tuple[float, ...] = (0.04, 0.06, 0.08, 0.1, 0.15, 0.2)  # of policies by tolerance

    # Comparisons with subjects of their own: resolution, precision, gallery.
    pixels: tuple[int, ...] = (8, 16, 32)  # sides of the emoji whose exact fields are compared
    precision_subjects: tuple[str, ...] = ("network", "emoji")
    bits: tuple[int, ...] = (32, 16, 8, 4, 3, 2)  # of a number in a message; 32 sends it as it is
    gallery_pictures: int = 6  # images, at most six

    # The viewer: classifiers look at stale and synchronous samples.
    viewer_starts: int = unrecorded(40)  # for each seed; a row has the sum over seeds
    viewer_steps: tuple[int, ...] = (5, 10, 20)
    viewer_devices: tuple[int, ...] = (2, 8)
    viewer_fine_steps: int = 512  # AB2 steps of the converged run where the clock is 1000 t

    # Which networks four questions ask; no number depends on the selection. The viewer may also
    # look at "digits-smooth", "emoji" and "emoji-smooth"; a threshold is found on "digits".
    viewer_networks: tuple[str, ...] = unrecorded(("digits",))
    fraction_networks: tuple[str, ...] = unrecorded(("digits-smooth", "digits"))
    threshold_networks: tuple[str, ...] = unrecorded(())
    # A network with softmax attention, and those with linear attention that are compared with it.
    linear_networks: tuple[str, ...] = unrecorded(("digits-smooth", "digits-linear"))
    linear_steps: tuple[int, ...] = unrecorded((10, 20, 40))
    linear_starts: int = unrecorded(5)  # for each seed

    # Which questions to measure, by the names in their rows; () is all of them.
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
    "viewer_networks": (),
    "fraction_networks": (),
    "threshold_networks": (),
    "linear_networks": (),
}


def get_config(arg: str = "") -> Config:
    """The full experiment, or with `arg` "quick" the demo."""
    return shrink(Config(), arg, quick=QUICK)
