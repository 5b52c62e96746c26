"""Prompts that change with the step, by the rules of AUTOMATIC1111's web UI.

Expected values are what the web UI's own `get_learned_conditioning_prompt_schedules` gives, where a
run of equal texts is one; the first rows are the examples in its documentation.
"""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.test_prompt_weights import SYNTAX

from latentrt.runtime.prompts.schedule import Steps, changes

Texts = list[tuple[int, str]]

STEPS = 10


def turns(*texts: str) -> Texts:
    """One of the texts at each of ten steps, in turn."""
    return [(step, texts[(step - 1) % len(texts)]) for step in range(1, STEPS + 1)]


TABLE: list[tuple[str, Texts]] = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", turns("a", "(b:1.1)")),
    ("[fe|]male", turns("female", "male")),
    (
        "[fe|||]male",
        [(1, "female"), (4, "male"), (5, "female"), (8, "male"), (9, "female"), (10, "male")],
    ),
    ("[a:b:0.5]", [(5, "a"), (10, "b")]),
    ("[a::0.5]", [(5, "a"), (10, "")]),
    ("[:b:3]", [(3, ""), (10, "b")]),
    ("[::3]", [(10, "")]),
    ("[a:b]", [(10, "[a:b]")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[a:b:1]", [(1, "a"), (10, "b")]),
    ("[a:b:20]", [(10, "a")]),
    ("[a:b:-1]", [(10, "b")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:0.05]", [(10, "b")]),
    ("[a:b:1e0]", [(1, "a"), (10, "b")]),
    ("[a:b:+3 ]", [(3, "a"), (10, "b")]),
    ("[a:b:3 4]", [(10, "[a:b:3 4]")]),
    ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
    ("[x [a:b:c:3]:y:5]", [(10, "[x [a:b:c:3]:y:5]")]),
    ("[a ) b:c:3]", [(10, "[a ) b:c:3]")]),
    ("[ x ( [ a ) : y : 3 ]", [(10, "[ x ( [ a ) : y : 3 ]")]),
    (r"[a\:b:c:3]", [(3, r"a\:b"), (10, "c")]),
    (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    ("[3:5]", [(5, ""), (10, "3")]),
    ("[[a:b:3]]", [(3, "[a]"), (10, "[b]")]),
    ("([a:b:3]:1.2)", [(3, "(a:1.2)"), (10, "(b:1.2)")]),
    ("[a:b:3][c:d:5]", [(3, "ac"), (5, "bc"), (10, "bd")]),
    ("[a|[b|c]]", turns("a", "c")),
    ("[a:[b|c]:3]", [(3, "a"), *turns("b", "c")[3:]]),
    ("[[a:b:2]|c]", [(1, "a"), (2, "c"), *turns("b", "c")[2:]]),
    ("[a\n|b]", turns("a\n", "b")),
    ("", [(10, "")]),
]


@pytest.mark.parametrize(("prompt", "expected"), TABLE, ids=[prompt for prompt, _ in TABLE])
def test_texts_change_at_the_steps_of_the_web_ui(prompt: str, expected: Texts) -> None:
    assert list(changes(prompt, Steps(STEPS))) == expected


def test_the_example_of_the_web_ui_changes_four_times() -> None:
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]"
    )
    begin = "fantasy landscape with a"
    assert list(changes(prompt, Steps(100))) == [
        (25, f"{begin} mountain and an oak in foreground shoddy"),
        (50, f"{begin} lake and an oak in foreground in background shoddy"),
        (60, f"{begin} lake and an oak in foreground in background masterful"),
        (75, f"{begin} lake and an oak in background masterful"),
        (100, f"{begin} lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("[a:b:13]", [(3, "a"), (10, "b")]),
        ("[a:b:3]", [(10, "b")]),
        ("[a|b]", turns("a", "b")),
    ],
)
def test_a_second_pass_has_the_numbers_beyond_those_of_the_first(
    prompt: str, expected: Texts
) -> None:
    assert list(changes(prompt, Steps(STEPS, earlier=10))) == expected


# Where the web UI reads no change at all, since its grammar fails on the whole prompt.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a | b [c:3]", [(3, "a | b "), (10, "a | b c")]),
        ("(a|b) [c:3]", [(3, "(a|b) "), (10, "(a|b) c")]),
        ("[a|b:3]", [(3, ""), (10, "a|b")]),
        ("[c:3] \\", [(3, " \\"), (10, "c \\")]),
        ("[a:b:3](]", [(3, "a(]"), (10, "b(]")]),
        ("[a:b:1e999]", [(10, "a")]),
    ],
)
def test_bars_and_backslashes_elsewhere_are_text(prompt: str, expected: Texts) -> None:
    assert list(changes(prompt, Steps(STEPS))) == expected


@given(st.one_of(SYNTAX, st.text(max_size=60)), st.integers(1, 12))
def test_every_text_has_a_schedule_that_ends_with_the_last_step(prompt: str, steps: int) -> None:
    found = changes(prompt, Steps(steps))
    lasts = [last for last, _ in found]
    assert lasts == sorted(set(lasts))
    assert lasts[0] >= 1
    assert lasts[-1] == steps
    for text in (text for _, text in found):
        kept = iter(prompt)
        assert all(character in kept for character in text)
    assert all(a != b for (_, a), (_, b) in itertools.pairwise(found))


@given(st.text(alphabet=st.characters(exclude_characters="["), max_size=60))
def test_a_text_without_square_brackets_never_changes(prompt: str) -> None:
    assert changes(prompt, Steps(STEPS)) == ((STEPS, prompt),)


@pytest.mark.parametrize(
    "repeated", ["[", "]", "[a:b:3]", "[a|", "[a:", "([", "[a", ":3]", "|", "\\", "1", "[[a:b:2]:"]
)
def test_the_time_for_a_schedule_grows_with_the_length(repeated: str) -> None:
    # Ten times as long; with the square of the length it would take a hundred times.
    assert seconds(repeated * 5_000) < 30 * seconds(repeated * 500) + 0.02


@pytest.mark.parametrize(
    "prompt", ["[" * 50_000 + "a" + "]" * 50_000, "[a:" * 9_000 + ":3]" * 9_000]
)
def test_brackets_may_nest_deeper_than_functions(prompt: str) -> None:
    assert changes(prompt, Steps(STEPS))[-1][0] == STEPS


def seconds(prompt: str) -> float:
    """The processor's time, the least of three runs."""
    found: list[float] = []
    for _ in range(3):
        begun = time.process_time()
        changes(prompt, Steps(2))
        found.append(time.process_time() - begun)
    return min(found)
