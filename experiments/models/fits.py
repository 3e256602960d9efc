"""Whether a network can take images of a shape, found out before anything is compiled."""

import jax
import jax.numpy as jnp

from experiments.errors import ConfigError
from experiments.models.layers import Network
from supjax.types import PyTree


def network_shapes(model: Network, image_shape: tuple[int, int, int]) -> PyTree:
    """Return shapes and types of a network's variables for images of this shape.

    Args:
      model: the network.
      image_shape: `(height, width, channels)`.

    Returns:
      `jax.ShapeDtypeStruct`s: `params`, and `batch_stats` where it has some.

    Raises:
      ConfigError: if it cannot take such images; in one line that names the network, the shape
        and the limit.

    >>> from experiments.models import create_model
    >>> network_shapes(create_model("vgg16", 10), (8, 8, 3))
    Traceback (most recent call last):
      ...
    experiments.errors.ConfigError: VGG16 does not fit images of 8x8x3 (height, width, ...
    """
    height, width, channels = image_shape
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), images)
    except Exception as error:  # Layers that shrink an image to nothing raise almost anything.
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{type(model).__name__} does not fit images of {height}x{width}x{channels} (height,"
            f" width, channels): {reason}"
        ) from error
