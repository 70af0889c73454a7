"""Rows as the experiment measures them, with numbers that a test chooses."""

TIMES = [1.0, 0.6, 0.2, 0.0]
TABLE = {
    "times": TIMES,
    "label_time": TIMES[:-1],
    "outputs": [[1.0, 0.0, 0.0, 0.0], [1.5, -0.5, 0.0, 0.0], [2.0, -1.5, 0.5, 0.0]],
    "largest": 4.0,
}


def errors(rms):
    return {"rms": rms, "median": rms / 2, "decile": 2 * rms}


def compared(ratio, verdict=None):
    """The values of a comparison; the verdict follows from the ratio."""
    verdict = verdict or ("better" if ratio < 0.9 else "worse" if ratio > 1.1 else "tie")
    found = {}
    for name in ("rms", "median"):
        found |= {f"{name}_ratio": ratio, f"{name}_low": 0.8 * ratio, f"{name}_high": 1.2 * ratio}
        found[f"{name}_verdict"] = verdict
    return found


def ratio_row(model="ring", steps=6, ratio=0.25, guidance=1.0, half=None, **changes):
    """A row of `ratio`: the published error is 0.04; `half` is (tuned, published) in bfloat16."""
    row = {
        "question": "ratio",
        "model": model,
        "guidance": guidance,
        "steps": steps,
        "refused": None,
        "solvers": [
            {"solver": "Euler", "shift": 1.0, **errors(0.08)},
            {"solver": "AB3", "shift": 0.7, **errors(0.04)},
        ],
        "tuned": errors(0.04 * ratio),
        "best": "AB3",
        **compared(ratio),
        "accepted": True,
        "sentence": "The tuned table is accepted.",
        "evaluations": 1000,
        "seconds": 2.0,
        "published": "Adams-Bashforth 3 on the uniform grid of shift 0.7",
        "table": TABLE,
        "beside": TABLE,
        "bfloat16": half and {"tuned": half[0], "published": half[1]},
        "doubling": 1e-6,
    }
    return row | changes


def refused_row(question="ratio", **key):
    found = {"question": question, "model": "digits", "guidance": 1.0, "steps": 6}
    return found | {"refused": "the end still moves"} | key


def quality_row(published, tuned, converged=0.01, steps=6, **changes):
    values = {"published": published, "tuned": tuned, "converged": converged}
    row = {
        "question": "quality",
        "model": "ring",
        "guidance": 1.0,
        "steps": steps,
        "refused": None,
        "measure": "sliced Wasserstein",
        "values": {kind: [value, value] for kind, value in values.items()},
    }
    return row | changes


def part_row(part, ratio):
    row = {"question": "parts", "model": "ring", "steps": 6, "part": part}
    return row | {"published_rms": 0.04, **errors(0.04 * ratio), **compared(ratio)}


def order_row(part, setting, published, tuned, model="ring"):
    row = {"question": "order", "part": part, "model": model, "steps": 6, "setting": setting}
    return row | {"published_rms": published, **errors(tuned), **compared(tuned / published)}


def transfer_row(part, made_for, used_on, ratio, made_at=1.0, at=1.0):
    row = {"question": "transfer", "part": part, "made_for": made_for, "made_at": made_at}
    row |= {"used_on": used_on, "at": at, "steps": 6}
    return row | {
        **errors(0.04 * ratio),
        "published_rms": 0.04,
        "own_rms": 0.01,
        **compared(ratio),
    }


def optimizer_row(adam, levenberg=0.01):
    def run(rms, spent=(0.0, 100.0)):
        curve = {"spent": list(spent), "train": [0.04, rms], "validation": [0.04, rms]}
        return curve | errors(rms)

    runs = {
        "Levenberg-Marquardt": run(levenberg),
        "least squares": run(0.02, (6.0,)) | {"train": [0.02], "validation": [0.02]},
        "Levenberg-Marquardt from least squares": run(levenberg),
        "Adam, rate 0.01": run(adam, (0.0, 400.0)),
        "Adam, rate 0.1": run(10 * adam, (0.0, 400.0)),
    }
    row = {"question": "optimizer", "model": "ring", "steps": 6}
    return row | {"published_rms": 0.04, "optimizers": runs}


def floor_row(model="digits-smooth", own=(0.01, 0.02, 0.0)):
    row = {"question": "floor", "model": model, "steps": 6, "shared": [0.04, 0.01, 0.0]}
    return row | {"own": None if own is None else list(own), "size": [1.0, 1.0, 1.0]}


ENDS = ("ratio", "low", "high")


def stale_row(devices, rms, naive=0.06, forecast="held", placed="start"):
    row = {"question": "stale", "model": "digits-smooth", "steps": 10, "devices": devices}
    row |= {"placed": placed, "placed_rms": 0.05, "synchronous_steps": [0]}
    row |= {"synchronous": 1, "published_synchronous_rms": 0.004}
    row |= {"forecast": forecast, "best": "AB2", "shift": 1.0, "published_rms": 0.05}
    row |= {"exact_table_rms": naive, "synchronous_rms": 0.001, "history": []}
    over = rms / 0.004
    row |= {f"over_synchronous_{k}": over * f for k, f in zip(ENDS, (1, 0.9, 1.1), strict=True)}
    return row | errors(rms) | compared(rms / 0.05)
