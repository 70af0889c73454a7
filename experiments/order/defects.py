"""Every public defect as before and after, reproduced on exact fields with one thing changed."""

import jax.numpy as jnp
import numpy as np

from experiments import report
from experiments.order import lab
from experiments.order.ledger import exact_plan, thousandths
from flowjax import Linear, distances, grids, plans
from flowjax.plans import Builder

QUESTION = "defects"
NONE = ""


class WrongInverse(Linear):
    """The linear path with sigma/alpha for the time at which a log-SNR is reached, as in NVlabs/Sana's flow schedule."""

    def time_of_log_snr(self, log_snr):
        """exp(-log_snr), which is sigma/alpha = t/(1-t) and passes 1 in the noisy half."""
        return np.exp(-log_snr)


def second_singlestep(schedule, times):
    """DPM-Solver++ 2S with the middle of each step where `schedule` says it is, and nothing checked.

    The public codes trust the inverse: state, network and weights of the middle are those of the time it returns, while
    the weights of the last update are those of a middle at half the step (arXiv:2211.01095, algorithm 1).
    """
    rows = Builder("defects.second_singlestep")
    for t0, t1 in zip(times[:-1], times[1:], strict=True):
        start, end = Linear().log_snr(np.array([t0, t1]))
        middle = float(schedule.time_of_log_snr((start + end) / 2))
        first, h = len(rows), end - start
        weight = -(1 - middle) * np.expm1(-h / 2)
        rows.row(t0, middle, kind="data", c=middle / t0, d={first: weight}, ends_step=False)
        rows.row(middle, t1, kind="data", a=t1 / t0, b={first + 1: -(1 - t1) * np.expm1(-h)})
    return rows.build(check=False)  # a wrong inverse places the middle wrongly


def uneven_blocks(times):
    """Blocks of singlestep order 3 whose stages are uniform in t, as a time_uniform skip gives them."""
    stages = [
        (t0, *np.linspace(t0, t1, 4)[1:3], t1) for t0, t1 in zip(times[:-1], times[1:], strict=True)
    ]
    return [b if 0 < b[-1] and b[0] < 1 else (b[0], b[-1]) for b in stages]


def twice_shifted(steps, shift, last=0.001, times=2):
    """FlowMatchEuler's grid in diffusers: uniform from 1 to a least sigma that is shifted already, shifted again, then 0."""
    for _ in range(times - 1):
        last = float(grids.shifted(last, shift))
    return np.append(grids.uniform(steps - 1, shift=shift, end=last), 0.0)


def _to(end, steps, shift=3.0):
    """The shifted grid with its last time moved to `end`, where log-SNR is finite."""
    return np.append(grids.uniform(steps, shift=shift)[:-1], end)


def _jump(plan):
    """The plan, and a last first-order jump from where it ends to t = 0, which is not counted."""
    if plan.t_next[-1] == 0:
        return plan
    jump = plans.euler([plan.t_next[-1], 0.0])
    return plans.concat(plan, jump._replace(counted=np.zeros(1, bool)))


def _ended(order, end):
    def build(schedule, steps, final):
        grid = grids.uniform(steps, shift=3.0) if end == 0 else _to(end, steps)
        return _jump(
            plans.dpm_solver_pp(schedule, grid, order, third_order="published", final=final)
        )

    return build


def _labelled(order):
    """As diffusers: 0.999 is the first time; x is taken there by a first-order jump of 0.001, which is not counted."""

    def build(schedule, steps, cut):
        plan = plans.dpm_solver_pp(
            schedule, grids.uniform(steps, start=0.999), order, third_order="published"
        )
        plan = plans.with_labels(plan, thousandths(plan.t, cut)) if cut else plan
        begin = plans.euler([1.0, 0.999])
        return plans.concat(begin._replace(counted=np.zeros(1, bool)), plan)

    return build


def _third(make_grid):
    def build(schedule, steps, third_order):
        return plans.dpm_solver_pp(
            schedule, make_grid(steps - 1), 3, third_order=third_order, start="singlestep"
        )

    return build


