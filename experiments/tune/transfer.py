"""Does a table carry over: to another model, guidance scale, data set or number of evaluations?"""

from collections.abc import Iterator
from itertools import pairwise

from configs.tune import Config
from experiments import report
from experiments.lab import statistics
from experiments.tune import drawing, tables, unseen
from experiments.tune import subject as subjects
from experiments.tune.between import SHORT, between
from flowjax import Plan

# ---- numbers

QUESTION = "transfer"
BEGUN = "Adams-Bashforth 3"  # the form that tables have that are interpolated
FIELDS, NETWORKS = KINDS = ("exact fields", "networks")


def check(config: Config) -> None:
    """Refuse models, scales and steps that cannot be measured."""
    subjects.check(config, "transfer_fields", config.transfer_fields, guided=False)
    subjects.check(config, "transfer_networks", config.transfer_networks, guided=False)
    subjects.check_steps("transfer_steps", config.transfer_steps)
    subjects.check_steps("between_steps", config.between_steps, least=SHORT + 1)
    for name in config.transfer_networks:
        if not subjects.is_network(name):
            raise ValueError(f"--config.transfer_networks: {name!r} is no network.")


def cells(config: Config) -> list[dict]:
    """Cells of other models, of other scales, and of tables between tables.

    A cell says which table is used (`made_for`, at `made_at`) on which model (`used_on`, at `at`).
    """
    return [{"question": QUESTION, **key} for key in (*_models(config), *_scales(config))] + [
        {"question": QUESTION, **key} for key in _steps(config)
    ]


def _models(config: Config) -> list[dict]:
    """Each table on each model of its kind."""
    return [
        {"part": "model", "made_for": a, "made_at": 1.0, "used_on": b, "at": 1.0, "steps": steps}
        for names in (config.transfer_fields, config.transfer_networks)
        for steps in dict.fromkeys(config.transfer_steps)
        for a in dict.fromkeys(names)
        for b in dict.fromkeys(names)
        # On another path the same state has another meaning at the same time.
        if fits(config, a, b)
    ]


def fits(config: Config, a: str, b: str) -> bool:
    """Whether a table of model `a` has the path of model `b`."""
    first, second = (tables.describe(subjects.subject(config, name)) for name in (a, b))
    return first["path"] == second["path"]


def _scales(config: Config) -> list[dict]:
    """Each guidance scale's table at each scale, and the inner ones from their neighbours."""
    scales = tuple(dict.fromkeys(map(float, config.between_guidance)))
    names = config.transfer_networks[:1]
    steps = config.transfer_steps[:1]
    found = [
        {"part": "guidance", "made_for": a, "made_at": v, "used_on": a, "at": w, "steps": n}
        for a in names
        for n in steps
        for v in scales
        for w in scales
    ]
    # Every scale that has a neighbour on both sides.
    inner = [
        {"part": "guidance between", "made_for": a, "made_at": [u, v], "used_on": a, "at": w}
        | {"steps": n}
        for a in names
        for n in steps
        if n > SHORT
        for u, w, v in zip(scales, scales[1:], scales[2:], strict=False)
    ]
    return found + inner


