"""Colours that alone distinguish two things can be distinguished by colour-blind people too."""

from __future__ import annotations

import itertools

import pytest

from candleflow.dashboard.colours import FALLING, LINES, PLAIN, RISING

Colour = tuple[float, float, float]
Matrix = tuple[Colour, Colour, Colour]

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE Transactions on Visualization and Computer Graphics 15 (6), 2009: severity 1.0, for linear RGB.
SIGHTS: dict[str, Matrix] = {
    "all colours": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
# sRGB's own, IEC 61966-2-1, and its white, D65.
_XYZ: Matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE: Colour = (0.9505, 1.0, 1.089)

LEAST_DIFFERENCE = 15.0
"""Minimum difference as CIE Delta E 76. 2.3 is just noticeable for areas side by side; lines are thin and
apart."""
TOGETHER = {
    # Closes can be drawn as a line too. Lines over candles differ from them by shape.
    "lines": [RISING, *LINES.values()],
    "directions": [RISING, FALLING],
    "MACD, its signal and its bars": [RISING, FALLING, PLAIN],
}
"""The same colours on light and dark. Hatching, crosses, diamonds and dots are distinguished by shape."""


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("together", TOGETHER)
def test_colours_that_are_drawn_together_stay_apart(together: str, sight: str) -> None:
    differences = {
        pair: _difference(*(_lab(_seen(one, SIGHTS[sight])) for one in pair))
        for pair in itertools.combinations(TOGETHER[together], 2)
    }
    too_alike = {pair: round(one, 1) for pair, one in differences.items() if one < LEAST_DIFFERENCE}
    assert too_alike == {}


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("grey", ["#000000", "#808080", "#ffffff"])
def test_greys_are_the_same_to_all(grey: str, sight: str) -> None:
    assert _seen(grey, SIGHTS[sight]) == pytest.approx(_seen(grey, SIGHTS["all colours"]), abs=1e-5)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [("#ff0000", (53.2, 80.1, 67.2)), ("#ffffff", (100, 0, 0)), ("#808080", (53.6, 0, 0))],
)
def test_known_colours_get_their_known_lab_values(colour: str, lab: Colour) -> None:
    assert _lab(_seen(colour, SIGHTS["all colours"])) == pytest.approx(lab, abs=0.1)


def _seen(colour: str, sight: Matrix) -> Colour:
    """Return the colour, in linear RGB, as a person with that colour vision sees it."""
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    red, green, blue = _times(sight, (red, green, blue))
    return _within(red), _within(green), _within(blue)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))


def _lab(linear: Colour) -> Colour:
    x, y, z = (_root(value / white) for value, white in zip(_times(_XYZ, linear), _WHITE, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _root(value: float) -> float:
    return float(value ** (1 / 3)) if value > (6 / 29) ** 3 else value / (3 * (6 / 29) ** 2) + 4 / 29


def _times(matrix: Matrix, colour: Colour) -> Colour:
    first, second, third = (sum(a * b for a, b in zip(row, colour, strict=True)) for row in matrix)
    return first, second, third


def _difference(one: Colour, other: Colour) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5)
