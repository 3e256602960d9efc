"""Decoding no more of a JPEG file than a crop needs, and scaling it with little aliasing.

Three savings over decoding an image and resizing a part of it, none of which needs TensorFlow:

- Rows below the crop are never decoded: the header is given a smaller height, and the decoder stops
  there. The rows that it does decode are the same to the last bit.
- A crop at least twice as large as the result is decoded at 1/2, 1/4 or 1/8 of its size, where the
  cosine transform of JPEG has less to compute.
- What scaling is left (a factor below two) is a three-tap filter with the variance of Pillow's
  antialiasing kernel, followed by bilinear interpolation: closer to Pillow's result than OpenCV's
  area averaging, at a fraction of either's cost.
"""

import io
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from experiments.data.checks import CorruptImageError
from experiments.data.crops import Box, centre_box, shorter_side_size
from experiments.errors import one_line

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_MARKERS = frozenset({0xC0, 0xC1})  # Rows come in order; progressive scans do not.
_MARGIN_ROWS = 16  # Chroma upsampling looks into the next block of at most 16 rows.
_SCALES = (8, 4, 2)
_MOST_PIXELS = 100_000_000  # Of an image; ImageNet's largest has 61 million.


class _Frame(NamedTuple):
    height: int
    width: int
    height_at: int  # Position in the file of the two bytes that hold the height.
    sequential: bool


def decode_crop(data: bytes, box: Box, size: int) -> np.ndarray:
    """Decode a part of an image and scale it to a square.

    Args:
      data: the file, JPEG or anything else that OpenCV reads.
      box: the part, in pixels of the image.
      size: edge of the result, in pixels.

    Returns:
      uint8 RGB `[size, size, 3]`.

    Raises:
      CorruptImageError: if the file cannot be decoded.
    """
    scale = _scale_for(min(box.height, box.width), size)
    image = _decode(data, scale, box.top + box.height)
    # At a smaller scale the box's edges move to whole pixels, by at most half a pixel.
    rows = slice(round(box.top / scale), round((box.top + box.height) / scale))
    columns = slice(round(box.left / scale), round((box.left + box.width) / scale))
    return resize(image[rows, columns], size, size)


def decode_centre(data: bytes, shorter_side: int, size: int) -> np.ndarray:
    """Decode an image for evaluation: scaled to a shorter side, then the middle cut out.

    Args:
      data: the file, JPEG or anything else that OpenCV reads.
      shorter_side: length of the shorter side after scaling, in pixels (256 for ImageNet).
      size: edge of the square in the middle, in pixels (224 for ImageNet).

    Returns:
      uint8 RGB `[size, size, 3]`.

    Raises:
      CorruptImageError: if the file cannot be decoded.
    """
    height, width = image_size(data)
    image = _decode(data, _scale_for(min(height, width), shorter_side), height)
    scaled = resize(image, *shorter_side_size(height, width, shorter_side))
    box = centre_box(scaled.shape[0], scaled.shape[1], size, size)
    return scaled[box.top : box.top + size, box.left : box.left + size]


def image_size(data: bytes) -> tuple[int, int]:
    """Return `(height, width)` of an image file, from its header alone if it is a JPEG.

    Raises:
      CorruptImageError: if it is no image.
    """
    if data.startswith(_START_OF_IMAGE):
        frame = _read_frame(data)
        return frame.height, frame.width
    height, width = _decode_other(data).shape[:2]
    return height, width


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image; close to Pillow's antialiased bilinear filter for factors up to two.

    Shrinking by f widens Pillow's triangle kernel to variance f^2 / 6; bilinear interpolation has
    1/6, and the taps (k, 1 - 2k, k) add 2k, hence k = (f^2 - 1) / 12.

    Args:
      image: uint8 `[H, W, 3]`.
      height: of the result, in pixels.
      width: of the result, in pixels.

    Returns:
      uint8 `[height, width, 3]`.
    """
    rows, columns = image.shape[:2]
    if rows > height or columns > width:
        image = cv2.sepFilter2D(
            image, -1, _taps(columns / width), _taps(rows / height), borderType=cv2.BORDER_REPLICATE
        )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _taps(factor: float) -> np.ndarray:
    side = (min(max(factor, 1.0), 2.0) ** 2 - 1) / 12
    return np.array((side, 1 - 2 * side, side), np.float32)


def _scale_for(pixels: int, wanted: int) -> int:
    return next((scale for scale in _SCALES if pixels >= scale * wanted), 1)


def _decode(data: bytes, scale: int, rows: int) -> np.ndarray:
    """Decode the first `rows` rows or more, at 1/scale of the size."""
    if not data.startswith(_START_OF_IMAGE):
        image = _decode_other(data)
        return image if scale == 1 else image[::scale, ::scale]
    frame = _read_frame(data)
    if data.rfind(_END_OF_IMAGE) < frame.height_at:
        raise CorruptImageError("the JPEG file is cut short")
    height, rows = frame.height, rows + _MARGIN_ROWS
    if rows < height and frame.sequential:
        data = data[: frame.height_at] + rows.to_bytes(2, "big") + data[frame.height_at + 2 :]
        height = rows
    try:
        # Not strict: what follows the last row that is wanted is expected to be left over.
        return simplejpeg.decode_jpeg(
            data, min_height=-(-height // scale), min_width=-(-frame.width // scale), strict=False
        )
    except ValueError as error:
        raise CorruptImageError(str(error)) from error


def _decode_other(data: bytes) -> np.ndarray:
    from PIL import Image  # Reads the size from the header; only few files are no JPEG.

    image = None
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_size(opened.height, opened.width)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except CorruptImageError:
        raise
    except Exception as error:  # Pillow and OpenCV raise almost anything about damaged files.
        raise CorruptImageError(
            f"neither a JPEG file nor any other image: {one_line(error)[:200]}"
        ) from error
    if image is None:
        raise CorruptImageError("neither a JPEG file nor any other image")
    return image


def _check_size(height: int, width: int) -> None:
    """Refuse a header that would have more memory reserved than any photograph needs."""
    if height * width > _MOST_PIXELS:
        raise CorruptImageError(f"the image declares {height}x{width} pixels")


def _read_frame(data: bytes) -> _Frame:
    """Find the frame header (ITU-T T.81, B.2.2)."""
    position = len(_START_OF_IMAGE)
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # A fill byte.
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            if height and width:
                _check_size(height, width)
                return _Frame(height, width, position + 5, marker in _SEQUENTIAL_MARKERS)
            break
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise CorruptImageError("the JPEG file has no readable frame header")