def _steps(config: Config) -> list[dict]:
    """Inner numbers of evaluations, from the tables of their neighbours."""
    # Overlapping triples: low, inner, high.
    counts = sorted(set(config.between_steps))
    names = (*config.transfer_fields[:1], *config.transfer_networks[:1])
    return [
        {"part": "steps between", "made_for": a, "made_at": [low, high], "used_on": a, "at": 1.0}
        | {"steps": n}
        for a in names
        for (low, n), (_, high) in pairwise(pairwise(counts))
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the error of the table in use, over those of published and own ones."""
    for key in todo:
        made = subjects.subject(config, key["used_on"], key["at"])
        # The model's own table gives the published plan and the best that can be expected.
        own = tables.table_of(config, made, key["steps"], **_form(key))
        used = _used(config, key)
        errors = unseen.unseen(config, made).errors([used, own.published, own.plan])
        yield (
            key,
            {
                **unseen.summary(errors[0]),
                "published_rms": unseen.rms(errors[1]),
                "own_rms": unseen.rms(errors[2]),
                **unseen.compared(errors[0], errors[1]),
            },
        )


def _form(key: dict) -> dict[str, str]:
    """Tables that are interpolated, and what they are compared with, begin from one solver."""
    return {"solver": BEGUN} if "between" in key["part"] else {}


def _used(config: Config, key: dict) -> Plan:
    """The table that a cell uses."""
    if key["part"] in ("model", "guidance"):
        other = subjects.subject(config, key["made_for"], key["made_at"])
        return tables.table_of(config, other, key["steps"]).plan
    # Between two tables: of neighbouring scales, or of neighbouring numbers of evaluations.
    low, high = key["made_at"]
    name, steps = key["made_for"], key["steps"]
    if key["part"] == "guidance between":
        ends = [(subjects.subject(config, name, scale), steps) for scale in (low, high)]
        part = (key["at"] - low) / (high - low)
    else:
        ends = [(subjects.subject(config, name), count) for count in (low, high)]
        part = (steps - low) / (high - low)
    first, second = (
        tables.table_of(config, model, count, solver=BEGUN).plan for model, count in ends
    )
    return between(first, second, steps, part, ends[0][0].schedule)


def part_of(rows: list[dict], part: str) -> list[dict]:
    """The rows of one part."""
    return [row for row in rows if row["question"] == QUESTION and row["part"] == part]


def foreign(rows: list[dict]) -> list[dict]:
    """Rows whose table was made for another model or scale."""
    return [row for row in rows if (row["made_for"], row["made_at"]) != (row["used_on"], row["at"])]


# ---- figures


def _matrix(rows: list[dict], across: str, down: str, claim: str) -> report.Picture:
    """The ratio of a table (down) on a model (across), as a heat map for each number of steps."""
    # A panel for each number of evaluations.
    counts = sorted({row["steps"] for row in rows})
    fig, axes = report.canvas(1, len(counts), width=4.2 * len(counts) + 0.6, height=3.4)
    panels = [axes] if len(counts) == 1 else list(axes)
    words = {"used_on": "used on", "made_for": "table of", "at": "used at", "made_at": "made at"}
    for ax, steps in zip(panels, counts, strict=True):
        here = [row for row in rows if row["steps"] == steps]
        label = "RMS error over published"
        report.heatmap(ax, here, x=across, y=down, value="rms_ratio", log=True, label=label)
        ax.set(title=f"{steps} evaluations", xlabel=words[across], ylabel=words[down])
        ax.tick_params(axis="x", rotation=30)
    drawing.claim(fig, claim)
    return report.picture(fig, claim)


# ---- words


def of_kind(rows: list[dict], kind: str) -> list[dict]:
    """The rows whose models are of one kind, `FIELDS` or `NETWORKS`: pairs are of one kind."""
    return [row for row in rows if subjects.is_network(row["used_on"]) == (kind == NETWORKS)]


def kind_words(rows: list[dict], kind: str) -> str:
    """How a table does on other models of one kind; empty without such rows."""
    away = foreign(of_kind(part_of(rows, "model"), kind))
    if not away:
        return ""
    better = sum(row["rms_verdict"] == "better" for row in away)
    ratio = statistics.geometric_mean(row["rms_ratio"] for row in away)
    own = statistics.geometric_mean(row["own_rms"] / row["published_rms"] for row in away)
    verdict = "carries over" if ratio < 1 else "does not carry over"
    names = ", ".join(sorted({row["used_on"] for row in away}))
    return (
        f"Between {kind} ({names}) a table **{verdict}**: on another one it has "
        f"{report.sig(ratio)} times the error of the best published plan (geometric mean; the "
        f"table of that one has {report.sig(own)}), and is better in {better} of {len(away)} "
        "pairs."
    )


def model_words(rows: list[dict]) -> str:
    """How tables do on other models, by the kind of the model; empty without such rows."""
    return " ".join(filter(None, (kind_words(rows, kind) for kind in KINDS)))


def guidance_words(rows: list[dict]) -> str:
    """How a table does at other guidance scales; empty without such rows."""
    away = foreign(part_of(rows, "guidance"))
    if not away:
        return ""
    ratio = statistics.geometric_mean(row["rms_ratio"] for row in away)
    own = statistics.geometric_mean(
        row["rms_ratio"] for row in part_of(rows, "guidance") if row not in away
    )
    return (
        f"At another guidance scale it has {report.sig(ratio)} times the published error, and the "
        f"scale's own table {report.sig(own)}."
    )


def between_words(rows: list[dict]) -> str:
    """How tables between tables do; empty without such rows."""
    # Below 1 a user without time to tune should interpolate.
    texts = []
    for part, what in (("steps between", "evaluations"), ("guidance between", "scales")):
        own = part_of(rows, part)
        if own:
            ratio = statistics.geometric_mean(row["rms_ratio"] for row in own)
            beside = statistics.geometric_mean(row["own_rms"] / row["rms"] for row in own)
            verdict = "works" if ratio < 1 else "does not work"
            texts.append(
                f"Interpolation between {what} {verdict}: {report.sig(ratio)} times the published "
                f"error, and a table tuned there has {report.sig(beside)} times the error of the "
                "interpolated one."
            )
    return " ".join(texts)


WORDS = (model_words, guidance_words, between_words)


def summary(rows: list[dict]) -> str:
    """The answer on other models."""
    return model_words(rows)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    pictures = []
    for kind in KINDS:
        here = of_kind(part_of(rows, "model"), kind)
        if foreign(here):
            claim = kind_words(rows, kind).replace("**", "")
            pictures.append(_matrix(here, "used_on", "made_for", claim))
    scales = part_of(rows, "guidance")
    if foreign(scales):
        pictures.append(_matrix(scales, "at", "made_at", guidance_words(rows)))
    answer = [words(rows) for words in WORDS]
    names = ("part", "made_for", "made_at", "used_on", "at", "steps")
    values = ("rms", "published_rms", "own_rms", "rms_ratio")
    return report.Section(
        question="Does a table carry over?",
        expected="Not to other data at 6 evaluations, nearly at 10; published tables carry over "
        "between data sets of faces at 8 and more. Neighbouring guidance scales: mostly. Numbers "
        "of evaluations: interpolation works where tables are smooth in them.",
        answer="\n".join(filter(None, answer)) or "**No pair is measured yet.**",
        figures=pictures,
        table=[
            {name.replace("_", " "): _text(row[name]) for name in (*names, *values)} for row in own
        ],
        caveat="The published plan is the best one for the model on which the table is used. The "
        "networks have one size and one data set; the fields have data of their own.",
        command=command,
    )


def _text(value: object) -> object:
    """A pair as text, other values as they are."""
    return " and ".join(f"{x:g}" for x in value) if isinstance(value, list) else value
