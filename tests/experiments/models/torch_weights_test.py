"""The networks beside the reference's own outputs, its weights read by the converter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import supjax
from experiments.models import create_model
from experiments.models.torch_weights import from_torch, ticket_from_torch, to_torch

# reference name: (our name, options)
REFERENCE = {
    "cifar_resnet_32_c10": ("resnet32", {}),
    "cifar_resnet_8_4_c10": ("resnet32", {"depth": 8, "width": 0.25}),
    "imagenet_resnet50": ("imagenet_resnet50", {}),
    "lenet_5_caffe": ("lenet5", {}),
    "mlp_cifar10": ("mlp", {}),
    "resnet50_cifar_c10": ("resnet50", {}),
    "vgg19_eighth_c10": ("vgg19", {"width": 1 / 8}),
    "vgg_like_c10": ("vgg16", {}),
    "wrn_16_2_c10": ("wrn28_10", {"depth": 16, "widen_factor": 2}),
    "wrn_28_10_c10": ("wrn28_10", {}),
}


@functools.cache
def golden(folder):
    return np.load(folder / "forward.npz")


def reference_state(names_and_shapes):
    """Redraws the weights with which the reference made its outputs (tests/vectors/README.md)."""
    rng = np.random.RandomState(1234)
    state = {}
    for entry in names_and_shapes:
        name, _, sizes = str(entry).partition(" ")
        shape = tuple(int(size) for size in sizes.split("x") if size)
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape)
        elif len(shape) > 1:
            state[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            state[name] = rng.uniform(0.5, 1.5, shape)
        else:
            state[name] = 0.1 * rng.standard_normal(shape)
    return {name: array.astype(np.float32) for name, array in state.items()}


def relative_error(actual, expected):
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("reference", sorted(REFERENCE))
def test_outputs_and_statistics_equal_the_reference(reference, golden_folder):
    vectors = golden(golden_folder)
    name, options = REFERENCE[reference]
    modes = [mode for mode in ("eval", "train") if f"{reference}/{mode}" in vectors]
    expected = {mode: vectors[f"{reference}/{mode}"] for mode in modes}
    model = create_model(name, expected["eval"].shape[-1], **options)
    draw = np.random.RandomState(99).standard_normal(vectors[f"{reference}/input_shape"])
    images = jnp.asarray(draw.transpose(0, 2, 3, 1), jnp.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    variables = from_torch(reference_state(vectors[f"{reference}/state"]), shapes)

    @jax.jit
    def forward(variables):
        outputs, stats = {}, {}
        for mode in modes:
            outputs[mode], stats = model.apply(
                variables, images, train=mode == "train", mutable=["batch_stats"]
            )
        if not reference.startswith("imagenet"):
            outputs = jax.tree.map(jax.nn.log_softmax, outputs)
        return outputs, stats

    outputs, stats = forward(variables)
    assert relative_error(outputs["eval"], expected["eval"]) < 1e-4
    if "train" in modes:
        # VGG's last batch norm sees four values a channel and so magnifies rounding: 9e-5 here,
        # where the reference itself is 2e-5 away from its own float64 result.
        limit = 3e-4 if name == "vgg16" else 1e-4
        assert relative_error(outputs["train"], expected["train"]) < limit
    running = to_torch(stats)
    prefix = f"{reference}/after_train/"
    for key in (key for key in vectors if key.startswith(prefix)):
        assert relative_error(running[key.removeprefix(prefix)], vectors[key]) < 1e-4, key


def test_round_trip(tiny):
    state = to_torch(tiny.variables)
    returned = from_torch(state, jax.eval_shape(lambda: tiny.variables))
    jax.tree.map(np.testing.assert_array_equal, returned, tiny.variables)
    again = to_torch(returned)
    assert again.keys() == state.keys()
    assert all((again[name] == state[name]).all() for name in state)
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert len(state) == len(jax.tree.leaves(tiny.variables)) + counters


@pytest.fixture
def small():
    """A state dict and the variables of one dense network."""
    model = create_model("mlp", 3, hidden=(4,))
    variables = model.init(jax.random.key(0), jnp.ones((1, 2, 2, 1)), train=False)
    return to_torch(variables), variables


class Tensor:
    """As a tensor of PyTorch on another device, of a type that NumPy does not know."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def is_floating_point(self):
        return True

    def float(self):
        return self.array


