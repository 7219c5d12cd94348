"""The procedural picture set: same seed, same pictures; and what a caption says is there."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.demo import pictures
from bayes_merger.demo.pictures import Scene

FIXED = Scene("disc", "red", "blue", "large", "plain")


def test_the_same_seed_draws_the_same_pictures_and_words() -> None:
    def once() -> tuple[np.ndarray, list[str]]:
        rng = np.random.default_rng(5)
        scenes = [pictures.scene(rng) for _ in range(6)]
        return pictures.draw(scenes, rng), [pictures.wording(told, rng) for told in scenes]

    first, again = once(), once()
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]


@pytest.mark.parametrize("colour", [name for name in pictures.COLOURS if name != "white"])
@pytest.mark.parametrize("shape", [name for name in pictures.SHAPES if name != "ring"])
def test_the_named_colour_is_at_the_centre_and_the_background_in_the_corner(shape: str, colour: str) -> None:
    told = Scene(shape, colour, "white", "large", "plain")
    picture = pictures.draw([told], np.random.default_rng(1))[0].astype(int)
    assert nearest(picture[32, 32]) == colour
    assert nearest(picture[0, 0]) == "white"


def test_a_ring_has_a_hole() -> None:
    told = Scene("ring", "red", "blue", "large", "plain")
    for picture in pictures.draw([told] * 8, np.random.default_rng(2)).astype(int):
        assert nearest(picture[32, 32]) == "blue"
        assert "red" in {nearest(pixel) for pixel in picture[32]}


def test_large_is_larger_than_small() -> None:
    rng = np.random.default_rng(3)
    large, small = (
        (pictures.draw([Scene("disc", "black", "white", size, "plain")] * 8, rng) < 90).mean()
        for size in ("large", "small")
    )
    assert large > 2 * small


def test_object_and_background_never_share_a_colour() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        told = pictures.scene(rng)
        assert told.colour != told.background
        claim = pictures.scramble(told, "colour", rng)
        assert claim.colour != claim.background
        assert claim.shape == told.shape


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (FIXED, "a large red disc on a blue background"),
        (Scene(shape="ring"), "a ring"),
        (Scene(colour="red", background="blue"), "a red shape on a blue background"),
        (Scene("cross", "red", "blue", None, "striped"), "a red cross on a striped blue background"),
    ],
)
def test_captions_say_what_is_claimed(told: Scene, text: str) -> None:
    assert pictures.caption(told) == text


def test_every_wording_names_what_is_claimed_and_nothing_else() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        told = pictures.scene(rng)
        claim = pictures.partial(told, rng)
        assert claim.holds_for(told)
        words = set(pictures.wording(claim, rng).replace(",", "").split())
        named = {word for word in (claim.shape, claim.colour, claim.background) if word}
        assert words & {*pictures.SHAPES, *pictures.COLOURS} == named


def test_a_scrambled_half_is_random() -> None:
    rng = np.random.default_rng(7)
    shapes = {pictures.scramble(FIXED, "shape", rng).shape for _ in range(60)}
    assert shapes == set(pictures.SHAPES)


def nearest(pixel: np.ndarray) -> str:
    return min(pictures.COLOURS, key=lambda name: float(np.abs(np.array(pictures.COLOURS[name]) - pixel).sum()))
