"""SNIP, GraSP and SynFlow by hand."""

import jax
import jax.numpy as jnp
import pytest

from supjax.topologies import grasp, snip, synflow

KEY = jax.random.key(0)


def test_snip_keeps_the_largest_products_over_all_layers():
    # |gradient * weight|: 4 and 2 in a, 3 and 1 in b; the bias has no score.
    params = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([[3.0, 0.5]]), "bias": jnp.ones(9)}
    slopes = {"a": jnp.array([[4.0, 1.0]]), "b": jnp.array([[-1.0, 2.0]]), "bias": jnp.ones(9)}

    def loss(params):
        return sum(jnp.sum(params[name] * slopes[name]) for name in params)

    masks = snip(0.5).init(KEY, params, loss_fn=loss).masks
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [[True, False]]
    assert masks["bias"] is None


def test_grasp_keeps_the_largest_signed_products():
    # loss r^2 / 2 with r = w0 + w1 - w2 = 1 at w = (3, 3, 5): g = (1, 1, -1), H g = 3 g, and
    # w * H g = (9, 9, -15). By magnitude the last one would win; of the equal two, the first.
    params = {"w": jnp.array([[3.0], [3.0], [5.0]])}

    def loss(params):
        return jnp.sum(params["w"][:, 0] * jnp.array([1.0, 1.0, -1.0])) ** 2 / 2

    masks = grasp(0.34).init(KEY, params, loss_fn=loss).masks
    assert masks["w"].tolist() == [[True], [False], [False]]


def test_grasp_takes_the_gradient_of_sparse_weights_alone():
    # loss a0^2/2 + a1^2/2 + 10 a1 b at a = (2, 1), b = -1: g = (2, -9) and b's 10. H g = (2, -9)
    # without b, (2, 91) with it; a * H g is (4, -9) or (4, 91).
    params = {"a": jnp.array([[2.0, 1.0]]), "b": jnp.array([-1.0])}

    def loss(params):
        a, b = params["a"][0], params["b"][0]
        return jnp.sum(a**2) / 2 + 10 * a[1] * b

    assert grasp(0.5).init(KEY, params, loss_fn=loss).masks["a"].tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("rounds", "first", "second"),
    [
        # |w * dR/dw|: [3, 4, 6, 1] and [9, 5]. At once, the three largest stay.
        (1, [[False, False], [True, False]], [[True], [True]]),
        # Keep 5: 1 goes; scores become [3, 4, 6, -] and [9, 4]. Keep 4: 3 goes; [-, 4, 6, -] and
        # [6, 4]. Keep 3: of the equal two the one in the second layer goes.
        (3, [[False, True], [True, False]], [[True], [False]]),
    ],
)
def test_synflow_prunes_by_flow_round_by_round(rounds, first, second):
    params = {"first": jnp.array([[1.0, -4.0], [2.0, 1.0]]), "second": jnp.array([[-3.0], [1.0]])}

    def output(params):
        return jnp.ones((1, 2)) @ params["first"] @ params["second"]

    masks = synflow(0.5, rounds=rounds).init(KEY, params, output_fn=output).masks
    assert masks["first"].tolist() == first
    assert masks["second"].tolist() == second
