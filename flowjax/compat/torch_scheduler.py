"""Any plan of flowjax as a scheduler for diffusers' pipelines, in PyTorch.

This file needs torch alone, and is one file so that it can be copied beside your own script.
`flowjax.plans.save` writes a plan, and

    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, plan="plan.json")
    pipe("a cat", num_inference_steps=pipe.scheduler.rows)

runs it. docs/pytorch.md has complete examples and the limits.

One row of a plan is one evaluation of the network. With x, base and the history m of the last four
rows as state, row i does

    m_i   = p_i x + q_i velocity(x, label_time_i)
    base <- a_i base + sum_j b_ij m_{i-j} + s_i z_i            j = 0..3
    x    <- c_i base + sum_j d_ij m_{i-j}

Time t runs from 1 (noise) to 0 (data), and x = alpha(t) data + sigma(t) noise.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

try:
    from diffusers import ConfigMixin, SchedulerMixin

    # A pipeline saves and loads a scheduler only if it is a subclass of these two. Nothing of them
    # is used: every method that a pipeline calls is defined below.
    BASES = (SchedulerMixin, ConfigMixin)
except ImportError:
    BASES = (object,)

FORMAT = "flowjax plan"
VERSION = 1
FLAGS = ("ends_step", "counted")  # columns of true and false
LAGGED = ("b", "d")  # columns with one weight for each of the last four rows
DEPTH = 4
FLOW = "flow_prediction"
PREDICTIONS = (FLOW, "epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
CONFIG_NAME = "scheduler_config.json"

# The options of this class, with the values that diffusers takes where a config leaves them out.
OPTIONS = {
    "prediction_type": FLOW,
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
}
# Options of other schedulers that change the path, the network's times or its prediction. A plan
# cannot follow them.
REFUSED = {
    "rescale_betas_zero_snr": "pass the rescaled betas, all below 1, as trained_betas, and False",
    "snr_shift_scale": "no plan here has this path",
    "invert_sigmas": "the network receives 1 - t: pass False, and convert the time in a wrapper",
    "thresholding": "pass False, and the prediction is used as it is",
    "clip_sample": "pass False, and the prediction is used as it is",
}


class Row(NamedTuple):
    """One row of a plan, with the columns of `flowjax.Plan`; b and d hold four numbers each."""

    t: float
    label_time: float
    p: float
    q: float
    a: float
    b: tuple[float, ...]
    s: float
    c: float
    d: tuple[float, ...]
    ends_step: bool
    t_next: float
    data_x: float
    data_v: float
    counted: bool


class Output(NamedTuple):
    """What `PlanScheduler.step` returns: the next state, shaped like the sample."""

    prev_sample: torch.Tensor


# ---- the file of a plan


def read_plan(source: str | os.PathLike | Mapping) -> tuple[dict, list[Row]]:
    """The content of a plan's file, and its rows without those that only pad at the end.

    Args:
      source: the path of a file that `flowjax.plans.save` wrote, or its content.

    Raises:
      ValueError: it is no complete plan of this version; the sentence says what is wrong.
      OSError: the file cannot be read.
    """
    name = "PlanScheduler"
    content = source
    if not isinstance(source, Mapping):
        name = f"PlanScheduler: {source}"
        try:
            content = json.loads(pathlib.Path(source).read_bytes().decode())
        except ValueError as error:  # of the encoding or of JSON
            raise ValueError(f"{name} is no complete JSON file ({error}).") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"{name} is no plan; wanted a file that flowjax.plans.save wrote.")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{name} has version {content.get('version')!r} of the format, and this file reads "
            f"version {VERSION}; take the torch_scheduler.py of the flowjax that saved the plan."
        )
    columns = _checked_columns(name, content.get("columns"))
    rows = [Row(*values) for values in zip(*(columns[field] for field in Row._fields))]
    # Rows that pad at the end leave the state as it is, so they need no evaluation.
    while len(rows) > 1 and not rows[-1].counted:
        rows.pop()
    return dict(content), rows


def _checked_columns(name: str, columns: Any) -> dict[str, list]:
    """The columns of a plan, each with one entry of the right kind for every row."""
    columns = columns if isinstance(columns, Mapping) else {}
    missing = [field for field in Row._fields if field not in columns]
    unknown = [field for field in columns if field not in Row._fields]
    if missing or unknown:
        raise ValueError(f"{name} lacks the columns {missing}, and has the unknown ones {unknown}.")
    count = len(columns["t"]) if isinstance(columns["t"], list) else 0
    for field in Row._fields:
        kinds = (bool,) if field in FLAGS else (int, float)
        width = DEPTH if field in LAGGED else 1
        values = columns[field]
        entries = [value if field in LAGGED else [value] for value in values]
        is_complete = count > 0 and len(entries) == count
        for entry in entries:
            is_complete &= isinstance(entry, (list, tuple)) and len(entry) == width
            # JSON's true is an int for Python, but no number of a table.
            is_complete = is_complete and all(type(number) in kinds for number in entry)
            is_complete = is_complete and all(math.isfinite(number) for number in entry)
        if not is_complete:
            raise ValueError(
                f"{name}: column {field} does not hold {width} finite value(s) of its kind for "
                f"each of the {count} rows; save the plan again."
            )
    return dict(columns)


# ---- the path, and what the network predicts on it


class VPPath:
    """The path of a network that was trained on N discrete variance-preserving steps.

    Step n = 1..N lies at t = n/N with log alpha = 1/2 sum log(1 - beta), and log alpha is linear in
    t between the steps (DPM-Solver, arXiv:2206.00927, appendix D.4). This is `flowjax.VPDiscrete`
    with all of its nodes.
    """

    def __init__(self, betas: Sequence[float]):
        """Form log alpha at the nodes; `betas` are N numbers between 0 and 1."""
        if len(betas) < 2 or not all(0 < beta < 1 for beta in betas):
            raise ValueError(
                "PlanScheduler: the betas must be two or more numbers strictly between 0 and 1."
            )
        self.nodes = []
        log_alpha = 0.0
        for beta in betas:
            log_alpha += 0.5 * math.log1p(-beta)
            self.nodes.append(log_alpha)

    def _log_alpha(self, t: float) -> tuple[float, float]:
        """log alpha at the time `t`, and its derivative by t."""
        steps = len(self.nodes)
        place = t * steps
        # n/N times N may fall just below n by rounding; that is still node n.
        left = min(max(math.floor(place * (1 + 1e-15)) - 1, 0), steps - 2)
        rise = self.nodes[left + 1] - self.nodes[left]
        log_alpha = self.nodes[left] + (place - left - 1) * rise
        return (0.0 if t <= 0 else min(log_alpha, 0.0)), rise * steps

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """alpha and sigma at the time `t`, with alpha^2 + sigma^2 = 1."""
        log_alpha, _ = self._log_alpha(t)
        return math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))

    def prediction_weights(self, kind: str, t: float) -> tuple[float, float]:
        """Weights (p, q): p x + q velocity is the prediction of this kind at the time `t`."""
        alpha, sigma = self.alpha_sigma(t)
        _, slope = self._log_alpha(t)
        # With W = alpha sigma' - alpha' sigma = -alpha'/sigma:
        #   noise = (-alpha' x + alpha velocity)/W       data = (sigma' x - sigma velocity)/W
        rate = -sigma / (alpha * slope)  # 1/W
        if kind == "epsilon":
            return sigma, alpha * rate
        if kind == "sample":
            return alpha, -sigma * rate
        # "v_prediction" is alpha noise - sigma data.
        return 0.0, rate


class FlowPath:
    """The straight path of flow matching, alpha = 1 - t and sigma = t."""

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """alpha and sigma at the time `t`."""
        return 1 - t, t

    def prediction_weights(self, kind: str, t: float) -> tuple[float, float]:
        """Weights (p, q) of the velocity itself."""
        return 0.0, 1.0


def betas_of(config: Mapping[str, Any]) -> list[float]:
    """The betas of a diffusers config, from the first training step to the last."""
    steps = config["num_train_timesteps"]
    if config["trained_betas"] is not None:
        betas = [float(beta) for beta in config["trained_betas"]]
        # The network's numbers are counted by num_train_timesteps.
        if len(betas) != steps:
            raise ValueError(
                f"PlanScheduler: num_train_timesteps={steps} and {len(betas)} trained_betas; set "
                f"num_train_timesteps={len(betas)}."
            )
        return betas
    kind = config["beta_schedule"]
    _check_choice("beta_schedule", kind, BETA_SCHEDULES)
    if kind == "squaredcos_cap_v2":
        # alpha^2 at the step n (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17)
        bars = [math.cos((n / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for n in range(steps + 1)]
        return [min(1 - after / before, 0.999) for before, after in zip(bars, bars[1:])]
    # The betas, or their square roots, are uniform.
    power = 1 if kind == "linear" else 2
    first, last = config["beta_start"] ** (1 / power), config["beta_end"] ** (1 / power)
    return [(first + (last - first) * i / (steps - 1)) ** power for i in range(steps)]


def _check_choice(option: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(
            f"PlanScheduler: {option}={value!r} is not known; the choices are {', '.join(choices)}."
        )


# ---- the scheduler


class _Config(dict):
    """A dictionary whose items are attributes too, as diffusers' pipelines read a config."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}") from None


