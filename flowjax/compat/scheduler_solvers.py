"""The call of `flowjax.plans` that each scheduler class of diffusers makes."""

import itertools
from typing import NamedTuple

import numpy as np

from flowjax import plans
from flowjax.compat.scheduler_config import Options
from flowjax.compat.scheduler_times import Evaluations
from flowjax.plans import Plan
from flowjax.schedules import Schedule

HIGHEST_ORDER = 3
FEW_STEPS = 15  # below this number of steps lower_order_final acts


class Request(NamedTuple):
    """All that the plan of one config depends on.

    Attributes:
      options: as `scheduler_config.read` returns them.
      schedule: the path of the config.
      evaluations: where the class evaluates the network.
      steps: number of inference steps of the complete grid.
      eta: of DDIM.
      third_order: the form of the third order in the DPM-Solver classes.
      peers: reproduce the grid of diffusers where it differs from the corrected one.
    """

    options: Options
    schedule: Schedule
    evaluations: Evaluations
    steps: int
    eta: float
    third_order: str
    peers: bool

    @property
    def grid(self) -> np.ndarray:
        """The times of the accepted states, without a last step of no length."""
        times = self.evaluations.times
        if self.evaluations.last_step_is_empty:
            return times
        return np.append(times, self.evaluations.end)

    @property
    def order(self) -> int:
        """The order of a multistep method, which cannot exceed the number of steps."""
        return min(self.options["solver_order"], len(self.grid) - 1)


def euler(request: Request) -> Plan:
    """FlowMatchEuler."""
    return plans.euler(request.grid)


def heun(request: Request) -> Plan:
    """FlowMatchHeun."""
    return plans.heun(request.grid)


def vp_euler(request: Request) -> Plan:
    """Euler: its step in sigma/alpha is that of DDIM."""
    return plans.ddim(request.schedule, request.grid)


def vp_heun(request: Request) -> Plan:
    """Heun: the trapezoidal rule in sigma/alpha."""
    return plans.heun(request.grid, schedule=request.schedule)


