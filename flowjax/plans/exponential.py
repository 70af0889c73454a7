"""Plans that solve the linear part exactly: DDIM, DPM-Solver, DPM-Solver++, their SDE forms, UniPC and DEIS.

With lambda = log_snr and h = lambda(t1) - lambda(t0), the exact solution over a step is (DPM-Solver++,
arXiv:2211.01095, eq. 8; DPM-Solver, arXiv:2206.00927, eq. 3.4; SDE forms, arXiv:2211.01095, eq. 13 and 14)

    data:       x1 = sigma1/sigma0 x0          + alpha1   int_0^h  exp(-(h-u))   data(u)  du
    noise:      x1 = alpha1/alpha0 x0          - sigma1   int_0^h  exp(h-u)      noise(u) du
    data, SDE:  x1 = sigma1/sigma0 exp(-h) x0  + 2 alpha1 int_0^h  exp(-2(h-u))  data(u)  du + sigma1 sqrt(1-exp(-2h)) z
    noise, SDE: x1 = alpha1/alpha0 x0          - 2 sigma1 int_0^h  exp(h-u)      noise(u) du + sigma1 sqrt(exp(2h)-1) z

so each is `decay x0 + gain sum_j w_j m_j + s z` with w from `exponential_moments` at +h, -h, 2h and -h: one mechanism.
Where log-SNR is infinite (t = 0, and t = 1 on paths that reach pure noise) only order 1 is defined, and is finite.
"""

import numpy as np

from flowjax import grids
from flowjax.errors import check_choice, check_order
from flowjax.plans.moments import exponential_moments, interpolation_weights
from flowjax.plans.table import DEPTH, Builder

VARIANTS = ("midpoint", "taylor")
THIRD_ORDERS = ("exact", "published")
SDE_THIRD_ORDERS = (*THIRD_ORDERS, "diffusers")
FINAL_RULES = ("auto", "sana", "diffusers", "upstream", "none")
DEFAULT_FRACTIONS = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}


def step_terms(schedule, t0, t1, prediction, stochastic=False):
    """(decay, gain, h, noise weight) of the exact solution over a step whose ends have finite log-SNR.

    Args:
      schedule: supplies alpha, sigma, log_snr.
      t0, t1: step ends, scalars or arrays.
      prediction: "data" or "noise".
      stochastic: the SDE form.

    Returns:
      decay, gain, the argument of `exponential_moments`, and the weight of fresh noise.
    """
    h = schedule.log_snr(t1) - schedule.log_snr(t0)
    if prediction == "data":
        decay, gain, argument = schedule.sigma(t1) / schedule.sigma(t0), schedule.alpha(t1), h
        if stochastic:
            return decay * np.exp(-h), gain, 2 * h, schedule.sigma(t1) * np.sqrt(-np.expm1(-2 * h))
    else:
        decay, gain, argument = schedule.alpha(t1) / schedule.alpha(t0), schedule.sigma(t1), -h
        if stochastic:
            return decay, 2 * gain, argument, schedule.sigma(t1) * np.sqrt(np.expm1(2 * h))
    return decay, gain, argument, 0.0


def first_order_row(schedule, t0, t1, prediction="data", *, stochastic=False):
    """(kind, decay, weight, noise weight) of the order-1 step, finite where log-SNR is not.

    DPM-Solver++ of order 1 (arXiv:2211.01095, eq. 9), equal to DDIM (arXiv:2010.02502) and, on the linear path, to
    Euler's step on the velocity. The two forms are the same step:

        x1 = sigma1/sigma0 x0 + (alpha1 - alpha0 sigma1/sigma0) data  = alpha1/alpha0 x0 + (sigma1 - sigma0 alpha1/alpha0) noise

    `prediction` chooses, but data is used from alpha0 = 0 (pure noise) and noise from sigma0 = 0 (inverting data).
    """
    alpha0, alpha1 = float(schedule.alpha(t0)), float(schedule.alpha(t1))
    sigma0, sigma1 = float(schedule.sigma(t0)), float(schedule.sigma(t1))
    if stochastic and sigma0 != 0:
        ratio = alpha0 * sigma1 / (sigma0 * alpha1)  # exp(-h), 0 at both infinite ends
        return (
            "data",
            sigma1 / sigma0 * ratio,
            alpha1 * (1 - ratio**2),
            sigma1 * np.sqrt(1 - ratio**2),
        )
    if sigma0 == 0 or (prediction == "noise" and alpha0 != 0):
        return "noise", alpha1 / alpha0, sigma1 - sigma0 * alpha1 / alpha0, 0.0
    return "data", sigma1 / sigma0, alpha1 - alpha0 * sigma1 / sigma0, 0.0


