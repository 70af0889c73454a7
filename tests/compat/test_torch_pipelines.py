"""Plans in diffusers' own pipelines, with random weights, against our sampler on the same network.

The pipelines are those of SANA, SD3, Flux and DiT. Each gives its final latents, and our sampler
receives the pipeline's transformer as a callback, with guidance written out here.
"""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import compat, grids, plans
from flowjax.schedules import Linear, as_velocity

pytestmark = [
    pytest.mark.slow,  # the import of diffusers' pipelines takes ten seconds by itself
    # diffusers and transformers warn of each other's versions.
    pytest.mark.filterwarnings("ignore"),
]
GUIDANCE = 3.0
# As SANA's, of third order where the published formula has second order
SANA = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "solver_order": 3,
    "use_flow_sigmas": True,
}


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    with torch.no_grad():
        yield torch


@pytest.fixture(scope="module")
def diffusers(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
    return diffusers


@pytest.fixture(scope="module")
def scheduler_class(diffusers):
    from flowjax.compat.torch_scheduler import PlanScheduler

    return PlanScheduler


class Case:
    """A pipeline, its call on given noise, and its guided network as a function of (x, clock)."""

    def __init__(self, pipe, shape, call, network):
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe
        self.shape = shape
        self.call = call
        self.network = network


def autoencoder(diffusers, channels):
    return diffusers.AutoencoderKL(
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def sana(torch, diffusers):
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    ).eval()
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(SANA)
    # Without an autoencoder the pipeline takes a latent pixel for 32 pixels.
    pipe = diffusers.SanaPipeline(None, None, None, transformer, scheduler)
    text, no_text = torch.randn(2, 2, 5, 8)
    mask = torch.ones(2, 5)

    def call(noise, steps):
        return pipe(
            prompt_embeds=text,
            prompt_attention_mask=mask,
            negative_prompt_embeds=no_text,
            negative_prompt_attention_mask=mask,
            negative_prompt=None,
            guidance_scale=GUIDANCE,
            num_inference_steps=steps,
            latents=noise,
            height=256,
            width=256,
            use_resolution_binning=False,
            output_type="latent",
        ).images

    def network(x, clock):
        def one(embeds):
            return transformer(
                x, encoder_hidden_states=embeds, encoder_attention_mask=mask, timestep=clock
            ).sample

        return one(no_text) + GUIDANCE * (one(text) - one(no_text))

    return Case(pipe, (2, 4, 8, 8), call, network)


def sd3(torch, diffusers):
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    ).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = autoencoder(diffusers, 4)
    texts = (None,) * 6
    pipe = diffusers.StableDiffusion3Pipeline(transformer, scheduler, vae, *texts)
    text, no_text = torch.randn(2, 2, 5, 32)
    pooled, no_pooled = torch.randn(2, 2, 64)

    def call(noise, steps):
        return pipe(
            prompt_embeds=text,
            negative_prompt_embeds=no_text,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=no_pooled,
            guidance_scale=GUIDANCE,
            num_inference_steps=steps,
            latents=noise,
            height=8,
            width=8,
            output_type="latent",
        ).images

    def network(x, clock):
        def one(embeds, projections):
            return transformer(
                x, encoder_hidden_states=embeds, pooled_projections=projections, timestep=clock
            ).sample

        without = one(no_text, no_pooled)
        return without + GUIDANCE * (one(text, pooled) - without)

    return Case(pipe, (2, 4, 8, 8), call, network)


