"""The options of all scheduler classes as a Markdown table: python -m flowjax.compat.option_table.

docs/compat.md holds what this prints, and a test compares the two.
"""

from flowjax.compat.scheduler_options import OPTIONS, REFUSED, USED, Option, full_name

# A symbol for each use of an option; a class without the option has none.
SYMBOLS = {USED: "+", REFUSED: "x"}
ABSENT, IDLE = "", "o"

# When an option acts, or what it does, in one line. Options without a line act always.
NOTES = {
    "algorithm_type": 'DEIS and "dpmsolver++" name each other in files of other classes',
    "base_image_seq_len": "a pipeline computes `mu` from it",
    "base_shift": "a pipeline computes `mu` from it",
    "beta_end": "VP networks, and the range of a respaced flow",
    "beta_schedule": "VP networks, and the range of a respaced flow",
    "beta_start": 'as beta_end, and the end of a flow with final_sigmas_type="sigma_min"',
    "clip_sample": "by a data_hook; on by default in DDIM",
    "clip_sample_range": "with clip_sample",
    "disable_corrector": "none or all of the steps",
    "dynamic_thresholding_ratio": "with thresholding",
    "euler_at_final": "where the result lies above t = 0",
    "final_sigmas_type": 'see "Where a scheduler ends"',
    "flow_shift": "with use_flow_sigmas",
    "interpolation_type": '"linear" only',
    "invert_sigmas": "wrap the network with 1 - t instead",
    "lambda_min_clipped": "VP networks without a respacing",
    "lower_order_final": "where diffusers lowers the order of the last steps",
    "max_image_seq_len": "a pipeline computes `mu` from it",
    "max_shift": "a pipeline computes `mu` from it",
    "num_train_timesteps": "the network's own times",
    "prediction_type": '`diffusers_prediction`; "flow_prediction" needs use_flow_sigmas',
    "rescale_betas_zero_snr": "alpha = 2^-12 at the last training step; DDIM has 0 there",
    "sample_max_value": "with thresholding",
    "shift_terminal": "flows",
    "sigma_max": "with a Karras, exponential or beta respacing",
    "sigma_min": "with a Karras, exponential or beta respacing",
    "solver_p": "UniPC has its own predictor",
    "solver_type": "names of other classes are translated as diffusers does",
    "steps_offset": 'with timestep_spacing="leading", on VP networks',
    "stochastic_sampling": "no plan draws all of the noise anew",
    "thresholding": "by a data_hook",
    "time_shift_type": "with use_dynamic_shifting",
    "timestep_spacing": "VP networks; with a respacing only in Euler and Heun",
    "timestep_type": "with v_prediction: the network receives log(sigma)/4",
    "trained_betas": "in place of the three options of the betas",
    "use_dynamic_shifting": "flows; needs `mu`",
    "variance_type": "the network's wrapper drops the variance",
}


def option_table() -> str:
    """One line an option and one column a class, in the order of `OPTIONS`."""
    names = sorted({option for options in OPTIONS.values() for option in options})
    # One row an option, whichever classes have it
    header = ["option", *(_short(name) for name in OPTIONS), "when it acts"]
    lines = [_line(header), _line(["---"] * len(header))]
    for name in names:
        cells = [_symbol(options.get(name)) for options in OPTIONS.values()]
        lines.append(_line([f"`{name}`", *cells, NOTES.get(name, "")]))
    return "\n".join(lines)


def _short(short_name: str) -> str:
    """The name of a class without its common ending."""
    return full_name(short_name).removesuffix("Scheduler")


def _symbol(option: Option | None) -> str:
    # diffusers drops an option that the class does not have.
    if option is None:
        return ABSENT
    return SYMBOLS.get(option.use, IDLE)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(option_table())
