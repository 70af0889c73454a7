"""The table of the scheduler classes of diffusers: what each one does, as data.

A class has rules for the flow, for VP networks or for both; a config chooses between the two by
its options. `diffusers.diffusers_plan` reads this table and never compares the name of a class.
"""

from collections.abc import Callable
from typing import NamedTuple

from flowjax.compat import scheduler_flow_times as flow_times
from flowjax.compat import scheduler_solvers as solvers
from flowjax.compat import scheduler_vp_times as vp_times
from flowjax.compat.scheduler_config import Options
from flowjax.compat.scheduler_flow_times import FlowRules
from flowjax.compat.scheduler_lists import Accepted
from flowjax.compat.scheduler_solvers import Request
from flowjax.compat.scheduler_times import AT_FIRST_BETA, AT_LAST_EVALUATION, AT_ZERO
from flowjax.compat.scheduler_vp_times import VPRules
from flowjax.plans import Plan


class SchedulerRules(NamedTuple):
    """What one class does.

    Attributes:
      make_plan: request -> plan, the call of `flowjax.plans`.
      flow: where it evaluates the network on the linear path; None if it has no flows.
      vp: where it evaluates a discrete VP network; None if it has no VP networks.
      evaluations_per_step: of every step but the last one, which has a single evaluation.
      accepted: the lists of times that it takes from the caller.
    """

    make_plan: Callable[[Request], Plan]
    flow: FlowRules | None = None
    vp: VPRules | None = None
    evaluations_per_step: int = 1
    accepted: Accepted = Accepted()


# Where the result lies: functions (options, peers, is_respaced).


def _at_zero(options: Options, peers: bool, is_respaced: bool) -> str:
    return AT_ZERO


def _of_betas(options: Options, peers: bool, is_respaced: bool) -> str:
    # This is the first training step also after a respacing to another sigma_min.
    return AT_FIRST_BETA if options["final_sigmas_type"] == "sigma_min" else AT_ZERO


def _of_unipc(options: Options, peers: bool, is_respaced: bool) -> str:
    if options["final_sigmas_type"] == "zero":
        return AT_ZERO
    # The one class that repeats its last sigma.
    repeats = is_respaced or options["use_flow_sigmas"]
    return AT_LAST_EVALUATION if repeats else AT_FIRST_BETA


def _of_deis_flow(options: Options, peers: bool, is_respaced: bool) -> str:
    # In diffusers this class has no final_sigmas_type, and its result lies above t = 0. On a flow
    # the step to t = 0 is well defined, so the corrected grid has it.
    return AT_LAST_EVALUATION if peers else AT_ZERO


def _of_deis(options: Options, peers: bool, is_respaced: bool) -> str:
    return AT_LAST_EVALUATION if is_respaced else AT_FIRST_BETA


def _of_ddim(options: Options, peers: bool, is_respaced: bool) -> str:
    # At t = 0 alpha is 1.
    return AT_ZERO if options["set_alpha_to_one"] else AT_FIRST_BETA


# The rules that several classes share. A class below replaces the fields in which it differs.

# These classes have flows only, and give the network the exact time.
_FLOW_MATCH = FlowRules(
    base=flow_times.flow_match_base,
    respace=flow_times.respace_times,
    shift_option="shift",
    truncates_labels=False,
    result=_at_zero,
    peers_respacings=("karras", "exponential", "beta"),
)
# These classes were made for VP networks, and take flows as an option.
_DPM_FLOW = FlowRules(
    base=flow_times.dpm_base,
    respace=flow_times.respace_vp_ratios,
    shift_option="flow_shift",
    truncates_labels=True,
    result=_of_betas,
)
# Their respacing covers all training steps, and their labels are whole training steps.
_MULTISTEP_VP = VPRules(
    includes_last=False,
    keeps_fractions=False,
    respaces_own_range=False,
    respaced_index=vp_times.whole_index,
    result=_of_betas,
)
# These use no history of evaluations, and can place an evaluation between two training steps.
_ONE_STEP_VP = VPRules(
    includes_last=True,
    keeps_fractions=True,
    respaces_own_range=True,
    respaced_index=vp_times.snapped_index,
    result=_at_zero,
)
_WHOLE_TIMESTEPS = Accepted(timesteps=True, whole_timesteps=True)

# The keys are those of `scheduler_config.DEFAULTS`.
RULES = {
    "FlowMatchEuler": SchedulerRules(
        solvers.euler,
        flow=_FLOW_MATCH,
        accepted=Accepted(sigmas=True, timesteps=True, both=True),
    ),
    "FlowMatchHeun": SchedulerRules(solvers.heun, flow=_FLOW_MATCH, evaluations_per_step=2),
    "DPMSolverMultistep": SchedulerRules(
        solvers.dpm_multistep,
        flow=_DPM_FLOW,
        vp=_MULTISTEP_VP._replace(respaced_index=vp_times.dpm_multistep_index),
        accepted=_WHOLE_TIMESTEPS,
    ),
    "DPMSolverSinglestep": SchedulerRules(
        solvers.dpm_singlestep,
        flow=_DPM_FLOW,
        vp=_MULTISTEP_VP,
        accepted=_WHOLE_TIMESTEPS,
    ),
    "UniPCMultistep": SchedulerRules(
        solvers.unipc,
        # Log-SNR is infinite at t = 1, and diffusers avoids it; plans.unipc needs no gap.
        flow=_DPM_FLOW._replace(
            base=flow_times.unipc_base,
            result=_of_unipc,
            peers_start_gap=1e-6,
            peers_respacings=("karras",),
        ),
        vp=_MULTISTEP_VP._replace(result=_of_unipc),
        accepted=Accepted(sigmas=True),
    ),
    "DEISMultistep": SchedulerRules(
        solvers.deis,
        flow=_DPM_FLOW._replace(result=_of_deis_flow),
        vp=_MULTISTEP_VP._replace(result=_of_deis),
    ),
    "DDIM": SchedulerRules(
        solvers.ddim,
        vp=_ONE_STEP_VP._replace(keeps_fractions=False, result=_of_ddim),
    ),
    "Euler": SchedulerRules(
        solvers.vp_euler,
        vp=_ONE_STEP_VP._replace(result=_of_betas),
        accepted=Accepted(sigmas=True, timesteps=True, sigmas_name_the_end=True),
    ),
    # This class has no final_sigmas_type, and its result always lies at t = 0.
    "Heun": SchedulerRules(
        solvers.vp_heun,
        vp=_ONE_STEP_VP,
        evaluations_per_step=2,
        accepted=Accepted(timesteps=True),
    ),
}
