"""The colours of the page: what is read stands out from what is behind it, in light and in dark (WCAG 2.2, AA)."""

import re
from itertools import product
from pathlib import Path

import pytest

import mralign.report

SHEET = (Path(mralign.report.__file__).parent / "viewer" / "colours.css").read_text()
READ = ("ink", "muted", "more", "less")  # colours of words
DRAWN = ("trained", "base", "published", "more", "less", "neutral", "focus", *(f"macro-{n}" for n in range(8)))
RUNS = tuple(f"run-{n}" for n in range(6))


def colours(scheme):
    """{name: (red, green, blue)} as the sheet declares them for a scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", SHEET, flags=re.DOTALL)
    declared = re.findall(r"--([\w-]+): #([0-9a-f]{6});", light if scheme == "light" else dark)
    return {name: tuple(int(code[place : place + 2], 16) for place in (0, 2, 4)) for name, code in declared}


def luminance(colour):
    """Relative luminance as WCAG defines it."""
    parts = [part / 255 for part in colour]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_have_a_contrast_of_four_and_a_half_and_marks_one_of_three(scheme):
    found = colours(scheme)
    for behind, name in product(("paper", "card"), READ):
        assert contrast(found[name], found[behind]) >= 4.5, (name, behind)
    for name in (*DRAWN, *RUNS):
        assert contrast(found[name], found["card"]) >= 3, name
    assert contrast(found["mark"], found["mark-ink"]) >= 4.5
    assert contrast(found["ink"], found["paper"]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_on_the_deepest_step_can_be_read(scheme):
    """A step of the largest weight is coloured by 46 %."""
    found = colours(scheme)
    for name in (f"macro-{n}" for n in range(8)):
        behind = tuple(0.46 * a + 0.54 * b for a, b in zip(found[name], found["card"], strict=True))
        assert contrast(found["ink"], behind) >= 4.5, name


def test_teal_is_the_aligned_model_and_nothing_else():
    for scheme in ("light", "dark"):
        found = colours(scheme)
        for name, (red, green, blue) in found.items():
            is_teal = (
                max(red, green, blue) - min(red, green, blue) > 60
                and green > 1.25 * red
                and blue > 1.25 * red
                and abs(green - blue) < 0.25 * green
            )
            assert is_teal == (name == "trained"), name
    assert SHEET.count("var(--trained)") == 1  # the tone `trained`