class PlanScheduler(*BASES):
    """Runs a saved plan of flowjax wherever a pipeline of diffusers takes a scheduler.

    A pipeline evaluates the network once for each of `timesteps`, so there is one timestep for
    each row of the plan; a step of a Runge-Kutta method has several.

    Attributes:
      timesteps: (rows,) the numbers that the network receives: 1000 t of a flow network, the index
        1000 t - 1 of a network that was trained on discrete steps.
      sigmas: (rows + 1,) sigma of a flow, sigma/alpha elsewhere, the end included.
    """

    order = 1  # timesteps for each of num_inference_steps
    init_noise_sigma = 1.0
    config_name = CONFIG_NAME

    def __init__(
        self,
        plan: str | os.PathLike | Mapping,
        *,
        prediction_type: str = FLOW,
        num_train_timesteps: int = 1000,
        beta_schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        trained_betas: Sequence[float] | None = None,
    ):
        """Read the plan, and prepare it for a network.

        Args:
          plan: the path of a file that `flowjax.plans.save` wrote, or its content.
          prediction_type: what the network predicts, by diffusers' names: "flow_prediction" (the
            velocity of flow matching), "epsilon", "v_prediction" or "sample" (the data).
          num_train_timesteps: of the training. The betas matter only where the prediction is no
            flow.
          beta_schedule, beta_start, beta_end, trained_betas: as in diffusers.

        Raises:
          ValueError: the file is no plan, an option is not known, or the plan was made for another
            path than that of the network.
        """
        content, self._rows = read_plan(plan)
        _check_choice("prediction_type", prediction_type, PREDICTIONS)
        is_flow = prediction_type == FLOW
        self._config = _Config(
            plan=content,
            prediction_type=prediction_type,
            # Flux asks for this, and then leaves the times to the scheduler.
            use_flow_sigmas=is_flow,
            num_train_timesteps=num_train_timesteps,
            beta_schedule=beta_schedule,
            beta_start=beta_start,
            beta_end=beta_end,
            trained_betas=None if trained_betas is None else list(trained_betas),
        )
        self._path = FlowPath() if is_flow else VPPath(betas_of(self.config))
        _check_path(self._rows, self._path, prediction_type)
        self._weights = [_network_weights(row, self._path, prediction_type) for row in self._rows]
        self.set_timesteps()

    @property
    def config(self) -> _Config:
        """The options with their values, and the content of the plan's file under "plan"."""
        return self._config

    @property
    def rows(self) -> int:
        """Number of evaluations of the network, and so the num_inference_steps of a pipeline."""
        return len(self._rows)

    @property
    def step_index(self) -> int | None:
        """The row that comes next; None before the first call of `step`."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The row at which the pipeline begins; None if it did not say."""
        return self._begin_index

    def __len__(self) -> int:
        """The number of training steps, as in diffusers."""
        return self.config.num_train_timesteps

    def __repr__(self) -> str:
        return f"PlanScheduler({self.rows} rows, {self.config.prediction_type!r})"

    # The methods that pipelines call.

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Prepare a new run of the plan.

        Args:
          num_inference_steps: the number of rows of the plan, or None.
          device: of `timesteps` and `sigmas`.
          sigmas: the uniform times 1, 1 - 1/n, ..., 1/n that some pipelines always give; they say
            no more than their number.
          mu: the dynamic shift that some pipelines always give. It is not used: the times of a plan
            contain their shift.

        Raises:
          ValueError: the plan has another number of rows; other sigmas.
        """
        if sigmas is not None:
            num_inference_steps = len(sigmas)
            uniform = [1 - i / num_inference_steps for i in range(num_inference_steps)]
            if any(abs(float(s) - u) > 1e-6 for s, u in zip(sigmas, uniform)):
                raise ValueError(
                    "PlanScheduler.set_timesteps: the plan has its own times, so sigmas cannot be "
                    "chosen; leave sigmas, and save a plan on the grid that you want."
                )
        if num_inference_steps not in (None, self.rows):
            steps = sum(row.ends_step for row in self._rows)
            raise ValueError(
                f"PlanScheduler.set_timesteps: num_inference_steps={num_inference_steps}, but the "
                f"plan has {self.rows} rows (in {steps} steps), and each is one evaluation of the "
                f"network; pass num_inference_steps={self.rows}, or save a plan of "
                f"{num_inference_steps} rows."
            )
        self.num_inference_steps = self.rows

        # The numbers that the network receives: 1000 t, or the index of the training step.
        is_flow = self.config.prediction_type == FLOW
        steps = self.config.num_train_timesteps
        labels = [steps * row.label_time - (0 if is_flow else 1) for row in self._rows]
        self.timesteps = torch.tensor(labels, dtype=torch.float32, device=device)
        times = [row.t for row in self._rows] + [self._rows[-1].t_next]
        pairs = [self._path.alpha_sigma(t) for t in times]
        ratios = [sigma if is_flow else sigma / alpha for alpha, sigma in pairs]
        self.sigmas = torch.tensor(ratios, dtype=torch.float32, device=device)

        # The state of a run.
        self._step_index = self._begin_index = None
        self._base = self._returned = None
        self._history = []

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Output | tuple[torch.Tensor]:
        """Do one row of the plan.

        Args:
          model_output: (B, *D) the network's output at `sample`.
          timestep: the entry of `timesteps` that the network received. Only the first call reads
            it, and only if `set_begin_index` was not called.
          sample: (B, *D) the state at which the network was evaluated. It may differ from what the
            call before returned (a callback, inpainting); then the base moves with it.
          generator: one, or one for each sample, for plans that draw noise.
          return_dict: whether to return an `Output` or a tuple.

        Returns:
          The next state, computed in float32 at least and returned in the dtype of `sample`.

        Raises:
          ValueError: shapes that differ; a run that is complete; a start in the middle of the plan
            where later rows need the rows before it.
        """
        if model_output.shape != sample.shape:
            raise ValueError(
                f"PlanScheduler.step: the network's output has shape {tuple(model_output.shape)} "
                f"and the state {tuple(sample.shape)}; wanted equal shapes (split a learned "
                "variance off)."
            )
        index = self._next_index(timestep)
        row = self._rows[index]
        dtype = torch.promote_types(sample.dtype, torch.float32)
        x = sample.to(dtype)
        self._follow(x, index)

        # m = p x + q velocity, with the velocity that the network's output stands for
        of_state, of_output = self._weights[index]
        newest = of_state * x + of_output * model_output.to(dtype)
        self._history = [newest, *self._history[: DEPTH - 1]]
        # base' = a base + b.m + s z, and x' = c base' + d.m
        base = row.a * self._base + _combine(row.b, self._history)
        if row.s != 0:
            base = base + row.s * _noise_like(x, generator)
        x = row.c * base + _combine(row.d, self._history)

        self._base = base
        self._returned = x.to(sample.dtype)
        self._step_index = index + 1
        return Output(self._returned) if return_dict else (self._returned,)

    def scale_model_input(
        self, sample: torch.Tensor, timestep: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """The state itself: networks receive x = alpha data + sigma noise."""
        return sample

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The state alpha(t) data + sigma(t) noise of each sample at its timestep.

        Args:
          original_samples: (B, *D) the data.
          noise: (B, *D).
          timesteps: (B,) entries of `timesteps`, or one for all samples. As in diffusers, a
            pipeline that called `set_begin_index` gets the time of the next row instead.

        Returns:
          (B, *D) in the dtype of the data.
        """
        asked = torch.as_tensor(timesteps).reshape(-1)
        if self._begin_index is None:
            indices = [self.index_for_timestep(timestep) for timestep in asked]
        else:
            done = self._begin_index if self._step_index is None else self._step_index
            indices = [done] * len(asked)
        # At the end of the run the state lies at the last t_next.
        times = [row.t for row in self._rows] + [self._rows[-1].t_next]
        pairs = [self._path.alpha_sigma(times[index]) for index in indices]

        dtype = torch.promote_types(original_samples.dtype, torch.float32)
        weights = torch.tensor(pairs, dtype=dtype, device=original_samples.device)
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        alpha, sigma = (column.reshape(shape) for column in weights.T)  # (B, 1, ...) or (1, 1, ...)
        noisy = alpha * original_samples.to(dtype) + sigma * noise.to(dtype)
        return noisy.to(original_samples.dtype)

    def scale_noise(
        self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """`add_noise` by the name and in the order of diffusers' flow matching schedulers."""
        return self.add_noise(sample, noise, timestep)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Name the row at which the pipeline begins."""
        self._check_start(begin_index)
        self._begin_index = begin_index

    def index_for_timestep(
        self, timestep: float | torch.Tensor, schedule_timesteps: torch.Tensor | None = None
    ) -> int:
        """The first row whose timestep this is."""
        known = self.timesteps if schedule_timesteps is None else schedule_timesteps
        value = float(timestep)
        distances = [abs(one - value) for one in known.tolist()]
        index = distances.index(min(distances))
        # A pipeline in bfloat16 may have rounded its timesteps to 8 bits.
        if distances[index] > 0.005 * max(1.0, abs(value)):
            raise ValueError(
                f"PlanScheduler: {value:g} is not among the timesteps {known.tolist()}; pass one "
                "of scheduler.timesteps."
            )
        return index

    # Files and configs, as in diffusers.

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        plan: str | os.PathLike | Mapping | None = None,
        return_unused_kwargs: bool = False,
        **options: Any,
    ) -> Any:
        """The scheduler of a plan, for the network that another scheduler's config describes.

        What the config says of the network is used: its prediction and its betas. What it says of
        the solver and its grid is not, since the plan takes their place.

        Args:
          config: of any scheduler of diffusers, or of a `PlanScheduler`.
          plan: as for `PlanScheduler`; not needed where `config` is one of a `PlanScheduler`.
          return_unused_kwargs: return (scheduler, {}) instead, for diffusers' own calls.
          **options: options of `PlanScheduler` that replace those of the config; an option of
            `REFUSED` may be switched off.

        Raises:
          ValueError: no plan; an unknown option; an option of the config that no plan can follow.
        """
        for name in options:
            _check_choice("option", name, (*OPTIONS, *REFUSED))
        given = {**config, **options}
        for name, hint in REFUSED.items():
            if given.get(name):
                raise ValueError(
                    f"PlanScheduler: a plan cannot follow {name}={given[name]!r}; {hint}."
                )
        plan = given.get("plan") if plan is None else plan
        if plan is None:
            raise ValueError(
                'PlanScheduler: the config holds no plan; pass plan="plan.json", a file that '
                "flowjax.plans.save wrote."
            )
        # The classes of flow matching have neither betas nor a prediction type.
        implied = FLOW if "beta_schedule" not in given else "epsilon"
        prediction = given.get("prediction_type") or implied
        if given.get("use_flow_sigmas") and prediction != FLOW:
            raise ValueError(
                f"PlanScheduler: prediction_type={prediction!r} on the path of a flow is not known "
                "here; wanted 'flow_prediction'."
            )
        has_betas = "beta_schedule" in given or given.get("trained_betas") is not None
        if prediction != FLOW and not has_betas:
            raise ValueError(
                f"PlanScheduler: the config has prediction_type={prediction!r} but no betas; "
                "wanted a flow, or a network that was trained on discrete steps."
            )
        # Other predictions leave timestep_type without effect, as in diffusers.
        if given.get("timestep_type") == "continuous" and prediction == "v_prediction":
            raise ValueError(
                "PlanScheduler: a network with timestep_type='continuous' and prediction_type="
                "'v_prediction' receives log(sigma)/4, and this scheduler gives it the index of a "
                "training step; sample from it with flowjax, where compat.diffusers_label(config) "
                "is that number."
            )
        values = {name: given[name] for name in OPTIONS if name in given}
        scheduler = cls(plan, **(values | {"prediction_type": prediction}))
        return (scheduler, {}) if return_unused_kwargs else scheduler

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        *,
        plan: str | os.PathLike | Mapping | None = None,
        **options: Any,
    ) -> Any:
        """`from_config` with the scheduler_config.json of a folder.

        Args:
          pretrained_model_name_or_path: the file, or a folder that holds it.
          subfolder: the folder in it, "scheduler" for a pipeline.
          return_unused_kwargs, plan, **options: as for `from_config`.
        """
        path = pathlib.Path(pretrained_model_name_or_path)
        if path.is_dir():
            path = path / (subfolder or "") / CONFIG_NAME
        if not path.is_file():
            raise ValueError(
                f"PlanScheduler.from_pretrained: there is no file {path}; for a name on the hub, "
                "load the pipeline first and pass pipe.scheduler.config to from_config."
            )
        config = json.loads(path.read_text(encoding="utf-8"))
        return cls.from_config(config, plan, return_unused_kwargs, **options)

    def save_config(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write scheduler_config.json, with the plan inside, into a folder."""
        if push_to_hub:
            raise ValueError(
                "PlanScheduler.save_config: push_to_hub is not possible here; save to a folder, "
                "and upload that."
            )
        folder = pathlib.Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, **self.config}
        # Written beside its place and then moved, so that a reader never finds half a file.
        unfinished = folder / f".{CONFIG_NAME}.unfinished"
        unfinished.write_text(json.dumps(config, allow_nan=False), encoding="utf-8")
        os.replace(unfinished, folder / CONFIG_NAME)

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **options: Any
    ) -> None:
        """The same as `save_config`, by the name that pipelines call."""
        self.save_config(save_directory, push_to_hub)

    # Where a run is.

    def _next_index(self, timestep: float | torch.Tensor) -> int:
        """The row that this call of `step` does."""
        index = self._step_index
        if index is None:
            index = self._begin_index
        if index is None:
            index = self.index_for_timestep(timestep)
            self._check_start(index)
        if index >= self.rows:
            raise ValueError(
                f"PlanScheduler.step: all {self.rows} rows are done; call set_timesteps before a "
                "new run."
            )
        return index

    def _follow(self, x: torch.Tensor, index: int) -> None:
        """Start the base at `x`, or move it by what changed `x` since the last row."""
        if self._returned is None:
            self._base = x
            return
        # The last row gave x = c base + d.m. Where c = 0 no later row uses the base.
        c = self._rows[index - 1].c
        if c != 0:
            self._base = self._base + (x - self._returned.to(x.dtype)) / c

    def _check_start(self, first: int) -> None:
        """Refuse a start at row `first` where the rows from there on need those before it."""
        if first == 0:
            return
        before = self._rows[first - 1]
        needs_past = not before.ends_step or before.c != 1 or any(before.d)
        for index, row in enumerate(self._rows[first:], first):
            oldest = max((lag for lag in range(DEPTH) if row.b[lag] or row.d[lag]), default=0)
            needs_past |= index - oldest < first
        if needs_past:
            raise ValueError(
                f"PlanScheduler: the pipeline begins at row {first + 1} of {self.rows}, as image "
                "to image does with strength below 1, and that row or a later one needs the rows "
                "before it. Save a plan that begins there, for example "
                "flowjax.compat.diffusers_plan(config, steps, strength=0.6), and pass strength=1."
            )


