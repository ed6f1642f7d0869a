"""The grammar of --slow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import UsageError
from leash.ps.slowness.by_rank import parse_slow
from leash.ps.slowness.grammar import SLOWNESS_EXAMPLES, Draw, Pause, Slowness, Term, parse_slowness


def constant(seconds: float) -> Term:
    return Term(Draw("constant", (seconds,)))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("0.2", (constant(0.2),)),
        ("1e+3", (constant(1000.0),)),
        ("exp:0.2", (Term(Draw("exp", (0.2,))),)),
        ("pareto:2,0.1", (Term(Draw("pareto", (2.0, 0.1))),)),
        ("normal:0.3,0.05", (Term(Draw("normal", (0.3, 0.05))),)),
        ("uniform:0.1,0.3", (Term(Draw("uniform", (0.1, 0.3))),)),
        ("pause:every=30,for=5", (Term(Pause(every_s=30.0, for_s=5.0)),)),
        ("0.2+pause:chance=0.02,for=5", (constant(0.2), Term(Draw("chance", (0.02, 5.0))))),
        (
            "0.2@..60+exp:0.8@60..+1@5..6",
            (
                Term(Draw("constant", (0.2,)), 0.0, 60.0),
                Term(Draw("exp", (0.8,)), 60.0),
                Term(Draw("constant", (1.0,)), 5.0, 6.0),
            ),
        ),
    ],
)
def test_each_form_says_what_it_looks_like(text: str, terms: tuple[Term, ...]) -> None:
    assert parse_slowness(text) == Slowness(text, terms)


def test_a_list_by_rank_takes_commas_or_slashes_where_items_have_their_own() -> None:
    assert [str(item) for item in parse_slow("0.2,0.3@..60,1", 3)] == ["0.2", "0.3@..60", "1"]
    mixed = "normal:0.3,0.05/0.2/0.1+pause:chance=0.02,for=5"
    assert [str(item) for item in parse_slow(mixed, 3)] == mixed.split("/")


amounts = st.sampled_from(
    ["0", "0.25", "2e-3", "exp:0.2", "pareto:2.5,0.1", "normal:0.3,0.05", "uniform:0,1",
     "pause:every=30,for=5", "pause:chance=0.5,for=1"]
)  # fmt: skip
windows = st.sampled_from(["", "@..60", "@60..", "@1.5..60"])
items = st.lists(st.tuples(amounts, windows).map("".join), min_size=1, max_size=3).map("+".join)


@given(st.lists(items, min_size=2, max_size=5))
def test_what_is_dealt_out_to_a_worker_is_read_there_as_it_was_here(texts: list[str]) -> None:
    """`leash launch` gives each worker its own item as a text."""
    dealt = parse_slow("/".join(texts), len(texts))
    assert [parse_slow(str(slowness), 1) for slowness in dealt] == [[s] for s in dealt]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "such as 0.2, exp:0.2"),
        ("", "such as 0.2, exp:0.2"),
        ("-1", "give seconds, 0 or more"),
        ("nan", "give seconds, 0 or more"),
        ("inf", "give seconds, 0 or more"),
        ("exp", "such as 0.2, exp:0.2"),
        ("0.2++1", "expected numbers"),
        ("gamma:2", "there are exp, normal, uniform, pareto, pause"),
        ("exp:", "expected numbers"),
        ("exp:0.2,0.3", "exp takes its mean, such as exp:0.2"),
        ("exp:0.2,exp:0.3", "exp takes its mean"),
        ("normal:1", "such as normal:0.3,0.05"),
        ("uniform:2,1", "the smallest comes first"),
        ("pareto:1,0.1", "no mean"),
        ("pause:5", "pause:every=30,for=5"),
        ("pause:every=30", "pause:chance=0.02,for=5"),
        ("pause:chance=2,for=5", "a chance is at most 1"),
        ("0.2@60", "such as 0.2@..60"),
        ("0.2@..", "such as 0.2@..60"),
        ("0.2@60..50", "ends before it begins"),
    ],
)
def test_a_wrong_one_is_refused_in_one_line_that_shows_a_right_one(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^--slow ") as caught:
        parse_slow(text, 1)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_examples_that_errors_show_are_right() -> None:
    for example in SLOWNESS_EXAMPLES.replace(" or ", ", ").split(", "):
        assert parse_slowness(example).terms
