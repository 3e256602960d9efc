import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from experiments.data import jpeg
from experiments.data.checks import CorruptImageError
from experiments.data.crops import Box
from experiments.data.decoding import SquareDecoder
from tests.helpers.tiny_sets import encode, smooth_image

WHOLE = Box(0, 0, 120, 150)


@pytest.fixture(scope="module")
def image():
    return smooth_image(np.random.default_rng(0), 120, 150)


def with_pillow(data, box, size):
    """What torchvision does: decode everything, crop, resize with antialiasing."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    resized = image.crop(area).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(float)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("box", [Box(0, 0, 8, 8), Box(3, 17, 30, 20), Box(60, 100, 41, 50)])
def test_rows_above_the_cut_are_decoded_to_the_last_bit(image, box, subsampling):
    data = encode(image, subsampling=subsampling)
    whole = simplejpeg.decode_jpeg(data)[box.top :, box.left :][: box.height, : box.width]
    size = 24
    np.testing.assert_array_equal(jpeg.decode_crop(data, box, size), jpeg.resize(whole, size, size))


def test_no_more_rows_are_decoded_than_the_crop_needs(image, monkeypatch):
    decoded = []
    decode = simplejpeg.decode_jpeg

    def record(*arguments, **keywords):
        decoded.append(decode(*arguments, **keywords))
        return decoded[-1]

    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", record)
    data = encode(image)
    jpeg.decode_crop(data, Box(10, 20, 30, 40), 28)
    jpeg.decode_crop(data, WHOLE, 30)
    assert decoded[0].shape == (10 + 30 + 16, 150, 3)
    assert decoded[1].shape == (30, 38, 3)  # At a quarter of the size.


@pytest.mark.parametrize("size", [75, 100, 110, 160])
@pytest.mark.parametrize("box", [WHOLE, Box(20, 31, 100, 98), Box(5, 7, 80, 105)])
def test_scaling_is_close_to_that_of_pillow(image, box, size):
    data = encode(image)
    difference = np.abs(jpeg.decode_crop(data, box, size) - with_pillow(data, box, size))
    assert difference.mean() < 2.5


@pytest.mark.parametrize("size", [11, 13, 16, 25, 32, 50])
@pytest.mark.parametrize("box", [Box(0, 0, 120, 144), Box(16, 24, 104, 104), Box(8, 32, 112, 80)])
def test_decoding_at_a_smaller_scale_is_close_to_shrinking(image, box, size):
    data = encode(image)
    difference = np.abs(jpeg.decode_crop(data, box, size) - with_pillow(data, box, size))
    assert difference.mean() < 4


def test_shrinking_averages_fine_patterns_away():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    board = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    shrunk = jpeg.resize(board, 33, 33).astype(float)
    assert shrunk.std() < 15  # Bilinear interpolation alone leaves most of the pattern.


@pytest.mark.parametrize("sizes", [(30, 30, 17, 21), (20, 20, 33, 41), (50, 20, 30, 30)])
def test_scaling_keeps_a_constant_image(sizes):
    rows, columns, height, width = sizes
    flat = np.full((rows, columns, 3), 77, np.uint8)
    np.testing.assert_array_equal(jpeg.resize(flat, height, width), np.full((height, width, 3), 77))


@pytest.mark.parametrize("shape", [(120, 150), (150, 120), (40, 41), (700, 560)])
def test_evaluation_is_close_to_resizing_and_cutting_with_pillow(shape):
    data = encode(smooth_image(np.random.default_rng(1), *shape))
    original = Image.open(io.BytesIO(data))
    width, height = (round(side * 64 / min(shape)) for side in original.size)
    if original.width > original.height:
        width = 64 * original.width // original.height
    else:
        height = 64 * original.height // original.width
    resized = np.asarray(original.resize((width, height), Image.Resampling.BILINEAR)).astype(float)
    top, left = round((height - 56) / 2), round((width - 56) / 2)
    expected = resized[top : top + 56, left : left + 56]
    result = jpeg.decode_centre(data, 64, 56)
    assert result.shape == (56, 56, 3)
    assert np.abs(result - expected).mean() < 3


def kinds():
    rng = np.random.default_rng(2)
    colour, grey = smooth_image(rng, 90, 70), smooth_image(rng, 90, 70, channels=1)
    return {
        "progressive": (encode(colour, progressive=True), colour),
        "greyscale": (encode(grey), np.repeat(grey[..., None], 3, -1)),
        "cmyk": (encode(Image.fromarray(colour).convert("CMYK")), colour),
        "png": (encode(colour, "PNG"), colour),
        "optimised": (encode(colour, optimize=True, comment=b"x" * 300), colour),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_all_kinds_of_files_become_rgb(kind):
    data, image = kinds()[kind]
    assert jpeg.image_size(data) == (90, 70)
    box = Box(10, 5, 40, 40)
    result = jpeg.decode_crop(data, box, 40).astype(float)
    assert np.abs(result - image[10:50, 5:45]).mean() < 8
    assert jpeg.decode_crop(data, Box(0, 0, 90, 70), 20).shape == (20, 20, 3)
    assert jpeg.decode_centre(data, 40, 32).shape == (32, 32, 3)


def damaged(data):
    return {
        "cut short": data[: len(data) // 2],
        "without end": data[:-2],
        "header alone": data[:30],
        "start alone": data[:2],
        "noise": bytes(np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8)),
        "empty": b"",
        "zeros": data[:2] + bytes(400),
    }


@pytest.mark.parametrize("kind", list(damaged(b"")))
def test_damaged_files_are_told_apart(image, kind):
    data = damaged(encode(image))[kind]
    with pytest.raises(CorruptImageError):
        jpeg.decode_crop(data, Box(0, 0, 8, 8), 8)
    with pytest.raises(CorruptImageError):
        jpeg.decode_centre(data, 64, 56)


def test_training_draws_a_crop_and_a_flip_and_evaluation_nothing(image):
    data, decoder = encode(image), SquareDecoder(32)
    trained = [decoder.train(data, np.random.default_rng(seed)) for seed in range(200)]
    assert {result.shape for result in trained} == {(32, 32, 3)}
    assert len({result.tobytes() for result in trained}) > 190
    again = decoder.train(data, np.random.default_rng(7))
    np.testing.assert_array_equal(again, trained[7])
    np.testing.assert_array_equal(decoder.evaluate(data), jpeg.decode_centre(data, 37, 32))


def test_half_of_the_training_images_are_mirrored():
    ramp = np.broadcast_to(np.linspace(0, 255, 96)[None, :, None], (80, 96, 3)).astype(np.uint8)
    data, decoder = encode(ramp), SquareDecoder(16)
    rising = 0
    for seed in range(600):
        result = decoder.train(data, np.random.default_rng(seed)).astype(int)
        rising += result[:, -1].sum() > result[:, 0].sum()
    assert abs(rising / 600 - 0.5) < 5 * 0.5 / np.sqrt(600)
