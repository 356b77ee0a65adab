from __future__ import annotations

import numpy as np

from diffmic_jax.training import panels


def test_regions_are_framed_on_the_enlarged_image_the_strongest_in_red():
    image = np.zeros((64, 64, 3), np.uint8)
    drawn = panels.draw_regions(image, np.array([[0, 0], [32, 40]]), np.array([0.2, 0.8]), 16)
    assert drawn.shape == (128, 128, 3)
    # Frames of two pixels, from the corner to the last pixel of the region.
    red = np.argwhere((drawn == (255, 0, 0)).all(axis=-1))
    np.testing.assert_array_equal([red.min(axis=0), red.max(axis=0)], [[64, 80], [95, 111]])
    np.testing.assert_array_equal(drawn[0, 0], (255, 172, 0))
    assert not drawn[4:28, 4:28].any()


def test_attention_that_is_not_a_number_frames_the_regions_all_the_same():
    image, corners = np.zeros((64, 64, 3), np.uint8), np.array([[0, 0], [32, 40]])
    for attention in ([np.nan, 0.5], [0.0, 0.0], [np.nan, np.nan], [np.inf, 1.0]):
        assert panels.draw_regions(image, corners, np.array(attention), 16).any()


def test_an_image_without_regions_is_drawn_as_it_is():
    image = np.full((64, 64, 3), 7, np.uint8)
    assert (panels.draw_regions(image, np.zeros((0, 2), int), np.zeros(0), 16) == 7).all()


def test_a_map_is_brighter_where_it_has_more():
    drawn = panels.draw_saliency(np.array([[[1.0, 2.0], [3.0, 5.0]], np.ones((2, 2))]), 4)
    assert drawn.shape == (4, 8, 3)
    expected = [[0, 64, 0, 0], [128, 255, 0, 0]]  # of 255 a quarter, a half; one value is black
    np.testing.assert_array_equal(drawn[::2, ::2], np.repeat(np.array(expected)[..., None], 3, -1))


def test_a_run_logs_a_panel_with_every_validation(trained):
    # Going on with a finished run, as other tests do, adds a file without panels.
    text = b"".join(path.read_bytes() for path in (trained / "tensorboard").iterdir())
    assert text.count(b"regions") == 2
    assert text.count(b"PNG") == 2