def step_weights(argument, taus, *, variant="taylor", third_order="exact"):
    """Weights of the evaluations at places `taus` of a step, before the gain; their number is the order.

    Variants of the public codes differ in one moment. "midpoint" (their solver_type "dpmsolver", "midpoint" or "bh2")
    gives the slope of order 2 the weight M_0/2 where the integral is M_1 ("taylor", "heun"). "published" gives the second
    difference of order 3 half of its weight, which makes that method second order; "exact" is the integral. "diffusers"
    is what its SDE form of order 3 does: -1/2 where "published" has +1/2, a moment of -1 instead of 0 at h = 0.
    """
    moments = exponential_moments(argument, len(taus))
    if len(taus) == 2 and variant == "midpoint":
        moments[1] = moments[0] / 2
    if len(taus) == 2 and variant == "bh1":
        moments[1] = argument / 2
    if len(taus) == 3 and third_order != "exact":
        moments[2] = moments[2] / 2 - (third_order == "diffusers")
    return interpolation_weights(taus, moments)


def order_caps(name, final, steps, order, touches_end):
    """Highest order of each step that the final rule allows, (steps,).

    Rules (their names are options): "auto" and "none" do not lower; "sana": the k-th step from the end has order at most
    k; "upstream" (LuChengTHU/dpm-solver): the same, only below 10 steps; "diffusers": the last step has order 1 if it
    ends at t = 0 or below 15 steps, the one before at most 2 below 15 steps. A tuple caps the last steps explicitly:
    (2, 1) is order 2, then order 1. Orders on steps that touch an infinite log-SNR are settled by the caller.
    """
    caps = np.full(steps, order)
    left = steps - np.arange(steps)
    if isinstance(final, (tuple, list)):
        if len(final) > steps or any(cap not in range(1, 4) for cap in final):
            raise ValueError(
                f"{name}: final={final!r} for {steps} steps; wanted at most {steps} caps, each 1, 2 or 3."
            )
        caps[steps - len(final) :] = np.minimum(caps[steps - len(final) :], final)
        return caps
    check_choice(name, "final", final, FINAL_RULES)
    if final == "sana" or (final == "upstream" and steps < 10):
        caps = np.minimum(caps, left)
    elif final == "diffusers":
        if touches_end or steps < 15:
            caps[-1:] = 1
        if steps < 15:
            caps[-2:-1] = np.minimum(caps[-2:-1], 2)
    return caps


def _settle(name, schedule, grid, final, order, *, history=True):
    """(log-SNR of the grid, orders allowed at each step); refuses order >= 2 where log-SNR is infinite, unless "auto".

    `history`: the method is multistep, so that its k-th step has order k at most.
    """
    lambdas = schedule.log_snr(grid)
    ends = ~np.isfinite(lambdas[1:])
    caps = order_caps(name, final, len(grid) - 1, order, ends[-1])
    touches = ends | ~np.isfinite(lambdas[:-1])
    reached = np.minimum(caps, np.arange(len(ends)) + 1) if history else caps
    bad = np.flatnonzero(ends & (reached > 1))
    if final != "auto" and len(bad):
        raise ValueError(
            f"{name}: step {bad[0] + 1} of {len(ends)} ends at t = {grid[bad[0] + 1]:g}, where log-SNR is infinite, so order "
            f"{reached[bad[0]]} is undefined there (final={final!r}); keep final='auto', or end the grid above 0."
        )
    return lambdas, np.where(touches, 1, caps)


