"""Which leaves are sparse: the default over real networks, patterns, and the warning at init."""

import re
import warnings

import jax
import jax.numpy as jnp
import pytest

import supjax
from supjax.filters import bind, by_pattern, kernels, left_dense, no_embeddings
from supjax.trees import named_leaves
from tests.helpers.framework_nets import NETWORKS, Stacked, linen_params, shaped


def chosen(params, filter_fn=None):
    """The paths of the sparse leaves."""
    leaves = named_leaves(params)
    is_sparse = bind(filter_fn, leaves)
    return {path for path, leaf in leaves.items() if leaf is not None and is_sparse(path, leaf)}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_sparse_and_biases_scales_and_norms_are_not(name):
    make, sparse, _ = NETWORKS[name]
    params = make()
    assert chosen(params) == sparse
    flags = named_leaves(supjax.dense_masks(params))
    assert {path for path, mask in flags.items() if mask is not None} == sparse


NET = shaped(
    embed={"embedding": (20, 8)},
    body={"kernel": (8, 16), "bias": (2, 8), "norm": {"scale": (8,)}},
    head={"kernel": (16, 4), "bias": (4,)},
)

PATTERNS = [
    (["*/kernel"], {"body/kernel", "head/kernel"}),
    (["*/kernel", "!head/*"], {"body/kernel"}),
    (["!head/*"], {"embed/embedding", "body/kernel"}),
    (["!*", "head/kernel"], {"head/kernel"}),
    (["*/kernel", "!head/*", "head/kernel"], {"body/kernel", "head/kernel"}),
    (["*"], {"embed/embedding", "body/kernel", "body/bias", "head/kernel"}),
    (["body/*"], {"body/kernel", "body/bias"}),
    (["*/[ek]*"], {"embed/embedding", "body/kernel", "head/kernel"}),
    (["hea?/*"], {"head/kernel"}),
]


@pytest.mark.parametrize(("patterns", "expected"), PATTERNS)
def test_later_patterns_win(patterns, expected):
    assert chosen(NET, by_pattern(*patterns)) == expected


def test_a_pattern_with_a_slash_matches_at_the_root():
    assert chosen(shaped(kernel=(2, 3), bias=(3,)), by_pattern("*/kernel")) == {"kernel"}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ([], "by_pattern takes patterns such as '*/kernel', got None"),
        ([""], "by_pattern takes patterns such as '*/kernel', got ''"),
        (["!"], "by_pattern takes patterns such as '*/kernel', got '!'"),
        ([3], "by_pattern takes patterns such as '*/kernel', got 3"),
    ],
)
def test_what_is_no_pattern_is_refused(patterns, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        by_pattern(*patterns)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["*/kernle"], "pattern '*/kernle' matches no floating-point leaf with two or more dim"),
        (["*/scale"], "pattern '*/scale' matches no floating-point leaf with two or more dim"),
        (["*/kernel", "!haed/*"], "pattern '!haed/*' matches no leaf of the params; there are"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named_in_one_line(patterns, words):
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        supjax.dense_masks(NET, by_pattern(*patterns))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("embed/embedding", False),
        ("tok_embed/weight", False),
        ("wte/weight", False),
        ("position_embedding", False),
        ("patch_embed/kernel", True),
        ("embed_proj/weight", True),
        ("body/kernel", True),
        ("body/bias", False),
    ],
)
def test_no_embeddings_leaves_tables_dense(path, expected):
    assert no_embeddings(path, jax.ShapeDtypeStruct((8, 16), jnp.float32)) is expected


def test_filters_combine():
    keeps_head = by_pattern("!head/*")
    assert chosen(NET, no_embeddings & keeps_head) == {"body/kernel"}
    assert chosen(NET, keeps_head | by_pattern("head/*")) == chosen(NET)
    assert chosen(NET, kernels & (lambda path, leaf: "head" in path)) == {"head/kernel"}


def test_whole_numbers_are_never_kernels():
    assert chosen({"table": jnp.ones((3, 4), jnp.int32), "w": jnp.ones((3, 4))}) == {"w"}


def test_the_default_has_a_public_name():
    assert supjax.default_filter is kernels


def test_a_stack_of_vectors_is_no_kernel():
    params = shaped(blocks={"up": {"kernel": (3, 8, 4), "bias": (3, 4)}, "gate": {"ls": (3, 4)}})
    assert chosen(params) == {"blocks/up/kernel"}


UNUSUAL = {
    "mix": {"scale": jnp.ones((8, 8))},
    "body": {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8)},
}


def warned(run):
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "topology",
    [
        supjax.make_topology("rigl", density=0.5),
        supjax.make_topology("static", density=1.0),
        supjax.make_topology("gmp", density=0.5, ramp_end=10),
    ],
)
def test_init_warns_once_of_what_stays_dense(topology):
    (message,) = warned(lambda: topology.init(jax.random.key(0), UNUSUAL))
    assert message.startswith("64 of 136 weights stay dense")
    assert "mix/scale" in message
    assert "\n" not in message


def test_the_warning_comes_from_shapes_alone():
    topology = supjax.make_topology("rigl", density=0.5)
    traced = warned(lambda: jax.eval_shape(topology.init, jax.random.key(0), UNUSUAL))
    assert len(traced) == 1


def test_both_filters_of_the_warning_work():
    (message,) = warned(lambda: supjax.dense_masks(UNUSUAL))
    offered = re.findall(r"filter_fn=(supjax\.[\w.]+(?: \| [\w.]+)?\(.*?\))", message)
    assert len(offered) == 2
    sparse, dense = (eval(text, {"supjax": supjax}) for text in offered)
    assert chosen(UNUSUAL, sparse) == {"mix/scale", "body/kernel"}
    assert chosen(UNUSUAL, dense) == {"body/kernel"}


def test_who_gives_a_filter_is_not_warned():
    assert not warned(lambda: supjax.dense_masks(UNUSUAL, by_pattern("*/kernel")))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_usual_network_warns(name):
    params = NETWORKS[name][0]()
    assert not warned(lambda: supjax.init_masks(jax.random.key(0), params, 0.5))


def test_left_dense_counts_two_and_more_dimensions():
    params = linen_params(Stacked(), jnp.ones((2, 16, 32)))
    dense = left_dense(params)
    assert dense["blocks/norm/scale"] == 3 * 32
    assert dense["blocks/attention/query/bias"] == 3 * 32
    assert not {"head/bias", "head/kernel"} & dense.keys()


def test_the_summary_counts_what_is_dense_and_shows_stacks():
    params = {
        "up": {"kernel": jnp.ones((3, 4, 8)), "bias": jnp.ones((3, 8))},
        "head": {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)},
    }
    kernel = jnp.zeros((3, 4, 8), bool).at[:, :2].set(True)
    masks = supjax.dense_masks(params) | {"up": {"kernel": kernel, "bias": None}}
    lines = {line.split("  ")[0]: line for line in supjax.summary(params, masks).splitlines()}
    assert "3 * 4x8" in lines["up/kernel"]
    assert "(16 each)" in lines["up/kernel"]
    assert "3 * 4x8" not in lines["head/kernel"]
    assert re.search(r"1 leaf +24 +24 +dense$", lines["dense with 2 or more dimensions"])
    uneven = masks | {"up": {"kernel": kernel.at[0].set(True), "bias": None}}
    assert "(16 to 32 each)" in supjax.summary(params, uneven)