def ddim(request: Request) -> Plan:
    """DDIM; with the grid of diffusers a state need not lie where the next evaluation takes it."""
    schedule = request.schedule
    if not request.peers:
        return plans.ddim(schedule, request.grid, request.eta)

    times, end = request.evaluations.times, request.evaluations.end
    train = schedule.steps
    # Each step goes back by train//steps from its own index ...
    targets = times - (train // request.steps) / train
    below_first_step = targets < 0.5 / train
    targets = np.where(below_first_step, end, targets)
    # ... and the next evaluation takes the state to lie at its own time.
    assumed = np.append(times[1:], targets[-1])

    plan = None
    for t0, target, lies in zip(times, targets, assumed, strict=True):
        if target >= t0:
            continue
        step = plans.ddim(schedule, [t0, target], request.eta)
        step = step._replace(t_next=np.array([lies]))
        plan = step if plan is None else plans.concat(plan, step)
    return plan


def dpm_multistep(request: Request) -> Plan:
    """DPMSolverMultistep, as an ODE or an SDE."""
    # The names are "dpmsolver" and "dpmsolver++", with "sde-" before them for the SDE.
    algorithm = request.options["algorithm_type"]
    is_sde = algorithm.startswith("sde")
    solver = plans.dpm_solver_sde if is_sde else plans.dpm_solver_pp
    return solver(
        request.schedule,
        request.grid,
        request.order,
        third_order=request.third_order,
        variant=_variant(request.options),
        prediction=_prediction(algorithm),
        final=_final_orders(request),
    )


def dpm_singlestep(request: Request) -> Plan:
    """DPMSolverSinglestep: blocks of `solver_order` evaluations, and shorter ones at the end."""
    grid, options, evaluations = request.grid, request.options, request.evaluations
    sizes = _block_sizes(
        evaluations.count,
        options["solver_order"],
        options["lower_order_final"],
        options["final_sigmas_type"] == "zero",
    )
    # A run that begins inside a block takes the rest of it as a block of its own.
    skipped = evaluations.skipped
    while skipped:
        taken = min(skipped, sizes[0])
        skipped -= taken
        sizes[:1] = [sizes[0] - taken] if taken < sizes[0] else []
    if evaluations.last_step_is_empty and sizes.pop() > 1:
        raise ValueError(
            f"compat.diffusers_plan: the last block of {evaluations.count} steps would evaluate "
            "where it ends, since its last step has no length; take another number of steps, "
            "lower_order_final=True, or final_sigmas_type='zero'."
        )

    # The times of each block, its two ends included.
    ends = np.append(0, np.cumsum(sizes)).astype(int)
    blocks = [tuple(grid[i : j + 1]) for i, j in itertools.pairwise(ends)]
    variant = _variant(options)
    return plans.singlestep(
        request.schedule,
        blocks,
        variant=variant,
        substep_variant=variant,
        prediction=_prediction(options["algorithm_type"]),
    )


def _block_sizes(count, order, lowers_last, ends_at_zero):
    """Sizes of the blocks of `count` evaluations, in the order in which they are taken.

    diffusers lists an order for each evaluation, such as 1, 2, 3, 1, 2, 3, and a block begins
    wherever that list has a 1.
    """
    full_blocks, rest = divmod(count, order)
    sizes = [order] * full_blocks
    if rest:
        sizes.append(rest)
    if rest == 0 and order > 1 and (lowers_last or ends_at_zero):
        sizes[-1:] = [order - 1, 1]
    # A block of one evaluation is the only one that can end at t = 0, where log-SNR is infinite.
    elif ends_at_zero and sizes[-1] > 1:
        sizes[-1:] = [sizes[-1] - 1, 1]
    return sizes


def unipc(request: Request) -> Plan:
    """UniPCMultistep, with the corrector at every step or at none."""
    options, evaluations = request.options, request.evaluations
    if request.peers and evaluations.last_step_is_empty:
        raise ValueError(
            "compat.diffusers_plan: grid='peers' does not support UniPC with a last step of no "
            "length; keep grid='corrected'."
        )
    # The steps of the complete grid that a corrector follows.
    corrected = set(range(evaluations.skipped, evaluations.count - 1))
    disabled = corrected & set(options["disable_corrector"])
    if disabled and disabled != corrected:
        raise ValueError(
            f"compat.diffusers_plan: disable_corrector={options['disable_corrector']!r} switches "
            "the corrector off at some of the steps only; plans.unipc has it on at all steps ([]) "
            f"or off at all steps (list(range({evaluations.count})))."
        )
    final = "auto"
    if options["lower_order_final"]:
        # The step of order 1 is the last one, which the grid lacks where it has no length.
        final = (2,) if evaluations.last_step_is_empty else "sana"
    return plans.unipc(
        request.schedule,
        request.grid,
        request.order,
        corrector=not disabled,
        variant=options["solver_type"],
        prediction="data" if options["predict_x0"] else "noise",
        final=final,
    )


def deis(request: Request) -> Plan:
    """DEISMultistep: the noise as a polynomial in log(sigma/alpha).

    That is DPM-Solver in its "taylor" form with the exact third order.
    """
    return plans.dpm_solver_pp(
        request.schedule,
        request.grid,
        request.order,
        third_order="exact",
        variant="taylor",
        prediction="noise",
        final=_final_orders(request),
    )


def _variant(options):
    # The other solver_type, "heun", is the exact integral of the slope.
    return "midpoint" if options["solver_type"] == "midpoint" else "taylor"


def _prediction(algorithm):
    return "data" if algorithm.endswith("++") else "noise"


def _final_orders(request):
    """The highest orders of the last steps, in the form that `final` of `flowjax.plans` takes."""
    options, evaluations = request.options, request.evaluations
    lowers = options["lower_order_final"] and evaluations.count < FEW_STEPS
    ends_at_zero = request.grid[-1] == 0
    last_is_first_order = lowers or ends_at_zero or options.get("euler_at_final")
    orders = (
        2 if lowers else HIGHEST_ORDER,
        1 if last_is_first_order else HIGHEST_ORDER,
    )[-len(evaluations.times) :]
    # diffusers counts a last step of no length, and the grid does not have it.
    return orders[:-1] if evaluations.last_step_is_empty else orders