# ---- arithmetic of a row


def _network_weights(row: Row, path: VPPath | FlowPath, kind: str) -> tuple[float, float]:
    """Weights of x and of the network's output in the history entry m = p x + q velocity."""
    # The output is  output = p_net x + q_net velocity  at the label's time, so
    #
    #     m = (p - q p_net/q_net) x + q/q_net output.
    of_state, of_velocity = path.prediction_weights(kind, row.label_time)
    if of_velocity == 0:
        raise ValueError(
            f"PlanScheduler: a row evaluates the network at the label time {row.label_time:g}, "
            f"where {kind!r} does not determine the velocity; save a plan whose labels lie above 0."
        )
    factor = row.q / of_velocity
    return row.p - factor * of_state, factor


def _check_path(rows: list[Row], path: VPPath | FlowPath, kind: str) -> None:
    """Refuse a plan that was made for another path than the network's."""
    for number, row in enumerate(rows, 1):
        # Plans whose history holds velocities know no path, and other labels change the weights.
        if row.p == 0 or row.label_time != row.t:
            continue
        # data = data_x x + data_v velocity, where data_x is 1 on the path of a flow, else alpha
        wanted = 1.0 if kind == FLOW else path.alpha_sigma(row.t)[0]
        if abs(row.data_x - wanted) > 1e-3:
            raise ValueError(
                f"PlanScheduler: row {number} of the plan has data_x={row.data_x:.6g}, and the "
                f"path of a network with prediction_type={kind!r} and these betas has "
                f"{wanted:.6g}; save a plan that was made for this path, the schedule of "
                "flowjax.compat.diffusers_schedule(config)."
            )


def _combine(weights: tuple[float, ...], history: list[torch.Tensor]) -> torch.Tensor | float:
    """sum_j weights_j m_{i-j}, the newest m first; the history before the first row is zero."""
    return sum(weight * m for weight, m in zip(weights, history) if weight != 0)


def _noise_like(
    x: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None
) -> torch.Tensor:
    """Standard normal noise (B, *D), drawn on the device of each generator."""
    if isinstance(generator, (list, tuple)):
        if len(generator) not in (1, len(x)):
            raise ValueError(
                f"PlanScheduler.step: {len(generator)} generators for a batch of {len(x)}; give "
                "one, or one for each sample."
            )
        if len(generator) > 1:
            parts = [_noise_like(x[i : i + 1], one) for i, one in enumerate(generator)]
            return torch.cat(parts)
        generator = generator[0]
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
