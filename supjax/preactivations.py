"""The pre-activations of flax's networks, as `repair` takes them."""

from typing import Any

import jax.numpy as jnp

from supjax.axes import stack_axes
from supjax.repair import PreactivationsFn
from supjax.trees import named_leaves, rehang


def linen_preactivations(module: Any, **options: Any) -> PreactivationsFn:
    """Return the function that gives what every layer of a linen module yields.

    A layer is a submodule that holds a parameter `kernel` itself, such as `nn.Dense` and `nn.Conv`.
    One that is called several times gives what all calls yield. Left out are layers whose outputs
    do not have the channels of their kernel last, and stacks of layers (`nn.scan`, `nn.vmap`).

    Args:
      module: a `flax.linen.Module`.
      **options: further arguments of `module.apply`, such as `train=False`. In training mode batch
        norm normalises by the batch, so that it follows what `repair` changes before it; what the
        running statistics become is dropped.

    Returns:
      `apply_fn(variables, *inputs) -> {"path/kernel": outputs}`.

    >>> import jax
    >>> from flax import linen as nn
    >>> module = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
    >>> variables = module.init(jax.random.key(0), jnp.ones((5, 4)))
    >>> found = linen_preactivations(module)(variables, jnp.ones((5, 4)))
    >>> {path: z.shape for path, z in found.items()}
    {'layers_0/kernel': (5, 3), 'layers_2/kernel': (5, 2)}
    """

    def apply_fn(variables: Any, *inputs: Any) -> dict[str, Any]:
        kernels = _kernels(variables["params"])

        def is_layer(part: Any, method: str) -> bool:
            return method == "__call__" and "/".join((*part.path, "kernel")) in kernels

        given = {k: v for k, v in variables.items() if k == "params" or v}
        changing = ["intermediates", *(k for k in given if k != "params")]
        _, found = module.apply(
            given, *inputs, capture_intermediates=is_layer, mutable=changing, **options
        )
        calls: dict[str, list[Any]] = {}
        for path, output in named_leaves(found.get("intermediates", {})).items():
            layer = path.rpartition("__call__/")[0]
            calls.setdefault(f"{layer}kernel", []).append(output)
        return _joined(calls, kernels)

    return apply_fn


def nnx_preactivations(model: Any, **options: Any) -> PreactivationsFn:
    """Return the function that gives what every layer of an nnx model yields.

    A layer is a module that holds an `nnx.Param` named `kernel` itself; see `linen_preactivations`.

    Args:
      model: a `flax.nnx.Module`, in the mode in which it is to be measured; it stays as it is.
      **options: further arguments of every call of the model.

    Returns:
      `apply_fn(variables, *inputs) -> {"path/kernel": outputs}`.

    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.relu)
    >>> variables = {"params": nnx.state(model, nnx.Param), "batch_stats": {}}
    >>> found = nnx_preactivations(model)(variables, jnp.ones((5, 4)))
    >>> {path: z.shape for path, z in found.items()}
    {'layers/0/kernel': (5, 3)}
    """
    from flax import nnx

    graph, *states = nnx.split(nnx.clone(model), nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = states

    def apply_fn(variables: Any, *inputs: Any) -> dict[str, Any]:
        kernels = _kernels(variables["params"])
        own = (
            rehang(variables["params"], params, ("params", "the model")),
            rehang(variables["batch_stats"], stats, ("batch_stats", "the model")),
        )
        copy = nnx.merge(graph, *own, rest, copy=True)
        calls: dict[str, list[Any]] = {}
        for path, part in nnx.iter_modules(copy):
            name = "/".join((*map(str, path), "kernel"))
            if name in kernels:
                part.__class__ = _recording(type(part), calls.setdefault(name, []))
        copy(*inputs, **options)
        return _joined(calls, kernels)

    return apply_fn


def _recording(kind: type, outputs: list[Any]) -> type:
    """Return a class whose calls leave their outputs in a list."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs.append(kind.__call__(self, *args, **kwargs))
        return outputs[-1]

    return type(kind.__name__, (kind,), {"__call__": call})


def _kernels(params: Any) -> dict[str, Any]:
    """Return the kernels of single layers by path."""
    stacks = stack_axes(params)
    return {
        path: leaf
        for path, leaf in named_leaves(params).items()
        if path.rpartition("/")[2] == "kernel" and path not in stacks
    }


def _joined(calls: dict[str, list[Any]], kernels: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of all calls of a layer along the examples."""
    joined = {}
    for path, outputs in calls.items():
        fits = [z for z in outputs if z.ndim and z.shape[-1] == kernels[path].shape[-1]]
        if fits:
            joined[path] = fits[0] if len(fits) == 1 else _concatenated(fits)
    return joined


def _concatenated(outputs: list[Any]) -> Any:
    return jnp.concatenate([z.reshape(-1, z.shape[-1]) for z in outputs])