def dpm_solver_pp(
    schedule, grid, order, *, method="multistep", third_order="exact", variant="midpoint", prediction="data",
    final="auto", start="cold",
):  # fmt: skip
    """DPM-Solver++ (prediction="data", arXiv:2211.01095) or DPM-Solver (prediction="noise", arXiv:2206.00927).

    Args:
      schedule: the path; grid: (N+1,) strictly monotone times, increasing to invert data to noise.
      order: 1, 2 or 3. Order 1 is DDIM, and Euler on the linear path.
      method: "multistep" evaluates once a step and reuses earlier evaluations; "singlestep" makes every step a block of
        `order` evaluations (at fractions 1/2, or 1/3 and 2/3, of the step in log-SNR); a step that touches an infinite
        log-SNR is one evaluation.
      third_order: of the multistep method. "exact" integrates the parabola; "published" is what all public codes do:
        half the weight on the second difference, hence order 2, and more damped at few steps.
      variant: of every order-2 update, and of the last stage of singlestep order 3: "midpoint" or "taylor".
      final: order at the end of the grid. "auto" is order 1 only on a step that begins or ends where log-SNR is
        infinite; "sana", "diffusers", "upstream", "none" and tuples: see `order_caps`.
      start: of the multistep method. "cold" takes the first steps with orders 1, 2, ...: global order 2 at most.
        "singlestep" takes the first finite step with singlestep order 2 (one more evaluation), so that order 3 is reached.

    Returns:
      A Plan. NFE is N for cold multistep methods, N + 1 with start="singlestep", up to N order for singlestep.
    """
    name = "plans.dpm_solver_pp"
    grid = grids.check(grid, name)
    check_choice(name, "method", method, ("multistep", "singlestep"))
    check_choice(name, "third_order", third_order, THIRD_ORDERS)
    check_choice(name, "variant", variant, VARIANTS)
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_choice(name, "start", start, ("cold", "singlestep"))
    if method == "multistep":
        check_order(name, order, 3, len(grid) - 1)
        return _multistep(
            name, schedule, grid, order, variant=variant, third_order=third_order, prediction=prediction, final=final,
            warm=start == "singlestep",
        )  # fmt: skip
    check_order(name, order, 3)
    lambdas, orders = _settle(name, schedule, grid, final, order, history=False)
    blocks = [
        (grid[i], *_inner_times(schedule, lambdas[i], lambdas[i + 1], orders[i]), grid[i + 1])
        for i in range(len(orders))
    ]
    return singlestep(schedule, blocks, variant=variant, prediction=prediction)


def dpm_solver_sde(
    schedule, grid, order, *, third_order="exact", variant="midpoint", prediction="data", final="auto"
):  # fmt: skip
    """SDE-DPM-Solver++ (prediction="data") or SDE-DPM-Solver ("noise"), multistep, orders 1 to 3 (arXiv:2211.01095, B.1).

    Samples the reverse SDE instead of the ODE: fresh noise at every step, so `flowjax.sample` needs a key. Arguments as in
    `dpm_solver_pp`; the grid must decrease. The orders are those of the deterministic part: with third_order="diffusers"
    (what its "sde-dpmsolver++" of order 3 does, data prediction only) that is order 1. With few steps order 2 in the noise
    form overshoots by large factors on VP paths (about 90 from data of unit size at 6 steps): prefer data there.
    """
    name = "plans.dpm_solver_sde"
    grid = grids.check(grid, name, decreasing=True)
    check_choice(
        name, "third_order", third_order, SDE_THIRD_ORDERS if prediction == "data" else THIRD_ORDERS
    )
    check_choice(name, "variant", variant, VARIANTS)
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_order(name, order, 3, len(grid) - 1)
    return _multistep(
        name, schedule, grid, order, variant=variant, third_order=third_order, prediction=prediction, final=final,
        stochastic=True,
    )  # fmt: skip


