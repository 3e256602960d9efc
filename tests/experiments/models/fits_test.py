import jax
import pytest

from experiments.errors import ConfigError
from experiments.models import create_model
from experiments.models.fits import network_shapes
from tests.experiments.models.conftest import TINY


@pytest.mark.parametrize(
    ("name", "shape", "limit"),
    [
        ("vgg16", (8, 8, 1), "32 to 63 pixels a side"),
        ("vgg16", (20, 40, 3), "32 to 63 pixels a side"),
        ("vgg16", (64, 64, 3), "32 to 63 pixels a side"),
        ("vgg19", (20, 15, 3), "at least 16 pixels a side"),
        ("lenet5", (8, 8, 1), "at least 16 pixels a side"),
        ("resnet20", (0, 8, 3), "at least 1 pixels a side"),
    ],
)
def test_images_that_a_network_cannot_take_are_told_in_one_line(name, shape, limit):
    with pytest.raises(ConfigError) as error:
        network_shapes(create_model(name, 10, width=0.1), shape)
    text = str(error.value)
    assert f"does not fit images of {'x'.join(map(str, shape))} (height" in text
    assert limit in text
    assert "\n" not in text
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "shape"),
    [("vgg16", (32, 40, 3)), ("vgg19", (20, 40, 13)), ("resnet20", (8, 8, 1)), ("mlp", (1, 9, 2))],
)
def test_images_that_fit_pass(name, shape):
    shapes = network_shapes(create_model(name, 10, width=0.1), shape)
    assert jax.tree.leaves(shapes["params"])


SHAPES = [(1, 1, 1), (1, 9, 2), (3, 3, 13), (8, 8, 1), (15, 64, 3), (16, 16, 3), (20, 40, 3)]
SHAPES += [(28, 28, 1), (31, 33, 3), (32, 32, 3), (63, 32, 4), (64, 64, 3), (0, 8, 3), (8, 8, 0)]


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_network_takes_images_of_a_shape_or_says_which_it_takes(name):
    options, usual = TINY[name]
    model = create_model(name, 7, **options)
    taken = []
    for shape in [usual, *SHAPES]:
        try:
            variables = network_shapes(model, shape)
        except ConfigError as error:
            text = str(error)
            assert f"does not fit images of {'x'.join(map(str, shape))} (height" in text
            assert text.isprintable()
            assert len(text) < 500
            continue
        taken.append(shape)
        assert all(leaf.size for leaf in jax.tree.leaves(variables))
        images = jax.ShapeDtypeStruct((2, *shape), "float32")
        logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
        assert logits.shape == (2, 7)
    assert usual in taken
    assert (8, 8, 0) not in taken