class Module:
    """As a module of PyTorch that was saved whole."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def prefixed(prefix, **more):
    return lambda state: {f"{prefix}{name}": array for name, array in state.items()} | more


def pruned(state):
    """The state dict of `prune.l1_unstructured` on every weight."""
    pairs = {}
    for name, array in state.items():
        mask = (np.arange(array.size) % 2 == 0).reshape(array.shape).astype(np.float32)
        pairs |= {name: array} if "weight" not in name else {}
        pairs |= {f"{name}_orig": array, f"{name}_mask": mask} if "weight" in name else {}
    return pairs


WRAPPED = {
    "as it is": lambda state: state,
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled in parallel": prefixed("module._orig_mod."),
    "parallel and compiled": prefixed("_orig_mod.module."),
    "compiled layers": lambda state: {
        name.replace("fc1.", "fc1._orig_mod."): array for name, array in state.items()
    },
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    "averaged": prefixed("module.", n_averaged=np.int64(7)),
    "averaged in parallel": prefixed("module.module.", **{"module.n_averaged": np.int64(7)}),
    "a checkpoint": lambda state: {"model": state, "optimizer": {"state": {}}},
    "a checkpoint of a checkpoint": lambda state: {"state_dict": {"model": state}},
    "a whole module": lambda state: {"net": Module(prefixed("module.")(state))},
    "tensors": lambda state: {name: Tensor(array) for name, array in state.items()},
    "half": lambda state: {name: jnp.asarray(x, jnp.bfloat16) for name, x in state.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names_and_wrappers_are_read_as_people_have_them(name, small):
    state, variables = small
    if name == "half":
        variables = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), variables)
    given = WRAPPED[name](state)
    jax.tree.map(np.testing.assert_array_equal, from_torch(given, variables), variables)
    ticket = ticket_from_torch(given, variables)
    assert not jax.tree.leaves(ticket.masks)


@pytest.mark.parametrize("name", sorted(WRAPPED.keys() - {"compiled layers"}))
def test_pruned_weights_come_with_their_masks(name, small):
    state, variables = small
    ticket = ticket_from_torch(WRAPPED[name](pruned(state)), variables)
    for layer, leaves in variables["params"].items():
        expected = (np.arange(leaves["kernel"].size) % 2 == 0).reshape(leaves["kernel"].T.shape).T
        np.testing.assert_array_equal(ticket.masks[layer]["kernel"], expected)
        assert ticket.masks[layer]["bias"] is None
        kept = np.where(expected, leaves["kernel"], 0)
        np.testing.assert_allclose(ticket.params[layer]["kernel"], kept, rtol=0.01)
    density = supjax.density(ticket.masks)
    assert 0.4 < density < 0.6


REFUSED = {
    "no dict": (lambda state: [state], "a state dict must hold arrays by name, got list"),
    "two lines as a name": (lambda state: state | {"a\nb": 4}, r"must be texts of one line"),
    "numbers as names": (lambda state: state | {3: 4}, r"must be texts of one line, got \[3\]"),
    "text as weights": (lambda state: state | {"fc1.weight": "x"}, "fc1.weight must hold numbers"),
    "ragged": (lambda state: state | {"fc1.weight": [[1], [1, 2]]}, "fc1.weight cannot be read"),
    "masks of halves": (
        lambda state: pruned(state) | {"fc1.weight_mask": np.full((4, 4), 0.5)},
        r"fc1.weight_mask must be 0 and 1 in the shape \(4, 4\)",
    ),
    "a mask alone": (
        lambda state: state | {"fc1.weight_mask": np.ones((4, 4))},
        r"missing \[\], unknown \['fc1.weight_mask'\]",
    ),
    "another network": (
        lambda state: {f"layer{i}.conv.weight": np.ones(3) for i in range(300)},
        r"missing \['fc1.bias', .*\], unknown \[.* and 292 more\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_state_dict_of_the_network_is_one_short_line(name, small):
    state, variables = small
    change, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as error:
        from_torch(change(state), variables)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_missing_and_unknown_names_are_named(small):
    state, variables = small
    state["fc9.weight"] = state.pop("fc1.weight")
    message = r"missing \['fc1.weight'\], unknown \['fc9.weight'\]"
    with pytest.raises(ValueError, match=message):
        from_torch(state, variables)


def test_other_shapes_are_named(small):
    state, variables = small
    state["fc2.weight"] = np.ones((3, 5))
    with pytest.raises(ValueError, match=r"fc2.weight has shape \(5, 3\) .*, expected \(4, 3\)"):
        from_torch(state, variables)
