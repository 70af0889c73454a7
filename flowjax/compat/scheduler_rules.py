"""The table of the scheduler classes of diffusers: what each one does, as data.

A class has rules for the flow, for VP networks or for both; a config chooses between the two by
its options. `diffusers.diffusers_plan` reads this table and never compares the name of a class.
"""

from collections.abc import Callable
from typing import NamedTuple

from flowjax.compat import scheduler_solvers as solvers
from flowjax.compat import scheduler_times as times
from flowjax.compat.scheduler_config import Options
from flowjax.compat.scheduler_solvers import Request
from flowjax.compat.scheduler_times import FlowRules, VPRules
from flowjax.plans import Plan


class SchedulerRules(NamedTuple):
    """What one class does.

    Attributes:
      make_plan: request -> plan, the call of `flowjax.plans`.
      flow: where it evaluates the network on the linear path; None if it has no flows.
      vp: where it evaluates a discrete VP network; None if it has no VP networks.
      evaluations_per_step: of every step but the last one, which has a single evaluation.
    """

    make_plan: Callable[[Request], Plan]
    flow: FlowRules | None = None
    vp: VPRules | None = None
    evaluations_per_step: int = 1


# When the result lies above t = 0.


def _never(options: Options, peers: bool = False) -> bool:
    return False


def _always(options: Options, peers: bool = False) -> bool:
    return True


def _with_sigma_min(options: Options, peers: bool = False) -> bool:
    return options["final_sigmas_type"] == "sigma_min"


def _only_peers(options: Options, peers: bool) -> bool:
    return peers


def _without_alpha_one(options: Options) -> bool:
    return not options["set_alpha_to_one"]


# The rules that several classes share. A class below replaces the fields in which it differs.

# These classes have flows only, and give the network the exact time.
_FLOW_MATCH = FlowRules(
    base=times.flow_match_base,
    respace=times.respace_times,
    shift_option="shift",
    truncates_labels=False,
    stops_early=_never,
)
# These classes were made for VP networks, and take flows as an option.
_DPM_FLOW = FlowRules(
    base=times.dpm_base,
    respace=times.respace_vp_ratios,
    shift_option="flow_shift",
    truncates_labels=True,
    stops_early=_with_sigma_min,
)
# Their respacing covers all training steps, and their labels are whole training steps.
_MULTISTEP_VP = VPRules(
    includes_last=False,
    keeps_fractions=False,
    respaces_own_range=False,
    respaced_index=times.whole_index,
    stops_early=_with_sigma_min,
)
# These use no history of evaluations, and can place an evaluation between two training steps.
_ONE_STEP_VP = VPRules(
    includes_last=True,
    keeps_fractions=True,
    respaces_own_range=True,
    respaced_index=times.snapped_index,
    stops_early=_never,
)

# The keys are those of `scheduler_config.DEFAULTS`.
RULES = {
    "FlowMatchEuler": SchedulerRules(solvers.euler, flow=_FLOW_MATCH),
    "FlowMatchHeun": SchedulerRules(solvers.heun, flow=_FLOW_MATCH, evaluations_per_step=2),
    "DPMSolverMultistep": SchedulerRules(
        solvers.dpm_multistep,
        flow=_DPM_FLOW,
        vp=_MULTISTEP_VP._replace(respaced_index=times.dpm_multistep_index),
    ),
    "DPMSolverSinglestep": SchedulerRules(
        solvers.dpm_singlestep,
        flow=_DPM_FLOW,
        vp=_MULTISTEP_VP,
    ),
    "UniPCMultistep": SchedulerRules(
        solvers.unipc,
        # Log-SNR is infinite at t = 1, and diffusers avoids it; plans.unipc needs no gap.
        flow=_DPM_FLOW._replace(base=times.unipc_base, peers_start_gap=1e-6),
        vp=_MULTISTEP_VP,
    ),
    "DEISMultistep": SchedulerRules(
        solvers.deis,
        # In diffusers this class has no final_sigmas_type, and its result lies above t = 0. On a
        # flow the step to t = 0 is well defined, so the corrected grid has it.
        flow=_DPM_FLOW._replace(stops_early=_only_peers),
        vp=_MULTISTEP_VP._replace(stops_early=_always),
    ),
    "DDIM": SchedulerRules(
        solvers.ddim,
        # Its result lies at the first training step unless alpha is set to 1 there, that is t = 0.
        vp=_ONE_STEP_VP._replace(keeps_fractions=False, stops_early=_without_alpha_one),
    ),
    "Euler": SchedulerRules(
        solvers.vp_euler,
        vp=_ONE_STEP_VP._replace(stops_early=_with_sigma_min),
    ),
    # This class has no final_sigmas_type, and its result always lies at t = 0.
    "Heun": SchedulerRules(solvers.vp_heun, vp=_ONE_STEP_VP, evaluations_per_step=2),
}