def _multistep(
    name, schedule, grid, order, *, variant, third_order, prediction, final, warm=False, stochastic=False
):  # fmt: skip
    lambdas, orders = _settle(name, schedule, grid, final, order)
    rows = Builder(name, schedule)
    nodes = []  # (log-SNR, row) of the evaluations that may be reused, newest first
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        if not np.isfinite(lambdas[i]):
            _first_order_step(rows, t0, t1, prediction, stochastic)
            continue
        nodes.insert(0, (lambdas[i], len(rows)))
        count = min(orders[i], len(nodes))
        if warm and len(nodes) == 1 and orders[i] > 1:
            middle = _inner_times(schedule, lambdas[i], lambdas[i + 1], 2)
            _block(rows, schedule, (t0, *middle, t1), variant=variant, prediction=prediction)
        elif not np.isfinite(lambdas[i + 1]):
            _first_order_step(rows, t0, t1, prediction, stochastic)
        else:
            decay, gain, argument, noise = step_terms(schedule, t0, t1, prediction, stochastic)
            taus = [(lam - lambdas[i]) / (lambdas[i + 1] - lambdas[i]) for lam, _ in nodes[:count]]
            weights = step_weights(argument, taus, variant=variant, third_order=third_order)
            b = {row: gain * w for (_, row), w in zip(nodes, weights, strict=False)}
            rows.row(t0, t1, kind=prediction, a=decay, b=b, s=noise)
        del nodes[2:]
    return rows.build()


def _first_order_step(rows, t0, t1, prediction="data", stochastic=False):
    kind, decay, weight, noise = first_order_row(
        rows.schedule, t0, t1, prediction, stochastic=stochastic
    )
    rows.row(t0, t1, kind=kind, a=decay, b={len(rows): weight}, s=noise)


def _inner_times(schedule, lambda0, lambda1, order):
    fractions = np.array(DEFAULT_FRACTIONS[order])
    return (
        schedule.time_of_log_snr(lambda0 + fractions * (lambda1 - lambda0))
        if order > 1
        else fractions
    )


def singlestep(schedule, blocks, *, variant="midpoint", prediction="data", stage="taylor"):
    """DPM-Solver(++) with its evaluations exactly where `blocks` says: what `method="singlestep"` and the peers reduce to.

    Args:
      schedule: the path.
      blocks: one tuple of times a step, (t0, stages..., t1), with no, one or two stages: orders 1, 2, 3. Each block
        begins where the one before ends. Order 3 needs the second stage at 2/3 of the step in log-SNR if
        variant="midpoint"; elsewhere it is of order 2.
      variant: of the last update of a block, "midpoint" (for order 3: only the second stage counts) or "taylor".
      prediction: "data" or "noise".
      stage: rule of the second stage of order 3, "taylor" (the papers) or "midpoint" (diffusers).
    """
    name = "plans.singlestep"
    check_choice(name, "variant", variant, VARIANTS)
    check_choice(name, "stage", stage, VARIANTS)
    rows, end = Builder(name, schedule), None
    for block in blocks:
        grids.check(block, name)
        if len(block) > 4:
            raise ValueError(
                f"{name}: a block of {len(block)} times; wanted (t0, at most two stages, t1)."
            )
        infinite = [t for t in block if not np.isfinite(schedule.log_snr(t))]
        if infinite and len(block) > 2:
            raise ValueError(
                f"{name}: a block of order {len(block) - 1} touches t = {infinite[0]:g}, where log-SNR is infinite; give that "
                "block no stages: (t0, t1)."
            )
        if end is not None and block[0] != end:
            raise ValueError(
                f"{name}: a block begins at t = {block[0]:g} but the one before ends at t = {end:g}."
            )
        end = block[-1]
        _block(rows, schedule, block, variant=variant, prediction=prediction, stage=stage)
    return rows.build()