def flux(torch, diffusers):
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    ).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    vae = autoencoder(diffusers, 1)
    pipe = diffusers.FluxPipeline(scheduler, vae, None, None, None, None, transformer)
    text, pooled = torch.randn(2, 5, 32), torch.randn(2, 32)

    def call(noise, steps):
        return pipe(
            prompt_embeds=text,
            pooled_prompt_embeds=pooled,
            guidance_scale=GUIDANCE,
            num_inference_steps=steps,
            latents=noise,
            height=8,
            width=8,
            output_type="latent",
        ).images

    def network(x, clock):
        ids = torch.zeros(16, 3)
        ids[:, 1], ids[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
        return transformer(
            x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=clock / 1000,
            guidance=torch.full([2], GUIDANCE),
            txt_ids=torch.zeros(5, 3),
            img_ids=ids,
        ).sample

    return Case(pipe, (2, 16, 4), call, network)


def dit(torch, diffusers):
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    ).eval()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.DiTPipeline(transformer, autoencoder(diffusers, 4), scheduler)
    labels, null = torch.tensor([3, 7]), torch.tensor([1000, 1000])

    def call(noise, steps):
        # This pipeline takes no latents, and decodes those that it ends with.
        found = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *args, **kw: noise
            )
            decode = pipe.vae.decode
            patch.setattr(pipe.vae, "decode", lambda z: [found.append(z), decode(z)][1])
            pipe(labels.tolist(), GUIDANCE, num_inference_steps=steps, output_type="np")
        return found[0] * pipe.vae.config.scaling_factor

    def network(x, clock):
        def one(classes):
            return transformer(x, timestep=clock, class_labels=classes).sample[:, :4]

        return one(null) + GUIDANCE * (one(labels) - one(null))

    return Case(pipe, (2, 4, 8, 8), call, network)


CASES = {"sana": sana, "sd3": sd3, "flux": flux, "dit": dit}


@pytest.fixture(scope="module")
def cases(torch, diffusers):
    return {name: make(torch, diffusers) for name, make in CASES.items()}


def ours(torch, case, noise, plan, kind, schedule, clock):
    """`flowjax.sample` on the pipeline's own network, which is called in PyTorch."""

    def call(x, at):
        at = torch.full((len(x),), float(at))
        return case.network(torch.from_numpy(np.array(x)), at).numpy()

    def network(x, at):
        return jax.pure_callback(call, jax.ShapeDtypeStruct(x.shape, x.dtype), x, at)

    model = as_velocity(network, schedule, kind, clock)
    return np.asarray(flowjax.sample(model, jnp.asarray(noise), plan).x)


def tuned(plan):
    """A table whose numbers follow no formula, in the ranges that tuning moves them."""
    rng = np.random.default_rng(0)
    inside = plan.label_time < 1
    moved = plan.label_time * (1 + 0.02 * rng.standard_normal(plan.rows) * inside)
    return plan._replace(
        label_time=moved,
        a=plan.a + 0.01 * rng.standard_normal(plan.rows),
        b=plan.b + 0.01 * rng.standard_normal(plan.b.shape) * (plan.b != 0),
    )


GRID = grids.uniform(8, shift=3.0)
FLOW_PLANS = {
    "exact third order": plans.dpm_solver_pp(Linear(), GRID, 3, start="singlestep"),
    "unipc": plans.pad(plans.unipc(Linear(), GRID, 2), 10),
    "tuned": tuned(plans.adams_bashforth(GRID, 3)),
}


