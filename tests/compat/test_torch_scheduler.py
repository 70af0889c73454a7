"""The scheduler in PyTorch: its reader without torch, and each plan against our sampler."""

import ast
import importlib.util
import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import compat, grids, plans
from flowjax.compat import diffusers_schedule
from flowjax.schedules import Linear, VPDiscrete, as_velocity, of_betas, to_velocity

FILE = pathlib.Path(compat.__file__).parent / "torch_scheduler.py"
GRID = grids.uniform(6, shift=3.0)
FLOW, VP = Linear(), of_betas("linear", 1000, 1e-4, 0.02)
DDIM = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
# A scheduler whose labels are rounded, since the respacing places evaluations between the steps
KARRAS = {
    **{key: value for key, value in DDIM.items() if key not in ("clip_sample", "set_alpha_to_one")},
    "_class_name": "DPMSolverMultistepScheduler",
    "solver_order": 3,
    "use_karras_sigmas": True,
}
KINDS = {"epsilon": "noise", "v_prediction": "v", "sample": "data", "flow_prediction": "velocity"}


def load_file(**modules):
    """The file as a user has it, a module of its own, with `modules` in the place of others."""
    spec = importlib.util.spec_from_file_location("torch_scheduler_of_a_user", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, found in modules.items():
            patch.setitem(sys.modules, name, found)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reader():
    """The file where neither torch nor diffusers can be used; its tables need no tensors."""
    return load_file(torch=types.ModuleType("torch"), diffusers=None)


def saved(folder, plan, **facts):
    plans.save(folder / "plan.json", plan, **facts)
    return folder / "plan.json"


# Without torch.


def test_the_file_imports_torch_and_diffusers_only():
    names = set()
    for node in ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"torch", "diffusers"}