def _fractions(schedule, nfe, uneven):
    """Blocks from 1 to 0.001, the end that dpm-solver takes, and the jump; the first block touches t = 1: one row."""
    times = grids.uniform((nfe + 2) // 3, end=0.001)
    if uneven:
        return _jump(plans.singlestep(schedule, uneven_blocks(times)))
    return _jump(plans.dpm_solver_pp(schedule, times, 3, method="singlestep"))


def _final(schedule, steps, rule):
    return plans.dpm_solver_pp(
        schedule, grids.uniform(steps), 3, third_order="published", final=rule
    )


def _euler(schedule, steps, twice):
    return plans.euler(twice_shifted(steps, 3.0) if twice else grids.uniform(steps, shift=3.0))


def _once(schedule, steps, twice):
    return plans.euler(twice_shifted(steps, 3.0, times=2 if twice else 1))


def _whole_inverse(schedule, nfe, wrong):
    made = WrongInverse() if wrong else schedule
    return plans.dpm_solver_pp(made, grids.uniform(nfe // 2 + 1), 2, method="singlestep")


def _half_inverse(schedule, nfe, wrong):
    times = grids.log_snr(schedule, (nfe - 1) // 2, start=HALF, end=0.01)
    return plans.concat(
        second_singlestep(WrongInverse() if wrong else schedule, times), plans.euler([0.01, 0.0])
    )


HALF = 0.5  # where the wrong inverse first returns times inside [0, 1]
INVERSE, HALF_INVERSE = "wrong inverse", f"wrong inverse, from t = {HALF:g}"
CASES = [  # (defect, whose, solver, evaluations, build(schedule, evaluations, option), option before, option after)
    (INVERSE, "NVlabs/Sana", "DPM++ 2S", 20, _whole_inverse, True, False),
    (HALF_INVERSE, "NVlabs/Sana", "DPM++ 2S", 20, _half_inverse, True, False),
    *(
        (f"not lowered, end {end:g}", "NVlabs/Sana", f"DPM++ {order}M", 20, _ended(order, end), "none", "sana")
        for end in (0, 1e-7, 1e-3)
        for order in (2, 3)
    ),
    ("stages uniform in t", "dpm-solver", "DPM++ 3S", 19, _fractions, True, False),
    ("stages uniform in t", "dpm-solver", "DPM++ 3S", 100, _fractions, True, False),
    *(
        (f"half weight, {name}", "all", "DPM++ 3M", steps, _third(make_grid), "published", "exact")
        for name, make_grid in (("uniform", lab.shifted(1.0)), ("log-SNR", lab.log_snr_with_ends()))
        for steps in (20, 100)
    ),
    *(
        ("labels cut", "diffusers", f"DPM++ {order}M" if order > 1 else "Euler", steps, _labelled(order), "floor", NONE)
        for steps in (20, 100)
        for order in (1, 2, 3)
    ),
    ("sigma shifted twice, or once", "diffusers", "Euler", 20, _once, True, False),
    ("sigma shifted twice, or to 0", "diffusers", "Euler", 20, _euler, True, False),
    ("order 3 before the jump", "diffusers", "DPM++ 3M", 20, _final, "diffusers", "sana"),
    ("order 3 before the jump", "diffusers", "DPM++ 3M", 100, _final, "diffusers", "sana"),
]  # fmt: skip
MEANINGS = (
    "**wrong inverse**: the time of a log-SNR is taken as sigma/alpha; **not lowered**: orders 2 and 3 up to the last time; **stages uniform in t**: "
    "of singlestep order 3, whose update needs them at 1/3 and 2/3 of the step in log-SNR; **half weight**: of the second difference of 3M; "
    "**labels cut**: to whole thousandths; **sigma shifted twice**: the least time of FlowMatchEuler, against shifting it once, or against N steps to 0; "
    "**order 3 before the jump**: diffusers lowers the last step alone from 15 steps on, NVlabs/Sana two. "
    "Data formed through the noise: (x - sigma noise)/alpha against x - t velocity, coefficients and operations rounded."
)
ROUNDING = "data formed through the noise"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def cells(config):
    """One cell a defect, field, solver and number of evaluations."""
    keys = [
        {
            "question": QUESTION,
            "defect": defect,
            "whose": whose,
            "field": field,
            "solver": solver,
            "nfe": nfe,
        }
        for field in config.cause_fields
        for defect, whose, solver, nfe, *_ in CASES
    ]
    keys += [
        {"question": QUESTION, "defect": ROUNDING, "whose": "NVlabs/Sana", "field": field, "solver": f"{dtype}, t = {t:g}"}
        for field in config.cause_fields[-1:]
        for dtype in DTYPES
        for t in (0.9, 0.99, 0.9997)
    ]  # fmt: skip
    return keys


def _through_noise(cell, t, dtype):
    """RMS errors of x - t v and of (x - t noise)/(1 - t), noise = (1 - t) v + x, each operation rounded to `dtype`."""
    x, v = jnp.asarray(cell.noise), cell.field.velocity(jnp.asarray(cell.noise), t)
    exact = np.asarray(x - t * v)
    x, v = x.astype(dtype), v.astype(dtype)
    sigma, alpha = (jnp.asarray(c, jnp.float32).astype(dtype) for c in (t, 1 - t))
    formed = {"before": (x - sigma * (alpha * v + x)) / alpha, "after": x - sigma * v}
    scale = lab.scale_of(cell.exact)
    return {
        k: float(distances.rms(lab.row_norms(np.asarray(made, np.float64) - exact))) / scale
        for k, made in formed.items()
    }


def measure(config, todo):
    """Yield (key, values): errors before and after with the interval of their ratio, or the sentence that refuses."""
    for name in dict.fromkeys(key["field"] for key in todo):
        cell = lab.make_cell(
            lab.make_field(name), config.seeds, config.samples, steps=config.reference_steps
        )
        schedule, half = (
            cell.field.schedule,
            exact_plan(cell.field.schedule, 1.0, HALF, config.reference_steps // 2),
        )
        halfway = np.asarray(lab.solve(cell.field, cell.noise, half))
        keys = [key for key in todo if key["field"] == name]
        built, refused = [], {}
        for i, key in enumerate(keys):
            for defect, _, solver, nfe, build, *options in CASES:
                if (key["defect"], key["solver"], key.get("nfe")) != (defect, solver, nfe):
                    continue
                for when, option in zip(("before", "after"), options, strict=True):
                    try:
                        built.append(((i, when), build(schedule, nfe, option)))
                    except ValueError as error:
                        refused[i] = str(error)
        errors = {}
        for late, start in ((False, cell.noise), (True, halfway)):
            own = [(at, plan) for at, plan in built if (plan.t[0] == HALF) == late]
            if own:
                found = cell.errors(lab.run_plans(cell.field, start, [plan for _, plan in own]))
                errors |= {at: e for (at, _), e in zip(own, found, strict=True)}
        for i, key in enumerate(keys):
            if key["defect"] == ROUNDING:
                dtype, _, t = key["solver"].partition(", t = ")
                yield key, _through_noise(cell, float(t), DTYPES[dtype])
            elif i in refused:
                yield (
                    key,
                    {"after": float(distances.rms(errors[i, "after"])), "refused": refused[i]},
                )
            else:
                before, after = errors[i, "before"], errors[i, "after"]
                compared = lab.paired(before, after, cell.seed)
                yield key, {
                    "before": float(distances.rms(before)), "after": float(distances.rms(after)),
                    **{k.removeprefix("rms_"): v for k, v in compared.items() if k.startswith("rms_")},
                }  # fmt: skip


# ---- what the rows say


def by_case(rows):
    """One line a defect, solver and number of evaluations: its effect over the fields."""
    table = []
    for key in dict.fromkeys((r["defect"], r["whose"], r["solver"], r.get("nfe")) for r in rows):
        own = [r for r in rows if (r["defect"], r["whose"], r["solver"], r.get("nfe")) == key]
        line = dict(zip(("defect", "in", "solver", "nfe"), key, strict=True)) | {"fields": len(own)}
        if "refused" in own[0]:
            table.append(line | {"effect": "refused", "after": _mean(own, "after")})
            continue
        ratios = [r["before"] / r["after"] for r in own]
        line |= {
            "before": _mean(own, "before"), "after": _mean(own, "after"), "ratio": float(np.exp(np.mean(np.log(ratios)))),
            "least": min(ratios), "most": max(ratios),
        }  # fmt: skip
        told = [r.get("verdict", "arithmetic") for r in own]
        line |= {"worse": told.count("worse"), "better": told.count("better")}
        table.append(line | {"effect": told[0] if len(set(told)) == 1 else "depends on the field"})
    return table


def _mean(rows, name):
    return float(np.exp(np.mean([np.log(r[name]) for r in rows])))


def _named(lines):
    """The lines as words, those of one defect together: its solver, its evaluations and its ratio."""
    gathered = {}
    for t in sorted(lines, key=lambda t: -t["ratio"]):
        mixed = (
            f" (worse on {t['worse']}, better on {t['better']})"
            if t["effect"] == "depends on the field"
            else ""
        )
        said = (
            f"{t['solver'].removeprefix('DPM++ ')} at {t['nfe']}: {report.sig(t['ratio'])}{mixed}"
        )
        gathered.setdefault(t["defect"], []).append(said)
    return "; ".join(f"{defect}, {', '.join(each)}" for defect, each in gathered.items()) or "none"


def section(rows, command):
    """The section of the page."""
    table = by_case(rows)
    run = [t for t in table if t["effect"] not in ("refused", "arithmetic")]
    kinds = {
        effect: [t for t in run if t["effect"] == effect]
        for effect in ("worse", "tie", "better", "depends on the field")
    }
    refused = [t for t in table if t["effect"] == "refused"]
    said = dict.fromkeys(r["refused"] for r in rows if "refused" in r)
    worst = max(run, key=lambda t: t["ratio"])
    fig, ax = report.canvas(width=5.4, height=0.6 + 0.21 * len(run))
    ranked = sorted(run, key=lambda t: -t["ratio"])
    bars = [
        {
            "what": f"{t['defect']}: {t['solver'].removeprefix('DPM++ ')}, {t['nfe']}",
            "log": float(np.log10(t["ratio"])),
            "ratio": t["ratio"],
        }
        for t in ranked
    ]
    report.bar_ledger(ax, bars, label="what", value="log", xlabel="log10 of the ratio of errors",
                      text=lambda x: f"{report.sig(10**x)}x")  # fmt: skip
    rounding = {t["solver"]: t for t in table if t["effect"] == "arithmetic"}
    half = max(
        (t for name, t in rounding.items() if name.startswith("bfloat16")),
        key=lambda t: t["before"],
        default=None,
    )
    return report.Section(
        question="What do the defects of public code cost?",
        expected="The wrong inverse of log-SNR and unlowered orders at the end ruin samples; the half weight, truncated labels, the twice "
        "shifted sigma and diffusers' final rule cost little at 20 evaluations, and labels cost the high orders at 100.",
        answer=f"Of {len(run) + len(refused)} before/after comparisons our plans refuse {len(refused)} outright; {len(kinds['worse'])} make the error "
        f"larger beyond 2 % on every field: {_named(kinds['worse'])}; most of all **{worst['defect']} with {worst['solver']}, {report.sig(worst['ratio'])} times**. "
        f"Not told from no effect: {_named(kinds['tie'])}. The defect helps: {_named(kinds['better'])}. It depends on the field (of {max(t['fields'] for t in run)}): "
        f"{_named(kinds['depends on the field'])}."
        + (
            f" Data formed through the noise is wrong by up to {report.sig(half['before'])} of the data's size ({half['solver']}), formed "
            f"directly by {report.sig(half['after'])}."
            if half
            else ""
        ),
        figures=(
            report.picture(
                fig, f"One bar a defect; the worst is {worst['defect']}, {report.sig(worst['ratio'])} times.",
                f"Relative RMS error at t = 0 with the defect over that without, same noise, geometric mean over {len(dict.fromkeys(r['field'] for r in rows))} fields; "
                f"the number after the solver is NFE. {MEANINGS}",
            ),
        ),
        table=table,
        caveat="Each comparison changes one thing and keeps the rest as its source has it. Refused with these words: "
        + " ".join(f"`{sentence}`" for sentence in said),
        command=command,
    )  # fmt: skip