@pytest.mark.parametrize("plan_name", FLOW_PLANS)
@pytest.mark.parametrize("name", ["sana", "sd3", "flux"])
def test_a_flow_pipeline_gives_what_our_sampler_gives(
    torch, cases, scheduler_class, tmp_path, name, plan_name
):
    case, plan = cases[name], FLOW_PLANS[plan_name]
    plans.save(tmp_path / "plan.json", plan)
    case.pipe.scheduler = scheduler_class.from_config(
        case.pipe.scheduler.config, plan=tmp_path / "plan.json"
    )
    noise = torch.randn(case.shape)
    with torch.no_grad():
        found = case.call(noise, plan.nfe).numpy()
        expected = ours(torch, case, noise.numpy(), plan, "velocity", Linear(), lambda t: 1000 * t)
    assert np.std(found - noise.numpy()) > 0.05  # the network does something
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("labels", ["continuous", "peers"])
def test_the_dit_pipeline_gives_what_our_sampler_gives(
    torch, cases, scheduler_class, tmp_path, labels
):
    case = cases["dit"]
    config = {**SANA, "prediction_type": "epsilon", "use_flow_sigmas": False, "flow_shift": 1.0}
    config |= {"use_karras_sigmas": True}
    plan = compat.diffusers_plan(config, 8, labels=labels, third_order="exact")
    plans.save(tmp_path / "plan.json", plan)
    case.pipe.scheduler = scheduler_class.from_config(
        case.pipe.scheduler.config, plan=tmp_path / "plan.json"
    )
    noise = torch.randn(case.shape)
    schedule = compat.diffusers_schedule(config)
    with torch.no_grad():
        found = case.call(noise, plan.rows).numpy()
        expected = ours(torch, case, noise.numpy(), plan, "noise", schedule, lambda t: 1000 * t - 1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_a_pipeline_keeps_the_plan_when_it_is_saved(
    torch, diffusers, cases, scheduler_class, tmp_path
):
    case, plan = cases["dit"], plans.euler(GRID)
    plans.save(tmp_path / "plan.json", plan)
    case.pipe.scheduler = scheduler_class(tmp_path / "plan.json")
    case.pipe.save_pretrained(tmp_path / "pipe")
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert index["scheduler"] == ["flowjax.compat.torch_scheduler", "PlanScheduler"]
    again = diffusers.DiTPipeline.from_pretrained(tmp_path / "pipe")
    assert isinstance(again.scheduler, scheduler_class)
    assert again.scheduler.config == case.pipe.scheduler.config
    # It also takes the place of the scheduler while a pipeline is loaded.
    other = scheduler_class(tmp_path / "plan.json")
    again = diffusers.DiTPipeline.from_pretrained(tmp_path / "pipe", scheduler=other)
    assert again.scheduler is other


def test_a_pipeline_says_which_number_of_steps_the_plan_has(
    torch, cases, scheduler_class, tmp_path
):
    case = cases["sana"]
    plans.save(tmp_path / "plan.json", plans.euler(GRID))
    case.pipe.scheduler = scheduler_class(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="pass num_inference_steps=8, or save a plan of 20 rows"):
        case.call(torch.randn(case.shape), 20)


def test_image_to_image_takes_a_plan_that_begins_in_the_middle(
    torch, diffusers, cases, scheduler_class, tmp_path
):
    """With strength=1 the tail of a grid starts from alpha data + sigma noise at its first time."""
    case = cases["sd3"]
    plan = plans.dpm_solver_pp(Linear(), GRID[3:], 2)
    plans.save(tmp_path / "plan.json", plan)
    parts = {**case.pipe.components, "scheduler": scheduler_class(tmp_path / "plan.json")}
    pipe = diffusers.StableDiffusion3Img2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    image = torch.randn(2, 4, 8, 8)  # an image with as many channels as latents is taken for those
    embeds, pooled = torch.randn(2, 2, 5, 32), torch.randn(2, 2, 64)

    def call(strength):
        return pipe(
            image=image,
            strength=strength,
            prompt_embeds=embeds[0],
            negative_prompt_embeds=embeds[1],
            pooled_prompt_embeds=pooled[0],
            negative_pooled_prompt_embeds=pooled[1],
            guidance_scale=GUIDANCE,
            num_inference_steps=plan.rows,
            generator=torch.Generator().manual_seed(1),
            height=8,
            width=8,
            output_type="latent",
        ).images

    def network(x, clock):
        def one(i):
            return case.pipe.transformer(
                x, encoder_hidden_states=embeds[i], pooled_projections=pooled[i], timestep=clock
            ).sample

        return one(1) + GUIDANCE * (one(0) - one(1))

    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    start = Linear().add_noise(image.numpy(), noise.numpy(), plan.t[0]).astype(np.float32)
    with torch.no_grad():
        found = call(1.0).numpy()
        tail = Case(pipe, image.shape, call, network)
        expected = ours(torch, tail, start, plan, "velocity", Linear(), lambda t: 1000 * t)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    with pytest.raises(ValueError, match="needs the rows before it"):
        call(0.5)
