"""The shared checks: a name is suggested only where one is near, and numbers have a kind."""

import numpy as np
import pytest

from flowjax import errors

METHODS = ("gather", "ulysses", "ring", "stale", "pipefusion")


def refusal(check, *args):
    with pytest.raises(ValueError) as raised:
        check(*args)
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "meant"), [("rings", "ring"), ("Gahter", "gather"), ("PIPEFUSION", "pipefusion")]
)
def test_a_near_name_is_suggested_whatever_its_case(given, meant):
    text = refusal(errors.check_choice, "here", "attention", given, METHODS)
    assert f"here: attention={given!r} is not known; did you mean {meant!r}? The choices" in text


@pytest.mark.parametrize("given", ["flash", "", "none", None, 3, ["ring"], np.array([1.0, 2.0])])
def test_no_name_is_suggested_where_none_is_near(given):
    for choices in (METHODS, dict.fromkeys(METHODS)):
        text = refusal(errors.check_choice, "here", "attention", given, choices)
        assert "did you mean" not in text
        assert text.endswith("is not known; the choices are " + ", ".join(map(repr, METHODS)) + ".")


def test_an_unknown_method_is_not_taken_for_the_only_one_that_shares_letters():
    """Without a cutoff "ring" became "pipefusion" where a pipeline allows no other method."""
    text = refusal(errors.check_choice, "here", "attention", "ring", ("pipefusion",))
    assert "did you mean" not in text


def test_a_number_is_no_misspelt_number_but_a_string_may_be_one():
    assert "did you mean" not in refusal(errors.check_choice, "here", "forecast", 12, (0, 1, 2))
    assert "did you mean 2?" in refusal(errors.check_choice, "here", "forecast", "2", (0, 1, 2))


def test_every_choice_passes():
    for choice in METHODS:
        errors.check_choice("here", "attention", choice, METHODS)


@pytest.mark.parametrize("value", [1, 3, np.int32(2), np.int64(3)])
def test_a_whole_number_within_the_limits_passes(value):
    errors.check_whole("here", "order", value, 1, 3)
    errors.check_order("here", value, 3)


NOT_WHOLE = {
    "too small": (0, r"order=0; wanted a whole number from 1 to 3\."),
    "too large": (4, r"order=4; wanted a whole number from 1 to 3\."),
    "float": (2.0, r"order=2\.0; wanted a whole number from 1 to 3, for example 2 instead of 2\.0"),
    "fraction": (2.5, r"order=2\.5; wanted a whole number from 1 to 3\."),
    "infinite": (np.inf, r"order=inf; wanted a whole number from 1 to 3\."),
    "not a number": (np.nan, r"order=nan; wanted a whole number from 1 to 3\."),
    "string": ("2M", r"order='2M'; wanted a whole number from 1 to 3, not a string\."),
    "numeral": ("3", r"order='3'; wanted a whole number from 1 to 3, not a string\."),
    "boolean": (True, r"order=True; wanted a whole number from 1 to 3\."),
    "nothing": (None, r"order=None; wanted a whole number from 1 to 3\."),
}


@pytest.mark.parametrize(("value", "message"), NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_is_no_whole_number_within_the_limits_is_refused(value, message):
    for check in (errors.check_whole, lambda name, option, *rest: errors.check_order(name, *rest)):
        limits = (1, 3) if check is errors.check_whole else (3,)
        with pytest.raises(ValueError, match="^here: " + message):
            check("here", "order", value, *limits)


def test_a_whole_number_may_have_no_upper_limit():
    errors.check_whole("here", "steps", 10**6, 1)
    with pytest.raises(ValueError, match=r"steps=0; wanted a whole number of at least 1\."):
        errors.check_whole("here", "steps", 0, 1)