def _block(rows, schedule, times, *, variant, prediction, stage="taylor"):
    """Rows of one singlestep block; `times` as in `singlestep`."""
    first, (t0, t1) = len(rows), (times[0], times[-1])
    lambdas = schedule.log_snr(np.array(times))
    if len(times) == 2 and not np.all(np.isfinite(lambdas)):
        return _first_order_step(rows, t0, t1, prediction)
    for k in range(1, len(times)):
        last = k == len(times) - 1
        decay, gain, argument, _ = step_terms(schedule, t0, times[k], prediction)
        used = [0, k - 1] if k > 1 else [0]  # the newest stage and the start of the step
        rule = variant if last else stage
        if last and k == 3:
            used, rule = ([0, 2], "taylor") if variant == "midpoint" else ([0, 1, 2], "taylor")
        taus = [(lambdas[j] - lambdas[0]) / (lambdas[k] - lambdas[0]) for j in used]
        weights = gain * step_weights(argument, taus, variant=rule)
        weights = {first + j: w for j, w in zip(used, weights, strict=True)}
        if last:
            rows.row(times[k - 1], t1, kind=prediction, a=decay, b=weights)
        else:
            rows.row(times[k - 1], times[k], kind=prediction, c=decay, d=weights, ends_step=False)


def ddim(schedule, grid, eta=0.0):
    """DDIM (arXiv:2010.02502, eq. 12): deterministic at eta = 0, ancestral (DDPM) sampling at eta = 1.

    The noise weight is eta sigma1 sqrt(1 - exp(-2h)), which is the paper's eq. 16 on variance-preserving paths. An
    increasing grid inverts data to noise (eta = 0 only).
    """
    name = "plans.ddim"
    grid = grids.check(grid, name, decreasing=eta > 0)
    if not 0 <= eta <= 1:
        raise ValueError(
            f"{name}: eta={eta!r}; wanted a number from 0 (deterministic) to 1 (ancestral)."
        )
    rows = Builder(name, schedule)
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        alpha0, sigma0, alpha1, sigma1 = (
            schedule.alpha(t0),
            schedule.sigma(t0),
            schedule.alpha(t1),
            schedule.sigma(t1),
        )
        if eta == 0 or sigma0 == 0:
            _first_order_step(rows, t0, t1)
            continue
        ratio = alpha0 * sigma1 / (sigma0 * alpha1)  # exp(-h)
        noise = eta * sigma1 * np.sqrt(1 - ratio**2)
        decay = (
            sigma1 / sigma0 * np.sqrt(1 - eta**2 + (eta * ratio) ** 2)
        )  # sqrt(sigma1^2 - noise^2)/sigma0
        rows.row(t0, t1, kind="data", a=decay, b={len(rows): alpha1 - alpha0 * decay}, s=noise)
    return rows.build()


def unipc(schedule, grid, order, *, corrector=True, variant="bh2", prediction="data", final="auto"):
    """UniPC (arXiv:2302.04867): multistep predictor of order p, corrector of order p + 1 that costs no evaluation.

    The evaluation at the predicted state is used twice: to redo the step that led there with one more node, and to take
    the next one. The network never sees the corrected state.

    Args:
      schedule, grid: as in `dpm_solver_pp`.
      order: 1, 2 or 3, of the predictor.
      corrector: False leaves the predictor alone (UniP).
      variant: "bh2" or "bh1", the function B(h) of the paper; it matters only where the paper fixes a coefficient to 1/2
        (predictor of order 2, corrector of order 1).
      prediction: "data" or "noise".
      final: as in `dpm_solver_pp`; "sana" is UniPC's own rule.
    """
    name = "plans.unipc"
    grid = grids.check(grid, name)
    check_choice(name, "variant", variant, ("bh1", "bh2"))
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_order(name, order, 3, len(grid) - 1)
    rule = {"bh1": "bh1", "bh2": "midpoint"}[variant]
    lambdas, orders = _settle(name, schedule, grid, final, order)
    rows, nodes, correction = Builder(name, schedule), [], None
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        row = len(rows)
        # Correct the step that led here: base is still the corrected state where that step began.
        a, b = correction(row) if correction else (1.0, {})
        correction, finite = None, np.isfinite(lambdas[i])
        if not (finite and np.isfinite(lambdas[i + 1])):
            kind, decay, weight, _ = first_order_row(schedule, t0, t1, prediction)
            predict = {row: weight}
        else:
            kind = prediction
            decay, gain, argument, _ = step_terms(schedule, t0, t1, prediction)
            nodes.insert(0, (lambdas[i], row))
            count = min(orders[i], len(nodes))
            used = nodes[:count]
            taus = [(lam - lambdas[i]) / (lambdas[i + 1] - lambdas[i]) for lam, _ in used]
            weights = gain * step_weights(argument, taus, variant=rule)
            predict = {r: w for (_, r), w in zip(used, weights, strict=True)}
            if corrector and i + 1 < len(orders):
                weights = gain * step_weights(argument, [*taus, 1.0], variant=rule)
                old = {r: w for (_, r), w in zip(used, weights, strict=False)}
                correction = _corrector(decay, old, weights[-1])
        if correction:
            rows.row(t0, t1, kind=kind, a=a, b=b, c=decay, d=predict)
        else:  # the prediction is the accepted state
            folded = {r: decay * b.get(r, 0.0) + predict.get(r, 0.0) for r in {*b, *predict}}
            rows.row(t0, t1, kind=kind, a=a * decay, b=folded)
        del nodes[DEPTH - 2 :]
    return rows.build()


