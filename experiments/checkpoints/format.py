"""What a state looks like in a checkpoint: the bytes of every leaf and a manifest."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supjax.trees import path_str
from supjax.types import PyTree

FORMAT = 2
"""Version of the layout; another one is not read."""

MANIFEST = "manifest"

_NUMBERS = (bool, int, float)


class MismatchError(ValueError):
    """A sound checkpoint, but of another kind of state."""


def pack(state: Any, step: int, info: dict[str, Any]) -> dict[str, np.ndarray]:
    """Turn a state into arrays of bytes by name.

    A mask takes one bit a weight; an array with many zeros one bit an entry, plus the entries
    that are not zero; a typed key is its key data.

    Args:
      state: a NamedTuple of trees; a field that is None is absent. Arrays may live on several
        devices, and if every host holds the same ones, on several hosts.
      step: index of the state.
      info: what JSON can hold.

    Returns:
      `uint8` vectors: the manifest, and one for every leaf that is an array.

    Raises:
      ValueError: if two leaves have the same path.
      TypeError: if JSON cannot hold `info`.

    >>> import optax
    >>> import supjax
    >>> from supjax.training import create_train_state
    >>> static = supjax.make_topology("static", density=0.5)
    >>> params = {"kernel": jnp.ones((8, 8))}
    >>> state = create_train_state(jax.random.key(0), params, optax.sgd(0.1), static)
    >>> arrays = pack(state, 0, {"seconds": 1.5})
    >>> arrays["leaves/topology/masks/kernel"].nbytes  # 64 weights
    8
    >>> restored, step, info = unpack(arrays, template=state)
    >>> supjax.count_active(restored.topology.masks), step, info
    (32, 0, {'seconds': 1.5})
    """
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    paths = [path_str(path) for path, _ in flat]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"two leaves of the state have the path {twice!r}")
    leaves = [_as_leaf(leaf) for _, leaf in flat]
    arrays: dict[str, np.ndarray] = {}
    records: list[dict[str, Any]] = []
    for path, leaf, data in zip(paths, leaves, _fetch(leaves), strict=True):
        records.append({"path": path, "dtype": _dtype(leaf), "shape": list(np.shape(leaf))})
        record = records[-1]
        if isinstance(leaf, _NUMBERS):
            record["value"] = leaf
        else:
            arrays[f"leaves/{path}"], record["sparse"] = _to_bytes(data)
            if _is_key(leaf):
                record["key"] = [str(jax.random.key_impl(leaf)), data.shape[-1]]
            elif leaf.weak_type and not leaf.ndim:
                record["weak"] = True
    manifest = {
        "format": FORMAT,
        "step": step,
        "info": info,
        "absent": [name for name in state._fields if getattr(state, name) is None],
        "leaves": records,
    }
    return {MANIFEST: np.frombuffer(json.dumps(manifest).encode(), np.uint8), **arrays}


def unpack(arrays: dict[str, np.ndarray], template: Any) -> tuple[PyTree, int, dict[str, Any]]:
    """Put a state together again, bit for bit, on the default device.

    Args:
      arrays: what `pack` returned.
      template: a state of arrays or `jax.ShapeDtypeStruct`s, with all of its fields, that says
        how the leaves are nested. Which fields are absent follows from the manifest; a field that
        is None by default may be.

    Returns:
      `(state, step, info)`.

    Raises:
      MismatchError: if paths, shapes or dtypes are not the template's (the first one is named), or
        the layout is another program's.
    """
    manifest = json.loads(arrays[MANIFEST].tobytes())
    if manifest["format"] != FORMAT:
        raise MismatchError(f"its format is {manifest['format']}, this program's is {FORMAT}")
    needed = set(template._fields) - {n for n, x in template._field_defaults.items() if x is None}
    if lost := sorted(needed & set(manifest["absent"])):
        raise MismatchError(f"{lost[0]} is missing in the checkpoint")
    present = template._replace(**dict.fromkeys(manifest["absent"]))
    flat, treedef = jax.tree_util.tree_flatten_with_path(present)
    expected = {path_str(path): _as_leaf(leaf) for path, leaf in flat}
    records = {record["path"]: record for record in manifest["leaves"]}
    for path in [*expected, *records]:
        _check_same(path, records.get(path), expected.get(path))
    leaves = [_restore_leaf(records[path], arrays.get(f"leaves/{path}")) for path in expected]
    return jax.tree.unflatten(treedef, leaves), manifest["step"], manifest["info"]


def _check_same(path: str, record: dict[str, Any] | None, leaf: Any) -> None:
    if record is None:
        raise MismatchError(f"{path} is missing in the checkpoint")
    if leaf is None:
        raise MismatchError(f"{path} is only in the checkpoint")
    saved, given = (record["shape"], record["dtype"]), (list(np.shape(leaf)), _dtype(leaf))
    if saved != given:
        raise MismatchError(
            f"{path} is {saved[1]}{saved[0]} in the checkpoint, {given[1]}{given[0]} in this run"
        )


def _restore_leaf(record: dict[str, Any], raw: np.ndarray | None) -> Any:
    if raw is None:
        return record["value"]
    shape, sparse = tuple(record["shape"]), record["sparse"]
    if "key" in record:
        impl, words = record["key"]
        data = _from_bytes(raw, np.dtype(np.uint32), (*shape, words), sparse)
        return jax.random.wrap_key_data(jnp.asarray(data), impl=impl)
    data = _from_bytes(raw, jnp.dtype(record["dtype"]), shape, sparse)
    if "weak" in record:
        number = jnp.asarray(data.item())  # weakly typed, as results of Python numbers are
        if number.dtype == data.dtype:
            return number
    return jnp.asarray(data)


def _to_bytes(data: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the bytes, and whether they are of the entries alone that are not zero."""
    flat = np.ascontiguousarray(data).reshape(-1)
    if flat.dtype == bool:
        return np.packbits(flat), False
    words = flat.view(f"u{flat.itemsize}")  # bit patterns: -0.0 is not zero
    kept = words != 0
    sparse = np.concatenate([np.packbits(kept), words[kept].view(np.uint8)])
    return (sparse, True) if sparse.size < flat.nbytes else (flat.view(np.uint8), False)


def _from_bytes(
    raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], sparse: bool
) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    if dtype.kind == "b":
        return np.unpackbits(raw, count=size).view(bool).reshape(shape)
    if not sparse:
        return raw.view(dtype).reshape(shape)
    cut = -(-size // 8)
    words = np.zeros(size, f"u{dtype.itemsize}")
    words[np.unpackbits(raw[:cut], count=size).view(bool)] = raw[cut:].view(words.dtype)
    return words.view(dtype).reshape(shape)


def _as_leaf(leaf: Any) -> Any:
    """Return a Python number, jax array or `ShapeDtypeStruct` as it is, else a jax array."""
    known = type(leaf) in _NUMBERS or isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    return leaf if known else jnp.asarray(leaf)


def _dtype(leaf: Any) -> str:
    return type(leaf).__name__ if isinstance(leaf, _NUMBERS) else str(leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _fetch(leaves: list[Any]) -> list[Any]:
    """Bring leaves to the host, all at once; keys as key data, Python numbers as they are."""

    def plain(leaf: Any) -> Any:
        is_key = not isinstance(leaf, _NUMBERS) and _is_key(leaf)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.device_get([plain(leaf) for leaf in leaves])
