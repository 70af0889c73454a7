"""The papers' methods as loops in numpy, in their own symbols.

They use phi functions and divided differences, and no moments, so that they share no formula with
the plans that they are compared with.
"""

import numpy as np

from tests.plans.problems import START, coordinates, predictions, time_at


def phis(h, data):
    """phi_1, phi_2, phi_3 of DPM-Solver, with -h for the data prediction.

    arXiv:2206.00927, appendix B.3.
    """
    phi1 = np.expm1(-h) if data else np.expm1(h)
    phi2 = phi1 / h + 1 if data else phi1 / h - 1
    return phi1, phi2, phi2 / h - 1 / 2


class Loop:
    """What the loops share: first-order terms and signs of the data (++) and noise forms."""

    def __init__(self, path, prediction):
        self.path = path
        self.data = prediction == "data"

    def evaluate(self, x, t):
        data, noise = predictions(self.path, x, t)
        return data if self.data else noise

    def step(self, t0, t1):
        """(decay, gain, h): x1 = decay x0 - gain phi_1 m for order 1."""
        alpha0, sigma0, start = coordinates(self.path, t0)
        alpha1, sigma1, end = coordinates(self.path, t1)
        if self.data:
            return sigma1 / sigma0, alpha1, end - start
        return alpha1 / alpha0, sigma1, end - start

    def first(self, x, m, t0, t1):
        # x1 = decay x0 - gain phi_1 m
        decay, gain, h = self.step(t0, t1)
        phi1, _, _ = phis(h, self.data)
        return decay * x - gain * phi1 * m

    def second(self, x, m, slope, t0, t1, variant):
        """Second-order update from the slope D (per step) of the prediction."""
        _, gain, h = self.step(t0, t1)
        phi1, phi2, _ = phis(h, self.data)
        if variant == "midpoint":
            return self.first(x, m, t0, t1) - gain * phi1 * slope / 2
        sign = 1 if self.data else -1
        return self.first(x, m, t0, t1) + sign * gain * phi2 * slope

    def third(self, x, m, slope, bend, t0, t1):
        # + gain phi_2 D_1 - gain phi_3 D_2 (noise form: both minus)
        _, gain, h = self.step(t0, t1)
        _, phi2, phi3 = phis(h, self.data)
        sign = 1 if self.data else -1
        return self.first(x, m, t0, t1) + sign * gain * phi2 * slope - gain * phi3 * bend