def _corrector(decay, old, newest):
    return lambda row: (decay, {**old, row: newest})


def deis(schedule, grid, order, *, variable="t", final="none"):
    """DEIS (arXiv:2204.13902, eq. 14): the noise prediction as a polynomial, inside the exact integral in rho = sigma/alpha.

        x1 = alpha1/alpha0 x0 + alpha1 int_{rho0}^{rho1} noise drho

    Args:
      schedule, grid: as in `dpm_solver_pp`.
      order: 1 to 4 (number of evaluations in the polynomial).
      variable: of the polynomial, "t" (tAB-DEIS, the paper's best) or "rho". In log-SNR it would be DPM-Solver.
      final: as in `dpm_solver_pp`. Nothing is singular at t = 0 here, so the default does not lower the order.

    A step from pure noise (alpha = 0) has order 1, and its evaluation is not reused: rho is infinite there. So has a step
    over which a discrete schedule holds rho = 0.
    """
    name = "plans.deis"
    grid = grids.check(grid, name)
    check_choice(name, "variable", variable, ("t", "rho"))
    check_order(name, order, 4, len(grid) - 1)
    caps = order_caps(
        name, "none" if final == "auto" else final, len(grid) - 1, order, grid[-1] == 0
    )
    rows, nodes = Builder(name, schedule), []
    with np.errstate(divide="ignore"):
        rho = schedule.sigma(grid) / schedule.alpha(grid)
    place = grid if variable == "t" else rho
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        if not np.isfinite(rho[i]) or not np.isfinite(rho[i + 1]) or rho[i] == rho[i + 1]:
            _first_order_step(rows, t0, t1)
            continue
        nodes = [(place[i], len(rows)), *nodes][: caps[i]]
        taus = [(y - place[i]) / (place[i + 1] - place[i]) for y, _ in nodes]
        alpha0, alpha1 = schedule.alpha(t0), schedule.alpha(t1)
        moments = _rho_moments(schedule, t0, t1, rho[i], rho[i + 1], len(nodes), variable)
        weights = alpha1 * interpolation_weights(taus, moments)
        b = {row: w for (_, row), w in zip(nodes, weights, strict=True)}
        rows.row(t0, t1, kind="noise", a=alpha1 / alpha0, b=b)
        nodes = nodes[:3]
    return rows.build()


def _rho_moments(schedule, t0, t1, rho0, rho1, count, variable):
    """int tau^k drho over the step, k < count. In t by parts, rho1 - int rho k tau^(k-1) dtau, so rho needs no derivative."""
    powers = np.arange(1, count)
    if variable == "rho":
        return (rho1 - rho0) / np.arange(1, count + 1)
    # tanh-sinh quadrature: rho has a pole at t = 1, or a root at t = 0, just beyond the first and last steps.
    u = np.linspace(-3.2, 3.2, 129)
    tau = 1 / (1 + np.exp(-np.pi * np.sinh(u)))
    weights = np.pi * np.cosh(u) * tau * (1 - tau) * (u[1] - u[0])
    t = t0 + tau * (t1 - t0)
    rho = schedule.sigma(t) / schedule.alpha(t)
    inner = [np.sum(weights * rho * k * tau ** (k - 1)) for k in powers]
    return np.append(rho1 - rho0, rho1 - np.array(inner))
