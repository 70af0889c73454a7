"""(o) What does it look like in colour? The panda and its like, synchronous, stale, and helped."""

import base64
import io

import jax
import numpy as np
from PIL import Image

import flowjax
from experiments import report
from experiments.order import lab as order_lab
from experiments.staleness import lab
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import exchange
from flowjax.parallel.stale import policies

QUESTION = "gallery"
SOLVER, STEPS, SIDE = "DPM++ 2M", 20, 32
# Starts whose exact paths, in the field of the animals alone, end at a panda, a lion, a koala, a rosette, a fox, a tiger.
ANIMALS = (738, 18, 71, 73, 76, 196)
ANOTHER = 0.3  # a relative distance from which an image of the field is another animal, not the same with other noise
SUBJECTS = {"animals": "the exact field of the animals", "emoji": "the emoji network, guided"}


def variants():
    """{name: (devices, options of `exchange`)}."""
    return {
        "synchronous": (1, {}),
        "2 devices": (2, {}),
        "4 devices": (4, {}),
        "8 devices": (8, {}),
        "8, warm-up 4": (8, {"warmup": 4}),
        "8, cool-down 4": (8, {"policy": policies.cool_down(STEPS, 3)}),
        "8, forecast": (8, {"forecast": "tuned"}),
    }


def cells(config):
    """One cell a subject, if any image is shown."""
    return (
        [{"question": QUESTION, "subject": subject} for subject in SUBJECTS] if config.shown else []
    )


def _animals(count):
    """(tokens, program, exact endpoints) of the field of the animals, from the chosen starts."""
    field = order_lab.make_field("emoji").subset(1)
    noise = np.asarray(
        flowjax.draw_noise(jax.random.key(0), np.array(ANIMALS[:count]), (SIDE, SIDE, 3)),
        np.float64,
    )
    run = jax.jit(lambda plan, told: emulate_field(field, noise, plan, told))
    return noise[0].size, run, order_lab.reference(field, noise, 100).x


def measure(config, todo):
    """Yield (key, values): a strip of images for each variant, as a PNG, and each image's error to the synchronous one."""
    plan = lab.plan_of(SOLVER, STEPS)
    for key in todo:
        if key["subject"] == "animals":
            tokens, run, exact = _animals(config.shown)
        else:
            subject = lab.of(config, "emoji", config.repeats)
            tokens, run, exact = subject.tokens, subject.program, subject.exact[: config.shown]
        common = {"slots": lab.DEVICES} | ({"correction": 0} if key["subject"] == "animals" else {})
        ends = {
            name: np.asarray(run(plan, exchange(plan, tokens, devices, **common, **options)).x)[
                : config.shown
            ]
            for name, (devices, options) in variants().items()
        } | {"converged": exact}
        errors = {
            name: order_lab.row_norms(x - ends["synchronous"]) / order_lab.scale_of(exact)
            for name, x in ends.items()
        }
        yield (
            key,
            {
                "images": {name: strip(x) for name, x in ends.items()},
                "errors": errors,
                "steps": STEPS,
                "solver": SOLVER,
            },
        )


def strip(x):
    """(B, H, W, 3) in [-1, 1] side by side: a PNG in base64."""
    levels = np.rint(np.clip((x + 1) / 2, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(levels), axis=1)).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def pixels(text):
    """The image of a `strip`: (H, B W, 3) bytes."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def section(rows, command):
    """The section of the page."""
    fig, axes = report.canvas(len(rows), 1, width=6.4, height=6.4 * len(rows))
    said = []
    for ax, row in zip(np.atleast_1d(axes), rows, strict=True):
        ax.imshow(np.concatenate([pixels(text) for text in row["images"].values()]))
        ax.set_yticks(
            np.arange(len(row["images"])) * SIDE + SIDE / 2, list(row["images"]), fontsize=8
        )
        ax.set_xticks([])
        ax.grid(False)
        ax.set_title(SUBJECTS[row["subject"]])
        moved = ", ".join(
            f"{name} {_said(row, np.array(error))}"
            for name, error in row["errors"].items()
            if name != "synchronous"
        )
        said.append(
            f"On {SUBJECTS[row['subject']]}, relative distance to the synchronous images: {moved}."
        )
    return report.Section(
        question="What does it look like in colour?",
        expected="On the exact field a sample is an animal of the set, so staleness shows where it makes it another animal or leaves it between two. On "
        "the network colours and outlines move.",
        answer="\n".join(said),
        figures=(
            report.picture(
                fig,
                "Rows of emoji from the same noise: synchronous, stale on two, four and eight devices, with a warm-up, a cool-down, a forecast; converged.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous unless a line says otherwise; a cool-down of 4 has the first step and the last "
                "three.",
            ),
        ),
        caveat="The starts of the animals were chosen by where a coarse run ends. The network is small and draws colours and shapes better than "
        "details: the sharp animals are the exact field's.",
        command=command,
    )  # fmt: skip


def _said(row, errors):
    """The RMS of a strip's errors, and on the field, where an image is one of the set, how many are another one."""
    another = (
        f" ({np.sum(errors > ANOTHER)} of {len(errors)} another animal)"
        if row["subject"] == "animals"
        else ""
    )
    return report.sig(float(np.sqrt(np.mean(errors**2)))) + another