def multistep(path, prediction, grid, order, variant, third_order):
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2) and 3M; the states."""
    loop = Loop(path, prediction)
    kappa = {"published": 1, "exact": 2}[third_order]  # 1 in every public code, 2 where it is right
    lam = coordinates(path, grid)[2]
    x, ms, states = START, [], [START]
    for i in range(len(grid) - 1):
        t0, t1, h = grid[i], grid[i + 1], lam[i + 1] - lam[i]
        ms.append(loop.evaluate(x, t0))
        reached = min(order, i + 1)
        # Divided differences of the last two and three predictions
        if reached > 1:
            r0 = (lam[i] - lam[i - 1]) / h
            a = (ms[-1] - ms[-2]) / r0
        if reached > 2:
            r1 = (lam[i - 1] - lam[i - 2]) / h
            b = (ms[-2] - ms[-3]) / r1
        # The update of the order that the history allows
        if reached == 1:
            x = loop.first(x, ms[-1], t0, t1)
        elif reached == 2:
            x = loop.second(x, ms[-1], a, t0, t1, variant)
        else:
            slope = a + r0 / (r0 + r1) * (a - b)
            bend = kappa * (a - b) / (r0 + r1)
            x = loop.third(x, ms[-1], slope, bend, t0, t1)
        states.append(x)
    return np.array(states)


def singlestep(path, prediction, grid, order, variant):
    """DPM-Solver++ 2S and DPM-Solver-3, with r = 1/2 and 1/3, 2/3; the states.

    arXiv:2211.01095, algorithm 1, and arXiv:2206.00927, algorithm 2.
    """
    loop = Loop(path, prediction)
    x, states = START, [START]
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        if order == 1:
            x = loop.first(x, loop.evaluate(x, t0), t0, t1)
        elif order == 2:
            x = _second_singlestep(loop, x, t0, t1, variant)
        else:
            x = _third_singlestep(loop, x, t0, t1, variant)
        states.append(x)
    return np.array(states)


def _second_singlestep(loop, x, t0, t1, variant):
    # The middle of the step in log-SNR
    start, h = coordinates(loop.path, t0)[2], loop.step(t0, t1)[2]
    s = time_at(loop.path, start + h / 2)
    m0 = loop.evaluate(x, t0)
    m1 = loop.evaluate(loop.first(x, m0, t0, s), s)
    return loop.second(x, m0, (m1 - m0) / (1 / 2), t0, t1, variant)


def _third_singlestep(loop, x, t0, t1, variant):
    start, h = coordinates(loop.path, t0)[2], loop.step(t0, t1)[2]
    r1, r2 = 1 / 3, 2 / 3
    s1, s2 = time_at(loop.path, start + r1 * h), time_at(loop.path, start + r2 * h)
    m0 = loop.evaluate(x, t0)
    m1 = loop.evaluate(loop.first(x, m0, t0, s1), s1)
    # The second substep has the slope of the first one.
    _, gain, inner = loop.step(t0, s2)
    _, phi2, _ = phis(inner, loop.data)
    sign = 1 if loop.data else -1
    u2 = loop.first(x, m0, t0, s2) + sign * r2 / r1 * gain * phi2 * (m1 - m0)
    m2 = loop.evaluate(u2, s2)
    # Slopes to both substeps; "midpoint" uses the second one alone.
    d1, d2 = (m1 - m0) / r1, (m2 - m0) / r2
    if variant == "midpoint":
        return loop.second(x, m0, d2, t0, t1, "taylor")
    slope = (r2 * d1 - r1 * d2) / (r2 - r1)
    bend = 2 * (d2 - d1) / (r2 - r1)
    return loop.third(x, m0, slope, bend, t0, t1)


def unipc(path, prediction, grid, order, variant, corrector):
    """UniPC (arXiv:2302.04867, algorithms 1 and 2) with its B(h) and its linear system.

    Returns the states where it evaluates.
    """
    loop = Loop(path, prediction)
    lam = coordinates(path, grid)[2]
    x, states, ms = START, [START], [loop.evaluate(START, grid[0])]
    for i in range(len(grid) - 1):
        p = min(order, i + 1)
        decay, gain, h = loop.step(grid[i], grid[i + 1])
        hh = -h if loop.data else h
        scale = hh if variant == "bh1" else np.expm1(hh)  # B(h)
        r = np.array([(lam[i - k] - lam[i]) / h for k in range(1, p)] + [1.0])
        rows, b = _unipc_system(r, hh, scale, p)
        linear = decay * x - gain * np.expm1(hh) * ms[-1]
        # Predict, with one node less.
        differences = [(ms[-1 - k] - ms[-1]) / r[k - 1] for k in range(1, p)]
        rho = [0.5] if p == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1])
        predicted = linear - gain * scale * _weighted(rho, differences)
        states.append(predicted)
        # Correct, with the evaluation at the predicted state.
        ms.append(loop.evaluate(predicted, grid[i + 1]))
        differences.append(ms[-1] - ms[-2])
        rho = [0.5] if p == 1 else np.linalg.solve(rows, b)
        corrected = linear - gain * scale * _weighted(rho, differences)
        x = corrected if corrector else predicted
    return np.array(states)


def _unipc_system(r, hh, scale, p):
    """The matrix and the right-hand side of the paper's linear system for p nodes."""
    phi, factorial, rows, b = np.expm1(hh) / hh - 1, 1, [], []
    for k in range(1, p + 1):
        rows.append(r ** (k - 1))
        b.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    return np.array(rows), np.array(b)


def _weighted(weights, differences):
    return sum(w * d for w, d in zip(weights, differences, strict=True))


def sde(path, prediction, grid, order, variant, noise):
    """SDE-DPM-Solver(++) of orders 1 and 2 (arXiv:2211.01095, appendix B.1); the states."""
    loop = Loop(path, prediction)
    lam = coordinates(path, grid)[2]
    x, ms, states = START, [], [START]
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        decay, gain, h = loop.step(t0, t1)
        ms.append(loop.evaluate(x, t0))
        # D_1, per step in log-SNR
        slope = (ms[-1] - ms[-2]) / ((lam[i] - lam[i - 1]) / h) if order == 2 and i else 0
        if loop.data:
            first = 1 - np.exp(-2 * h)
            second = first / 2 if variant == "midpoint" else first / (-2 * h) + 1
            x = decay * np.exp(-h) * x + gain * first * ms[-1] + gain * second * slope
            sigma1 = coordinates(path, t1)[1]
            x = x + sigma1 * np.sqrt(1 - np.exp(-2 * h)) * noise[i]
        else:
            first = np.expm1(h)
            second = first if variant == "midpoint" else 2 * (first / h - 1)
            x = decay * x - 2 * gain * first * ms[-1] - gain * second * slope
            x = x + gain * np.sqrt(np.expm1(2 * h)) * noise[i]
        states.append(x)
    return np.array(states)