PLANS = {
    "euler": plans.euler(GRID),
    "rk4": plans.rk4(GRID),
    "heun": plans.heun(GRID),
    "adams-bashforth 3": plans.adams_bashforth(GRID, 3, start="heun"),
    "multistep 2": plans.dpm_solver_pp(FLOW, GRID, 2),
    "exact multistep 3": plans.dpm_solver_pp(FLOW, GRID, 3, start="singlestep"),
    "singlestep 3": plans.dpm_solver_pp(FLOW, GRID, 3, method="singlestep"),
    "unipc 3": plans.unipc(FLOW, GRID, 3),
    "padded": plans.pad(plans.unipc(FLOW, GRID, 2), 9),
    "concat": plans.concat(plans.rk4(GRID[:3]), plans.dpm_solver_pp(FLOW, GRID[2:], 2)),
    "truncated labels": plans.with_labels(plans.euler(GRID), np.floor(1000 * GRID[:-1]) / 1000),
    "stochastic": plans.dpm_solver_sde(FLOW, GRID, 2),
    "ancestral": plans.ddim(FLOW, GRID, eta=1.0),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_reader_gives_the_rows_to_the_last_bit_without_padding(reader, tmp_path, name):
    plan = PLANS[name]
    content, rows = reader.read_plan(saved(tmp_path, plan, network="toy"))
    assert content["facts"] == {"network": "toy"} and len(rows) == plan.nfe
    assert reader.Row._fields == plan._fields
    for column, values in plan._asdict().items():
        read = np.array([getattr(row, column) for row in rows])
        assert read.tobytes() == np.ascontiguousarray(values[: plan.nfe]).tobytes(), column
    # The content that a config carries is read as the file is.
    assert reader.read_plan(content)[1] == rows


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.update(format="other"), "is no plan"),
        (lambda content: content.update(version=2), "has version 2 of the format"),
        (lambda content: content["columns"].pop("q"), r"lacks the columns \['q'\]"),
        (lambda content: content["columns"].update(e=[0]), r"unknown ones \['e'\]"),
        (lambda content: content["columns"]["a"].pop(), "column a does not hold 1 finite"),
        (lambda content: content["columns"]["b"][2].pop(), "column b does not hold 4 finite"),
        (lambda content: content["columns"]["q"].__setitem__(0, True), "column q does not hold"),
        (lambda content: content["columns"]["q"].__setitem__(0, float("nan")), "column q does"),
        (lambda content: content["columns"]["counted"].__setitem__(0, 1), "column counted does"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(reader, tmp_path, change, message):
    path = saved(tmp_path, PLANS["multistep 2"])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        reader.read_plan(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="no complete JSON file"):
        reader.read_plan(path)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_path_and_weights_are_those_of_the_discrete_schedule(reader, betas, kind):
    config = {**DDIM, "beta_schedule": betas}
    schedule = diffusers_schedule(config)
    path = reader.VPPath(reader.betas_of(config))
    # Nodes, places between them, and times before the first node
    times = np.concatenate([[0.0003, 0.001, 0.0015, 0.5, 1.0], np.linspace(0.002, 0.999, 50)])
    for t in times:
        found = path.alpha_sigma(t)
        np.testing.assert_allclose(found, [schedule.alpha(t), schedule.sigma(t)], rtol=1e-10)
        weights = schedule.prediction_weights(KINDS[kind], t)
        found = path.prediction_weights(kind, t)
        np.testing.assert_allclose(found, weights, rtol=1e-9, atol=1e-12)


def test_trained_betas_are_taken_as_they_are(reader):
    betas = [0.01, 0.02, 0.3]
    config = {**DDIM, "num_train_timesteps": 3, "trained_betas": betas}
    assert reader.betas_of(config) == betas
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        reader.VPPath([0.5, 1.0])


def test_networks_whose_numbers_no_plan_gives_are_refused(reader, tmp_path):
    """`compat.diffusers_plan` refuses the second one too, and gives the first one log(sigma)/4."""
    path = saved(tmp_path, plans.euler(GRID))
    few = {**DDIM, "trained_betas": [0.01] * 100}
    with pytest.raises(ValueError, match="num_train_timesteps=1000 and 100 trained_betas; set"):
        reader.PlanScheduler.from_config(few, path)
    with pytest.raises(ValueError, match="100"):
        compat.diffusers_plan(few, 6)
    continuous = {**DDIM, "timestep_type": "continuous", "prediction_type": "v_prediction"}
    with pytest.raises(ValueError, match=r"receives log\(sigma\)/4"):
        reader.PlanScheduler.from_config(continuous, path)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_weights_of_the_output_undo_the_wrapper_at_the_label(reader, kind):
    """m = p x + q velocity, with the velocity that our wrapper makes of the network's output."""
    plan = compat.diffusers_plan({**KARRAS, "prediction_type": kind}, 7, labels="peers")
    assert np.any(plan.label_time != plan.t)
    path = reader.VPPath(reader.betas_of(DDIM))
    x, output = 0.7, -1.3
    for i in range(plan.rows):
        row = reader.Row(*(column[i] for column in plan))
        of_state, of_output = reader._network_weights(row, path, kind)
        velocity = to_velocity(VP, KINDS[kind], output, x, row.label_time)
        expected = row.p * x + row.q * velocity
        assert of_state * x + of_output * output == pytest.approx(expected, rel=1e-9)


def test_a_label_at_which_the_network_says_nothing_is_refused(reader):
    row = reader.Row(*(column[-1] for column in plans.euler(GRID)))._replace(label_time=0.0)
    path = reader.VPPath(reader.betas_of(DDIM))
    with pytest.raises(ValueError, match="'epsilon' does not determine the velocity"):
        reader._network_weights(row, path, "epsilon")


def test_a_plan_of_another_path_is_refused(reader):
    vp_path, flow_path = reader.VPPath(reader.betas_of(DDIM)), reader.FlowPath()
    rows = {}
    for name, schedule in (("flow", FLOW), ("vp", VP)):
        plan = plans.dpm_solver_pp(schedule, GRID, 2)
        rows[name] = [reader.Row(*(column[i] for column in plan)) for i in range(plan.rows)]
    reader._check_path(rows["flow"], flow_path, "flow_prediction")
    reader._check_path(rows["vp"], vp_path, "epsilon")
    for made, path, kind in (("vp", flow_path, "flow_prediction"), ("flow", vp_path, "epsilon")):
        with pytest.raises(ValueError, match="save a plan that was made for this path"):
            reader._check_path(rows[made], path, kind)


# With torch: a network that is the same formula in both frameworks.


@pytest.fixture(scope="module")
def scheduler_class():
    """The class without diffusers; tests/compat/test_torch_pipelines.py has it with diffusers."""
    pytest.importorskip("torch")
    return load_file(diffusers=None).PlanScheduler


def network(xp, x, clock):
    """The output of a toy network: smooth, and different for each entry, state and time."""
    return xp.sin(1.5 * x + 0.003 * clock) - 0.4 * x


def run(scheduler, noise, dtype="float64", change=None, **options):
    """The loop of a pipeline."""
    import torch

    x = torch.as_tensor(noise).to(getattr(torch, dtype))
    for i, t in enumerate(scheduler.timesteps):
        output = network(torch, scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, return_dict=False, **options)[0]
        assert x.dtype == getattr(torch, dtype)
        if change is not None:
            x = change(i, x)
    return x


def ours(plan, noise, kind, schedule, **options):
    """`flowjax.sample` with the same network."""
    flow = kind == "flow_prediction"

    def raw(x, clock):
        # The timesteps of a pipeline are float32.
        return network(jnp, x, jnp.asarray(clock, jnp.float32).astype(x.dtype))

    def label(t):
        return 1000 * t if flow else 1000 * t - 1

    model = as_velocity(raw, schedule, KINDS[kind], label)
    return flowjax.sample(model, noise, plan, **options)


def noise_of(seed=0, shape=(3, 2, 4)):
    # A copy, since torch warns of arrays that cannot be written to
    return np.array(jax.random.normal(jax.random.key(seed), shape))


@pytest.mark.parametrize("name", [name for name in PLANS if not np.any(PLANS[name].s)])
def test_a_flow_gives_what_our_sampler_gives(scheduler_class, tmp_path, name):
    scheduler = scheduler_class(saved(tmp_path, PLANS[name]))
    scheduler.set_timesteps(PLANS[name].nfe)
    expected = ours(PLANS[name], noise_of(), "flow_prediction", FLOW).x
    np.testing.assert_allclose(run(scheduler, noise_of()), expected, rtol=1e-6, atol=1e-6)
    # A second run gives the same: no state of the first one survives.
    scheduler.set_timesteps(PLANS[name].nfe)
    np.testing.assert_allclose(run(scheduler, noise_of()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("labels", ["continuous", "peers"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_discrete_network_gives_what_our_sampler_gives(scheduler_class, tmp_path, kind, labels):
    config = {**KARRAS, "prediction_type": kind}
    plan = compat.diffusers_plan(config, 9, labels=labels, third_order="exact")
    scheduler = scheduler_class.from_config(config, saved(tmp_path, plan))
    # Timesteps are float32 in a pipeline, and the toy network feels that
    expected = ours(plan, noise_of(), kind, VP).x
    np.testing.assert_allclose(run(scheduler, noise_of()), expected, rtol=1e-5, atol=1e-5)
    assert scheduler.timesteps.tolist() == pytest.approx(1000 * plan.label_time - 1, abs=1e-3)


@pytest.mark.parametrize("name", ["stochastic", "ancestral"])
def test_a_stochastic_plan_draws_from_the_generators(scheduler_class, tmp_path, name):
    import torch

    plan, noise = PLANS[name], noise_of()
    scheduler = scheduler_class(saved(tmp_path, plan))

    def drawn(generator):
        scheduler.set_timesteps(plan.rows)
        return run(scheduler, noise, generator=generator)

    def generators(count):
        return [torch.Generator().manual_seed(seed) for seed in range(count)]

    # What the generator gives in the rows that draw, for our sampler
    draws = np.zeros((plan.rows, *noise.shape))
    generator = torch.Generator().manual_seed(0)
    for i in np.flatnonzero(plan.s):
        draws[i] = torch.randn(noise.shape, generator=generator, dtype=torch.float64)
    expected = ours(plan, noise, "flow_prediction", FLOW, key=jnp.asarray(draws)).x
    found = drawn(torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # With a generator a sample, each depends on its own only.
    together = drawn(generators(3))
    alone = scheduler_class(saved(tmp_path, plan))
    first = run(alone, noise[:1], generator=generators(1)[0])
    assert torch.equal(first, together[:1]) and not torch.equal(together, found)
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        drawn(generators(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(scheduler_class, tmp_path, dtype):
    """A plan of 200 Euler steps; sums in half precision would lose ten times as much."""
    plan = plans.euler(grids.uniform(200))
    scheduler = scheduler_class(saved(tmp_path, plan))
    exact = run(scheduler, noise_of())
    scheduler.set_timesteps(200)
    found = run(scheduler, noise_of(), dtype)
    # The network sees rounded states, and the result is rounded: a few units of the last place.
    bits = {"float16": 11, "bfloat16": 8}[dtype]
    assert float((found.double() - exact).abs().max()) < 4 * 2.0**-bits


def test_a_state_that_the_pipeline_changes_is_that_of_a_state_hook(scheduler_class, tmp_path):
    import torch

    plan = PLANS["unipc 3"]
    mask = np.array([1.0, 0.0, 1.0, 0.0])
    scheduler = scheduler_class(saved(tmp_path, plan))
    found = run(scheduler, noise_of(), change=lambda i, x: x * torch.as_tensor(mask) + 0.1)
    hooked = lambda x, t, step: x * mask[None, None] + 0.1
    expected = ours(plan, noise_of(), "flow_prediction", FLOW, state_hook=hooked).x
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_start_of_image_to_image_is_checked(scheduler_class, tmp_path):
    # Euler's method needs no row before it, and goes on from any step.
    scheduler = scheduler_class(saved(tmp_path, plans.euler(GRID)))
    scheduler.set_begin_index(2)
    x = noise_of()
    import torch

    state = torch.as_tensor(x)
    for t in scheduler.timesteps[2:]:
        state = scheduler.step(network(torch, state, t), t, state).prev_sample
    expected = ours(plans.euler(GRID[2:]), x, "flow_prediction", FLOW).x
    np.testing.assert_allclose(state, expected, rtol=1e-6, atol=1e-6)
    # A multistep method needs its history, and a substep is no start of a step.
    for name, first in (("multistep 2", 2), ("heun", 1), ("rk4", 6), ("unipc 3", 3)):
        scheduler = scheduler_class(saved(tmp_path, PLANS[name]))
        with pytest.raises(ValueError, match="needs the rows before it"):
            scheduler.set_begin_index(first)
        scheduler.set_timesteps(scheduler.rows)
        with pytest.raises(ValueError, match="needs the rows before it"):
            scheduler.step(state, scheduler.timesteps[first], state)
    # The first step of a Runge-Kutta method's later steps is one.
    scheduler_class(saved(tmp_path, PLANS["rk4"])).set_begin_index(8)


@pytest.mark.parametrize("config", [DDIM, {"_class_name": "FlowMatchEulerDiscreteScheduler"}])
def test_noise_is_added_on_the_path(scheduler_class, tmp_path, config):
    import torch

    schedule = diffusers_schedule(config)
    plan = plans.euler(GRID)
    scheduler = scheduler_class.from_config(config, saved(tmp_path, plan))
    data, noise = torch.as_tensor(noise_of(1)), torch.as_tensor(noise_of(2))
    indices = [0, 3, 5]
    found = scheduler.add_noise(data, noise, scheduler.timesteps[indices])
    expected = schedule.add_noise(data.numpy(), noise.numpy(), plan.t[indices])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # One timestep for all, by the other name, of a pipeline that says where it begins
    scheduler.set_begin_index(3)
    found = scheduler.scale_noise(data, scheduler.timesteps[:1], noise)
    expected = schedule.add_noise(data.numpy(), noise.numpy(), plan.t[3])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_the_number_of_evaluations_is_that_of_the_plan(scheduler_class, tmp_path):
    scheduler = scheduler_class(saved(tmp_path, PLANS["heun"]))
    assert scheduler.rows == len(scheduler.timesteps) == 11
    with pytest.raises(ValueError, match="num_inference_steps=20, but the plan has 11 rows .in 6"):
        scheduler.set_timesteps(20)
    # The uniform times that some pipelines always give say a number only.
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 11, 11), mu=0.8)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 12)[:-1])
    with pytest.raises(ValueError, match="sigmas cannot be chosen"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.5, 11))
    run(scheduler, noise_of())
    import torch

    state = torch.as_tensor(noise_of())
    with pytest.raises(ValueError, match="all 11 rows are done; call set_timesteps"):
        scheduler.step(state, 0, state)
    with pytest.raises(ValueError, match=r"shape \(3, 1, 4\) and the state \(3, 2, 4\)"):
        scheduler.step(state[:, :1], 0, state)
    scheduler.set_timesteps(11)
    with pytest.raises(ValueError, match="1234 is not among the timesteps"):
        scheduler.step(state, 1234, state)


def test_a_config_comes_back_from_its_folder(scheduler_class, tmp_path):
    path = saved(tmp_path, compat.diffusers_plan(DDIM, 6), network="toy")
    scheduler = scheduler_class.from_config(DDIM, plan=path)
    scheduler.save_pretrained(tmp_path / "pipe" / "scheduler")
    assert [path.name for path in (tmp_path / "pipe" / "scheduler").iterdir()] == [
        "scheduler_config.json"
    ]
    again = scheduler_class.from_pretrained(tmp_path / "pipe", subfolder="scheduler")
    assert again.config == scheduler.config and again.rows == 6
    assert again.config.plan["facts"] == {"network": "toy"}
    assert again.timesteps.tolist() == scheduler.timesteps.tolist()
    assert scheduler_class.from_config(again.config).config == scheduler.config
    # A pipeline asks for options that another scheduler has.
    assert again.config.get("use_dynamic_shifting") is None and not hasattr(again.config, "shift")
    with pytest.raises(ValueError, match="push_to_hub is not possible"):
        scheduler.save_pretrained(tmp_path, push_to_hub=True)


@pytest.mark.parametrize(
    "config, options, message",
    [
        (DDIM, {}, "the config holds no plan"),
        ({**DDIM, "clip_sample": True}, {"plan": ""}, "cannot follow clip_sample=True"),
        ({**DDIM, "rescale_betas_zero_snr": True}, {"plan": ""}, "pass the rescaled betas"),
        (DDIM, {"plan": "", "eta": 1.0}, "option='eta' is not known"),
        (DDIM, {"plan": "", "prediction_type": "score"}, "prediction_type='score' is not known"),
        (DDIM, {"plan": "", "beta_schedule": "cubic"}, "beta_schedule='cubic' is not known"),
        ({**DDIM, "use_flow_sigmas": True}, {"plan": ""}, "on the path of a flow is not known"),
        ({"prediction_type": "epsilon"}, {"plan": ""}, "but no betas"),
    ],
)
def test_a_config_that_no_plan_can_follow_is_refused(
    scheduler_class, tmp_path, config, options, message
):
    if "plan" in options:
        options = {**options, "plan": saved(tmp_path, plans.euler(GRID))}
    with pytest.raises(ValueError, match=message):
        scheduler_class.from_config(config, **options)


def test_a_continuous_time_without_v_prediction_has_no_effect(scheduler_class, tmp_path):
    path = saved(tmp_path, compat.diffusers_plan(DDIM, 5))
    found = scheduler_class.from_config({**DDIM, "timestep_type": "continuous"}, path)
    assert found.timesteps.tolist() == scheduler_class.from_config(DDIM, path).timesteps.tolist()


def test_a_discrete_path_of_few_steps_keeps_its_own_clock(scheduler_class, tmp_path):
    schedule = VPDiscrete.linear(100, 1e-3, 0.2, log_snr_min=None)
    plan = plans.ddim(schedule, grids.uniform(4))
    options = dict(num_train_timesteps=100, beta_start=1e-3, beta_end=0.2)
    path = saved(tmp_path, plan)
    scheduler = scheduler_class(path, prediction_type="epsilon", **options)
    assert scheduler.timesteps.tolist() == [99, 74, 49, 24] and len(scheduler) == 100
