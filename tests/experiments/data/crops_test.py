import math

import numpy as np
import pytest

from experiments.data.crops import centre_box, random_resized_box, shorter_side_size

DRAWS = 4000


def draw_boxes(height, width, count=DRAWS, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([random_resized_box(rng, height, width) for _ in range(count)])


def simulate(height, width, count, seed):
    """Heights and widths by the same law, drawn all at once and without retries' limit."""
    rng = np.random.default_rng(seed)
    area = height * width * rng.uniform(0.08, 1, 4 * count)
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 4 * count))
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths <= width) & (heights <= height)
    return heights[fits][:count], widths[fits][:count]


def distance(left, right):
    """Kolmogorov and Smirnov's distance of two samples."""
    points = np.concatenate([left, right])
    return max(abs((left <= point).mean() - (right <= point).mean()) for point in np.unique(points))


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (64, 64), (20, 31)])
def test_boxes_follow_the_law_of_torchvision(height, width):
    boxes = draw_boxes(height, width)
    heights, widths = simulate(height, width, DRAWS, seed=1)
    limit = 1.95 * math.sqrt(2 / DRAWS)  # A chance of one in a thousand.
    assert distance(boxes[:, 2], heights) < limit
    assert distance(boxes[:, 3], widths) < limit
    assert distance(boxes[:, 2] * boxes[:, 3], heights * widths) < limit


def test_boxes_are_inside_and_placed_uniformly():
    boxes = draw_boxes(60, 80)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 60).all()
    assert (left + width <= 80).all()
    for start, room in ((top, 60 - height), (left, 80 - width)):
        place = (start[room > 0] + 0.5) / (room[room > 0] + 1)
        assert abs(place.mean() - 0.5) < 5 * math.sqrt(1 / 12 / len(place))
        assert abs(place.var() - 1 / 12) < 0.01
        assert {0} <= set(start)
        assert (start[room > 0] == room[room > 0]).any()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 1000, (0, 494, 10, 13)), (1000, 10, (494, 0, 13, 10)), (1, 1, (0, 0, 1, 1))],
)
def test_images_that_no_draw_fits_get_a_box_in_the_middle(height, width, box):
    boxes = {tuple(drawn) for drawn in draw_boxes(height, width, count=300).tolist()}
    assert box in boxes
    if min(height, width) > 1:
        ratio = box[3] / box[2]
        assert 3 / 4 - 0.05 <= ratio <= 4 / 3 + 0.05


def test_the_same_generator_gives_the_same_box():
    np.testing.assert_array_equal(draw_boxes(99, 70, 5), draw_boxes(99, 70, 5))
    assert not np.array_equal(draw_boxes(99, 70, 5), draw_boxes(99, 70, 5, seed=1))


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((375, 500), (256, 341)),
        ((500, 375), (341, 256)),
        ((256, 256), (256, 256)),
        ((100, 101), (256, 258)),
    ],
)
def test_the_shorter_side_is_scaled_and_the_longer_follows(size, scaled):
    assert shorter_side_size(*size, 256) == scaled


def test_the_centre_is_that_of_torchvision():
    assert centre_box(256, 341, 224, 224) == (16, 58, 224, 224)
    assert centre_box(5, 4, 3, 2) == (1, 1, 3, 2)
