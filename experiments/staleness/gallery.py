"""What does it look like in colour? Emoji, synchronous, stale, and with remedies."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import matplotlib.figure
import numpy as np
from PIL import Image

import flowjax
from experiments import report
from experiments.lab.statistics import row_norms, scale_of
from experiments.lab.subjects import make_field
from experiments.lab.truth import reference
from experiments.staleness import draw, subjects
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import exchange
from flowjax.parallel.stale import policies

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "gallery"
SOLVER, STEPS, SIDE = "DPM++ 2M", 20, 32
# Starts whose exact paths, in the field of the animals alone, end at a panda, a lion, a koala, a
# rosette, a fox, a tiger.
ANIMALS = (738, 18, 71, 73, 76, 196)
# From this relative distance on an image of the field is another animal, not the same with other
# noise.
ANOTHER = 0.3
SUBJECTS = {"animals": "the exact field of the animals", "emoji": "the emoji network, guided"}
# {name: (devices, options of `exchange`)}
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "synchronous": (1, {}),
    "2 devices": (2, {}),
    "4 devices": (4, {}),
    "8 devices": (8, {}),
    "8, warm-up 4": (8, {"warmup": 4}),
    "8, cool-down 4": (8, {"policy": policies.cool_down(STEPS, 3)}),
    "8, forecast": (8, {"forecast": "tuned"}),
}


# -- the measurement


def check(config: "Config") -> None:
    """Refuse more images than there are chosen starts."""
    if config.gallery_pictures > len(ANIMALS):
        raise ValueError(
            f"--config.gallery_pictures={config.gallery_pictures}: the field of the animals has "
            f"{len(ANIMALS)} chosen starts; take at most as many."
        )


def cells(config: "Config") -> list[dict]:
    """One cell a subject, if any image is shown."""
    if not config.gallery_pictures:
        return []
    return [{"question": QUESTION, "subject": subject} for subject in SUBJECTS]


class _Source(NamedTuple):
    """Where images come from: L, a program (plan, exchange) -> `Solution`, converged endpoints."""

    tokens: int
    program: Callable[..., flowjax.Solution]
    exact: np.ndarray


def _animals(count: int) -> _Source:
    """The field of the animals, from the first `count` chosen starts."""
    field = make_field("emoji").subset(1)
    ids = np.array(ANIMALS[:count])
    noise = flowjax.draw_noise(jax.random.key(0), ids, (SIDE, SIDE, 3))
    noise = np.asarray(noise, np.float64)

    @jax.jit
    def run(plan, exchange):
        return emulate_field(field, noise, plan, exchange)

    return _Source(noise[0].size, run, reference(field, noise, 100).x)


def _emoji(config: "Config") -> _Source:
    """The emoji network, from the starts of the comparisons."""
    subject = subjects.subject(subjects.compared(config, "emoji"))
    exact = subject.exact[: config.gallery_pictures]
    return _Source(subject.tokens, subject.program, exact)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): a strip of images for each variant, and each image's error.

    A strip is a PNG. Errors are to the synchronous images.
    """
    for key in todo:
        is_field = key["subject"] == "animals"
        # The two subjects have starts of their own.
        source = _animals(config.gallery_pictures) if is_field else _emoji(config)
        # A correction acts on attention's output, and a field has none.
        common = {"slots": subjects.DEVICES} | ({"correction": 0} if is_field else {})
        ends = _ends(source, common, config.gallery_pictures)
        scale = scale_of(source.exact)
        errors = {name: row_norms(x - ends["synchronous"]) / scale for name, x in ends.items()}
        yield (
            key,
            {
                "images": {name: strip(x) for name, x in ends.items()},
                "errors": errors,
                "steps": STEPS,
                "solver": SOLVER,
            },
        )


def _ends(source: _Source, common: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    """{variant: endpoints (count, H, W, C)}, and the converged ones."""
    plan = subjects.plan_of(SOLVER, STEPS)
    ends = {}
    for name, (devices, options) in VARIANTS.items():
        # One program serves all variants: the tables have one size.
        made = exchange(plan, source.tokens, devices, **common, **options)
        ends[name] = np.asarray(source.program(plan, made).x)[:count]
    return ends | {"converged": source.exact}


def strip(x: np.ndarray) -> str:
    """(B, H, W, 3) in [-1, 1] side by side: a PNG in base64."""
    levels = np.rint(np.clip((x + 1) / 2, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(np.concatenate(list(levels), axis=1))  # (H, B W, 3)
    image.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def pixels(text: str) -> np.ndarray:
    """The image of a `strip`: (H, B W, 3) bytes."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """A panel for each subject, a strip for each variant."""
    # Each strip has as many pixels across as it has images.
    fig, axes = draw.side_by_side([SUBJECTS[row["subject"]] for row in rows], height=6.4)
    for ax, row in zip(axes, rows, strict=True):
        names = list(row["images"])
        ax.imshow(np.concatenate([pixels(text) for text in row["images"].values()]))
        ax.set_yticks(np.arange(len(names)) * SIDE + SIDE / 2, names)
        ax.set_xticks([])
        ax.grid(False)
    return fig


# -- words


def _moved(row: dict, errors: np.ndarray) -> str:
    """The RMS of a strip's errors; on the field also how many images are another one of the set."""
    rms = report.sig(float(np.sqrt(np.mean(errors**2))))
    if row["subject"] != "animals":
        return rms
    return f"{rms} ({np.sum(errors > ANOTHER)} of {len(errors)} another animal)"


def _answer(row: dict) -> str:
    """How far each variant moves the images of one subject."""
    moved = ", ".join(
        f"{name} {_moved(row, np.array(errors))}"
        for name, errors in row["errors"].items()
        if name != "synchronous"
    )
    return f"On {SUBJECTS[row['subject']]}, relative distance to the synchronous images: {moved}."


def _order(rows: list[dict]) -> list[str]:
    """The variants from top to bottom."""
    return list(rows[0]["images"])


def _title(rows: list[dict]) -> str:
    """Which variant is nearest to the synchronous one, as the claim of the figure."""
    parts = []
    for row in rows:
        errors = {
            name: float(np.sqrt(np.mean(np.square(found))))
            for name, found in row["errors"].items()
            if name in VARIANTS and name != "synchronous" and name.startswith("8, ")
        }
        parts.append(f"{min(errors, key=errors.get)} on {SUBJECTS[row['subject']]}")
    return f"Nearest to the synchronous pictures on 8 devices: {'; '.join(parts)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        f"Rows of emoji from the same noise: {'; '.join(_order(rows))}.",
        f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous unless a line says "
        "otherwise; a cool-down of 4 has the first step and the last three. From top to bottom: "
        f"{'; '.join(_order(rows))}.",
        title=_title(rows),
    )
    return report.Section(
        question="What does it look like in colour?",
        expected=(
            "On the exact field a sample is an animal of the set, so staleness shows where it "
            "makes it another animal or leaves it between two. On the network colours and "
            "outlines move."
        ),
        answer="\n".join(map(_answer, rows)),
        figures=(picture,),
        caveat=(
            "The starts of the animals were chosen by where a coarse run ends. The network is "
            "small and draws colours and shapes better than details: the sharp animals are the "
            "exact field's."
        ),
        command=command,
    )
