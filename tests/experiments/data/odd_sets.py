"""Tiny valid sets in every form that can be read, and ways to damage each of them."""

import functools
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image

from experiments.data.importing import array_source, write_tfds
from experiments.data.seal import SEAL, write_seal

CLASSES = 5
NAMES = [f"class_{index}" for index in range(CLASSES)]
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_LARGE = 300 << 20


class Damage(NamedTuple):
    """A way to damage a set.

    Attributes:
      name: its class in the table.
      apply: `(rng, folder, form) -> what was done`.
      unseen: whether files without a checksum may come out as others; they are said to be so.
      another: whether the result is a set of its own, which may be read as what it is.
    """

    name: str
    apply: Callable
    unseen: bool = False
    another: bool = False


class Form(NamedTuple):
    """A form in which a set can be given."""

    name: str
    write: Callable[[Path], Path]
    place: Callable[[Path], Path]
    damages: tuple[Damage, ...]
    prepared: bool = False


def base(split, channels=3, size=8):
    """Images and labels of a split; every class is there."""
    rng = np.random.default_rng(len(split))
    count = {"train": 2 * CLASSES, "test": CLASSES}[split]
    images = rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8)
    return images, np.arange(count) % CLASSES


# Damage to bytes, whatever they mean.


def some_file(rng, folder):
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def flip_bits(rng, folder, form):
    path = some_file(rng, folder)
    data = bytearray(path.read_bytes())
    places = [rng.randrange(8 * len(data)) for _ in range(rng.choice((1, 1, 2, 3)))]
    for place in places:
        data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return f"{path.name}, bits {places}"


def cut(rng, folder, form):
    path = some_file(rng, folder)
    data = path.read_bytes()
    length = rng.choice((rng.randrange(len(data)), max(len(data) - rng.randrange(1, 20), 0)))
    path.write_bytes(data[:length])
    return f"{path.name}, {length} of {len(data)} bytes"


def overwrite(rng, folder, form):
    path = some_file(rng, folder)
    data = bytearray(path.read_bytes())
    start, length = rng.randrange(len(data)), rng.randrange(1, 65)
    new = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    data[start : start + length] = new[: len(data) - start]
    path.write_bytes(data)
    return f"{path.name}, bytes {start}+{length}"


def shift(rng, folder, form):
    path = some_file(rng, folder)
    data = path.read_bytes()
    start, length = rng.randrange(len(data)), rng.randrange(1, 65)
    new = rng.choice((b"", data[start : start + length] * 2, rng.randbytes(length)))
    path.write_bytes(data[:start] + new + data[start + length :])
    return f"{path.name}, bytes {start}+{length} became {len(new)}"


def replace(rng, folder, form):
    """Put something else in a file's place: nothing, a folder, a device, another kind of file."""
    path = some_file(rng, folder)
    path.unlink()
    kind = rng.choice(
        [
            "empty",
            "text",
            "folder",
            "pipe",
            "zeros",
            "nowhere",
            "itself",
            "pickle",
            "zip",
            "gzip",
            "png",
            "long",
        ]
    )
    contents = {
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "pickle": pickle.dumps({"data": 1}, 2),
        "zip": npz_bytes({"x": np.zeros(3)}),
        "gzip": gzip.compress(b"hello" * 1000),
        "png": png(np.zeros((4, 4), np.uint8)),
        "long": bytes(3 << 20),
    }
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("zeros", "nowhere", "itself"):
        path.symlink_to({"zeros": "/dev/zero", "nowhere": "/nowhere/at/all"}.get(kind, path))
    else:
        path.write_bytes(contents[kind])
    return f"{path.name} became {kind}"


BYTES = (
    Damage("bit flips", flip_bits, unseen=True),
    Damage("truncations", cut, unseen=True),
    Damage("overwritten bytes", overwrite, unseen=True),
    Damage("lost and inserted bytes", shift, unseen=True),
)
REPLACED = Damage("other files in their place", replace)


def from_table(name, table, **options):
    """The damage that makes one of the functions of a table, `what -> (folder, form) -> None`."""

    def apply(rng, folder, form):
        what = rng.choice(sorted(table))
        table[what](folder, form)
        return what

    return Damage(name, apply, **options)


# CIFAR archives.


def pickled(images, labels, coarse=None, protocol=2, **changes):
    content = {
        b"batch_label": b"a batch",
        b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        b"labels" if coarse is None else b"fine_labels": labels.tolist(),
    }
    if coarse is not None:
        content[b"coarse_labels"] = coarse.tolist()
    return pickle.dumps(content | {k.encode(): v for k, v in changes.items()}, protocol)


def binary(images, labels, coarse=None):
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = [labels[:, None]] if coarse is None else [coarse[:, None], labels[:, None]]
    return np.concatenate([*columns, planes], axis=1).astype(np.uint8).tobytes()


@functools.cache
def cifar_files(hundred, version):
    batches = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6))]
    batches += [] if hundred else ["test_batch"]
    rng = np.random.default_rng(5)
    files = {}
    for name in batches:
        images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
        labels, coarse = rng.integers(0, 10, 2), rng.integers(0, 20, 2)
        write = pickled if version == "python" else binary
        data = write(images, labels, coarse if hundred else None)
        files[name if version == "python" else f"{name}.bin"] = data
    if not hundred and version == "python":
        files["batches.meta"] = pickle.dumps({b"label_names": [n.encode() for n in TEN]}, 2)
    if not hundred and version == "binary":
        files["batches.meta.txt"] = "\n".join([*TEN, ""]).encode()
    return files | {"readme.html": b"hello" * 50}


def tar_bytes(files, compression, kinds=()):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, data in [*files.items(), *kinds]:
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data, io.BytesIO(bytes(data.size)) if data.isreg() else None)
                continue
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def member(name, kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return name, info


def change_batch(change):
    """Change the pickle of a batch; tar archives and folders alike."""

    def apply(folder, form):
        hundred = "100" in form.name
        name = "train" if hundred else "data_batch_2"
        key = b"fine_labels" if hundred else b"labels"
        files = dict(cifar_files(hundred, "python"))
        content = pickle.loads(files[name], encoding="bytes")
        changed = change(content, key)
        files[name] = changed if isinstance(changed, bytes) else pickle.dumps(changed, 2)
        write_cifar(folder, form, files)

    return apply


def write_cifar(folder, form, files, kinds=()):
    compression = form.name.rpartition(".")[2]
    if compression == "folder":
        for name, data in files.items():
            (folder / "cifar" / name).write_bytes(data)
    else:
        packed = tar_bytes(files, "" if compression == "tar" else compression, kinds)
        form.place(folder).write_bytes(packed)


def with_data(change):
    return change_batch(lambda content, key: content | {b"data": change(content[b"data"])})


def with_labels(change):
    return change_batch(lambda content, key: content | {key: change(content[key])})


def named(global_name, arguments, state=b""):
    """A pickle that calls a global with arguments given as opcodes."""
    return b"\x80\x02c" + global_name + b"\n" + arguments + b"R" + state + b"."


PICKLES = {
    "data float": with_data(lambda x: x.astype(float)),
    "data half": with_data(lambda x: x + 0.5),
    "data wide": with_data(lambda x: x.astype(np.int64)),
    "data 300": with_data(lambda x: x.astype(np.int64) + 300),
    "data -1": with_data(lambda x: x.astype(np.int16) - 1),
    "data list": with_data(lambda x: x.tolist()),
    "data text": with_data(lambda x: x.astype(str)),
    "data objects": with_data(lambda x: x.astype(object)),
    "data bool": with_data(lambda x: x > 3),
    "data 4d": with_data(lambda x: x.reshape(2, 32, 32, 3)),
    "data short": with_data(lambda x: x[:, :3071]),
    "data half of": with_data(lambda x: x[:, :1536]),
    "data none": with_data(lambda x: None),
    "data empty": with_data(lambda x: x[:0]),
    "data flat": with_data(lambda x: x.ravel()),
    "data one fewer": with_data(lambda x: x[:1]),
    "data bytes": with_data(lambda x: x.tobytes()),
    "data number": with_data(lambda x: 7),
    "data by columns": with_data(np.asfortranarray),
    "labels float": with_labels(lambda y: [float(v) for v in y]),
    "labels half": with_labels(lambda y: [v + 0.5 for v in y]),
    "labels text": with_labels(lambda y: [str(v) for v in y]),
    "labels none": with_labels(lambda y: None),
    "labels nones": with_labels(lambda y: [None for _ in y]),
    "labels nested": with_labels(lambda y: [[v] for v in y]),
    "labels ragged": with_labels(lambda y: [y, 1]),
    "labels huge": with_labels(lambda y: [10**30 for _ in y]),
    "labels 256": with_labels(lambda y: [v + 256 for v in y]),
    "labels -1": with_labels(lambda y: [-1 for _ in y]),
    "labels 100": with_labels(lambda y: [100 for _ in y]),
    "labels bool": with_labels(lambda y: [True for _ in y]),
    "labels fewer": with_labels(lambda y: y[:1]),
    "labels empty": with_labels(lambda y: []),
    "labels array": with_labels(np.array),
    "labels 2d": with_labels(lambda y: np.array(y)[:, None]),
    "labels float array": with_labels(lambda y: np.array(y) + 0.0),
    "labels nan": with_labels(lambda y: np.array(y) * np.nan),
    "labels dict": with_labels(lambda y: dict(enumerate(y))),
    "labels of itself": with_labels(lambda y: y.append(y) or y),
    "no data": change_batch(lambda c, k: {k: c[k]}),
    "no labels": change_batch(lambda c, k: {b"data": c[b"data"]}),
    "text keys": change_batch(lambda c, k: {key.decode(): value for key, value in c.items()}),
    "number keys": change_batch(lambda c, k: c | {1: 2, None: 3, (1, 2): 4}),
    "a list": change_batch(lambda c, k: list(c.items())),
    "a number": change_batch(lambda c, k: 7),
    "nothing": change_batch(lambda c, k: b""),
    "protocol 0": change_batch(lambda c, k: pickle.dumps(c, 0)),
    "protocol 3": change_batch(lambda c, k: pickle.dumps(c, 3)),
    "protocol 4": change_batch(lambda c, k: pickle.dumps(c, 4)),
    "protocol 5": change_batch(lambda c, k: pickle.dumps(c, 5)),
    "stop": change_batch(lambda c, k: b"."),
    "pop": change_batch(lambda c, k: b"\x80\x020000."),
    "calls": change_batch(lambda c, k: b"cos\nsystem\n(S'true'\ntR."),
    "calls eval": change_batch(lambda c, k: b"cbuiltins\neval\n(S'1'\ntR."),
}
_BATCH_BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes8": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 34) + b"x.",
    "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 30) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 34) + b"}.",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "reconstruct": named(
        b"numpy.core.multiarray\n_reconstruct",
        b"(cnumpy\nndarray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85U\x01bt",
    ),
    "ndarray": named(b"numpy\nndarray", b"(\x8a\x05\x00\xe4\x0b\x54\x02\x85t"),
    "dtype": named(b"numpy\ndtype", b"(U\x0bV1000000000t"),
    "encode": b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"x" * (1 << 20) + b"q\x010("
    + b"h\x00h\x01\x85R" * 100 + b"l.",
}  # fmt: skip
PICKLE_BOMBS = {
    f"pickle {name}": change_batch(lambda c, k, data=data: data)
    for name, data in _BATCH_BOMBS.items()
}


def change_meta(content):
    def apply(folder, form):
        files = dict(cifar_files(False, "python"))
        files["batches.meta"] = pickle.dumps(content, 2) if content is not None else b""
        write_cifar(folder, form, files)

    return apply


METAS = {
    "meta nine": change_meta({b"label_names": [name.encode() for name in TEN[:9]]}),
    "meta twice": change_meta({b"label_names": [b"a"] * 10}),
    "meta numbers": change_meta({b"label_names": list(range(10))}),
    "meta none": change_meta({}),
    "meta text": change_meta({b"label_names": b"airplane"}),
    "meta lines": change_meta({b"label_names": [f"a\n{i}".encode() for i in range(10)]}),
    "meta latin": change_meta({b"label_names": [b"\xff%d" % i for i in range(10)]}),
    "meta long": change_meta({b"label_names": [b"%d" % i * 5000 for i in range(10)]}),
    "meta nothing": change_meta(None),
}


def change_binary(change):
    def apply(folder, form):
        hundred = "100" in form.name
        files = dict(cifar_files(hundred, "binary"))
        name = "train.bin" if hundred else "data_batch_3.bin"
        files[name] = change(files[name], 2 if hundred else 1)
        write_cifar(folder, form, files)

    return apply


BINARIES = {
    "nothing": change_binary(lambda data, header: b""),
    "a byte fewer": change_binary(lambda data, header: data[:-1]),
    "a byte more": change_binary(lambda data, header: data + b"x"),
    "label 100": change_binary(lambda d, header: d[: header - 1] + b"\x64" + d[header:]),
    "label 255": change_binary(lambda d, header: d[: header - 1] + b"\xff" + d[header:]),
    "text": change_binary(lambda data, header: b"hello"),
}


def with_members(*kinds):
    def apply(folder, form):
        version = "python" if "python" in form.name else "binary"
        write_cifar(folder, form, cifar_files("100" in form.name, version), kinds)

    return apply


TAR_MEMBERS = {
    "folders": with_members(member("train", tarfile.DIRTYPE), member("a/b", tarfile.DIRTYPE)),
    "link": with_members(member("test_batch", tarfile.SYMTYPE, linkname="/etc/passwd")),
    "device": with_members(member("test", tarfile.CHRTYPE)),
    "pipe": with_members(member("data_batch_1", tarfile.FIFOTYPE)),
    "hidden": with_members(("._data_batch_1", b"x"), ("._train.bin", b"x")),
    "twice": with_members(
        *((n, b"x") for n in ("train", "train.bin", "data_batch_1", "data_batch_1.bin"))
    ),
    "outside": with_members(("../../x", b"x"), ("/y", b"y")),
    "long name": with_members(("n" * 5000, b"x")),
    "odd name": with_members(("\x1b[2J\n", b"x"), ("\udcff", b"x")),
    "unknown kind": with_members(member("z", b"?")),
    "many": with_members(*((f"f{i}", b"") for i in range(300))),
}


@functools.cache
def large_tar(kind, compression):
    """An archive with a huge member behind the batches."""
    version, hundred, inside = kind
    files = cifar_files(hundred, version)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}", compresslevel=1) as archive:
        size = 80 << 20
        archive.addfile(member(inside, size=size)[1], io.BytesIO(bytes(size)))
        for name, data in files.items():
            archive.addfile(member(name, size=len(data))[1], io.BytesIO(data))
    return file.getvalue()


def large_member(inside):
    def apply(folder, form):
        version = "python" if "python" in form.name else "binary"
        kind = (version, "100" in form.name, inside)
        packed = large_tar(kind, form.name.rpartition(".")[2])
        form.place(folder).write_bytes(packed)

    return apply


def declared(kind, size, name="data_batch_1"):
    """A member whose header says more than there is."""

    def apply(folder, form):
        header = member(name, kind, size=size)[1].tobuf(tarfile.GNU_FORMAT)
        data = header + bytes(2048)
        compress = {"gz": gzip.compress, "tar": bytes}.get(form.name.rpartition(".")[2], bytes)
        form.place(folder).write_bytes(compress(data))

    return apply


TAR_BOMBS = {
    "8 GiB declared": declared(tarfile.REGTYPE, 8 << 30),
    "8 GiB of name": declared(tarfile.GNUTYPE_LONGNAME, 8 << 30),
    "8 GiB of header": declared(tarfile.XHDTYPE, 8 << 30),
    "8 EiB": declared(tarfile.REGTYPE, 8 << 60),
}
LARGE_TAR = {"large readme": large_member("readme.txt"), "large meta": large_member("meta")}


def write_unpacked(folder, form_name, files):
    (folder / "cifar").mkdir()
    for name, data in files.items():
        (folder / "cifar" / name).write_bytes(data)
    return folder / "cifar"


def cifar_form(hundred, version, compression):
    name = f"cifar{100 if hundred else 10}-{version}.{compression}"

    def place(folder):
        return folder / ("cifar" if compression == "folder" else f"c.tar.{compression}")

    def write(folder):
        if compression == "folder":
            return write_unpacked(folder, name, cifar_files(hundred, version))
        mode = "" if compression == "tar" else compression
        place(folder).write_bytes(tar_bytes(cifar_files(hundred, version), mode))
        return place(folder)

    types = PICKLES | ({} if hundred else METAS) if version == "python" else BINARIES
    damages = [*BYTES, REPLACED, from_table("wrong types", types)]
    bombs = dict(PICKLE_BOMBS) if version == "python" else {}
    if compression != "folder":
        damages.append(from_table("odd members", TAR_MEMBERS))
        bombs |= TAR_BOMBS | (LARGE_TAR if compression == "gz" else {})
    if bombs:
        damages.append(from_table("huge sizes", bombs))
    return Form(name, write, place, tuple(damages))


# IDX files.


def idx(array, kind=8, shape=None):
    shape = array.shape if shape is None else shape
    header = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return header + array.tobytes()


def idx_files():
    files = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = base(split, channels=1)
        files[f"{prefix}-images-idx3-ubyte"] = idx(images[..., 0])
        files[f"{prefix}-labels-idx1-ubyte"] = idx(labels.astype(np.uint8))
    return files


def write_idx(folder, form, **changes):
    packed = form.name.endswith("gz")
    for name, data in (idx_files() | changes).items():
        path = folder / "idx" / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data, 1) if packed else data)


def idx_change(name, data):
    return lambda folder, form: write_idx(folder, form, **{name: data})


_IMAGES, _LABELS = base("train", channels=1)
_IMAGES, _LABELS = _IMAGES[..., 0], _LABELS.astype(np.uint8)
_IDX = {"i": "train-images-idx3-ubyte", "l": "train-labels-idx1-ubyte"}
IDX_TYPES = {
    "floats": idx_change(_IDX["i"], idx(_IMAGES.astype(">f4"), 13)),
    "words": idx_change(_IDX["i"], idx(_IMAGES.astype(">i2"), 11)),
    "four axes": idx_change(_IDX["i"], idx(_IMAGES[..., None])),
    "two axes": idx_change(_IDX["i"], idx(_IMAGES.reshape(10, 64))),
    "255 axes": idx_change(_IDX["i"], b"\x00\x00\x08\xff" + bytes(20)),
    "no axes": idx_change(_IDX["i"], b"\x00\x00\x08\x00x"),
    "none": idx_change(_IDX["i"], idx(_IMAGES[:0])),
    "no pixels": idx_change(_IDX["i"], idx(_IMAGES[:, :0])),
    "one fewer": idx_change(_IDX["i"], idx(_IMAGES[:-1])),
    "labels as images": idx_change(_IDX["i"], idx(_LABELS)),
    "images as labels": idx_change(_IDX["l"], idx(_IMAGES)),
    "labels from 1": lambda folder, form: write_idx(
        folder,
        form,
        **{
            _IDX["l"]: idx(_LABELS + 1),
            "t10k-labels-idx1-ubyte": idx(np.arange(1, 6, dtype=np.uint8)),
        },
    ),
    "label 200": idx_change(_IDX["l"], idx(np.where(_LABELS == 2, 200, _LABELS).astype(np.uint8))),
    "labels 2d": idx_change(_IDX["l"], idx(_LABELS[:, None])),
    "other size": idx_change(_IDX["i"], idx(_IMAGES[:, :4])),
    "nothing": idx_change(_IDX["i"], b""),
    "three bytes": idx_change(_IDX["i"], b"\x00\x00\x08"),
}
IDX_BOMBS = {
    "most": idx_change(_IDX["i"], idx(_IMAGES, shape=(0xFFFFFFFF,) * 3)),
    "gigabytes": idx_change(_IDX["i"], idx(_IMAGES, shape=(1 << 20, 100, 100))),
    "labels": idx_change(_IDX["l"], idx(_LABELS, shape=(0xFFFFFFFF,))),
    "long": idx_change(_IDX["i"], idx(_IMAGES) + bytes(80 << 20)),
}


def idx_form(packed):
    def write(folder):
        (folder / "idx").mkdir()
        write_idx(folder, form)
        return folder / "idx"

    damages = (*BYTES, REPLACED, from_table("wrong types", IDX_TYPES))
    form = Form(
        f"idx{'.gz' if packed else '.plain'}",
        write,
        lambda folder: folder / "idx",
        (*damages, from_table("huge sizes", IDX_BOMBS)),
    )
    return form


# MATLAB files.


def write_mat(folder, form, split="train", compress=None, **changes):
    images, labels = base(split)
    content = {"X": np.moveaxis(images, 0, -1), "y": (labels + 1)[:, None].astype(np.uint8)}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    compress = "compressed" in form.name if compress is None else compress
    scipy.io.savemat(folder / "svhn" / f"{split}_32x32.mat", content, do_compression=compress)


def mat_change(**changes):
    return lambda folder, form: write_mat(folder, form, **changes)


_X, _Y = np.moveaxis(base("train")[0], 0, -1), (base("train")[1] + 1)[:, None]
MAT_TYPES = {
    "X float": mat_change(X=_X + 0.5),
    "X words": mat_change(X=_X.astype(np.uint16)),
    "X signed": mat_change(X=_X.astype(np.int8)),
    "X complex": mat_change(X=_X * 1j),
    "X text": mat_change(X="images"),
    "X cells": mat_change(X=np.array([[1, "a"]], object)),
    "X struct": mat_change(X={"a": 1, "b": [1, 2]}),
    "X bool": mat_change(X=_X > 3),
    "X 3d": mat_change(X=_X[..., 0]),
    "X channels first": mat_change(X=np.moveaxis(_X, 2, 0)),
    "X 13 channels": mat_change(X=np.repeat(_X, 5, axis=2)[:, :, :13]),
    "X none": mat_change(X=_X[..., :0]),
    "X fewer": mat_change(X=_X[..., :3]),
    "no X": mat_change(X=None),
    "no y": mat_change(y=None),
    "y half": mat_change(y=_Y + 0.5),
    "y 77": mat_change(y=_Y + 76),
    "y -3": mat_change(y=_Y.astype(int) - 4),
    "y 0 and 10": mat_change(y=np.where(_Y == 1, 0, np.where(_Y == 2, 10, _Y))),
    "y nan": mat_change(y=_Y * np.nan),
    "y inf": mat_change(y=_Y * np.inf),
    "y text": mat_change(y="digits"),
    "y fewer": mat_change(y=_Y[:3]),
    "y double": mat_change(y=_Y.astype(float)),
    "y row": mat_change(y=_Y.T),
    "y long": mat_change(y=_Y.astype(np.int64)),
    "y complex": mat_change(y=_Y * 1j),
    "more": mat_change(Z=np.zeros(5), note="hello", cells=np.array([[1, "a"]], object)),
    "version 4": lambda folder, form: scipy.io.savemat(
        folder / "svhn" / "train_32x32.mat", {"X": _Y, "y": _Y}, format="4"
    ),
    "version 7.3": lambda folder, form: (folder / "svhn" / "train_32x32.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(500)
    ),
}


def mat_patch(*patches):
    """Write 32-bit numbers over an uncompressed file, which is compressed then if it was."""

    def apply(folder, form):
        write_mat(folder, form, compress=False)
        path = folder / "svhn" / "train_32x32.mat"
        data = bytearray(path.read_bytes())
        for place, number in patches:
            data[place : place + 4] = struct.pack("<I", number)
        if "compressed" in form.name:
            body = zlib.compress(bytes(data[128:]))
            data = data[:128] + struct.pack("<II", 15, len(body)) + body
        path.write_bytes(data)

    return apply


@functools.cache
def mat_bomb(name):
    """A file with a compressed variable of 80 MiB that says it is short, or is not wanted."""
    size = 80 << 20
    matrix = struct.pack("<IIIIIIII", 6, 8, 9, 0, 5, 8, size, 1) + struct.pack("<HH4s", 1, 1, name)
    matrix += struct.pack("<II", 2, size) + bytes(size)
    length = 64 if name == b"X" else len(matrix)
    body = zlib.compress(struct.pack("<II", 14, length) + matrix, 1)
    return (
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body
    )


MAT_BOMBS = {
    "variable": mat_patch((132, 0xFFFFFFF0)),
    "shape": mat_patch((160, 1 << 30), (164, 1 << 30)),
    "negative": mat_patch((160, 0xFFFFFFFF)),
    "shape size": mat_patch((156, 0xFFFFFFF8)),
    "bomb X": lambda f, form: (f / "svhn" / "train_32x32.mat").write_bytes(mat_bomb(b"X")),
    "bomb Z": lambda f, form: (f / "svhn" / "train_32x32.mat").write_bytes(mat_bomb(b"Z")),
}


def mat_form(kind):
    def write(folder):
        (folder / "svhn").mkdir()
        write_mat(folder, form, "train")
        write_mat(folder, form, "test")
        return folder / "svhn"

    damages = (*BYTES, REPLACED, from_table("wrong types", MAT_TYPES))
    damages += (from_table("huge sizes", MAT_BOMBS),)
    form = Form(f"mat.{kind}", write, lambda folder: folder / "svhn", damages)
    return form


# Arrays in an .npz.


def npz_bytes(arrays, compress=False):
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def arrays():
    (train, train_labels), (test, test_labels) = base("train"), base("test")
    return {
        "train_images": train,
        "train_labels": train_labels,
        "test_images": test,
        "test_labels": test_labels,
        "num_classes": np.array(CLASSES),
        "label_names": np.array(NAMES),
    }


def npz_change(**changes):
    def apply(folder, form):
        content = {k: v for k, v in (arrays() | changes).items() if v is not None}
        form_file(folder, form).write_bytes(npz_bytes(content, "deflated" in form.name))

    return apply


def form_file(folder, form):
    return folder / "tiny" / "1.0.0" / "arrays.npz" if form.prepared else form.place(folder)


_T, _TL = base("train")
NPZ_TYPES = {
    "labels (N, 1)": npz_change(train_labels=_TL[:, None]),
    "labels (1, N)": npz_change(train_labels=_TL[None]),
    "labels one-hot": npz_change(train_labels=np.eye(CLASSES)[_TL]),
    "labels bytes": npz_change(train_labels=_TL.astype(np.uint8)),
    "labels big-endian": npz_change(train_labels=_TL.astype(">i4")),
    "labels float": npz_change(train_labels=_TL + 0.0),
    "labels half": npz_change(train_labels=_TL + 0.5),
    "labels nan": npz_change(train_labels=_TL * np.nan),
    "labels bool": npz_change(train_labels=_TL > 2),
    "labels text": npz_change(train_labels=np.array([*NAMES, "zebra"])[_TL + (_TL == 2) * 3]),
    "labels objects": npz_change(train_labels=np.array(NAMES, object)[_TL]),
    "labels complex": npz_change(train_labels=_TL * 1j),
    "labels dates": npz_change(train_labels=_TL.astype("datetime64[s]")),
    "labels -1": npz_change(train_labels=_TL - 1),
    "labels 2**40": npz_change(train_labels=_TL + 2**40),
    "labels from 1": npz_change(train_labels=_TL + 1, num_classes=None, label_names=None),
    "labels 0, 7, 900": npz_change(
        train_labels=np.array([0, 7, 900, 0, 7, 900, 0, 7, 900, 0]),
        num_classes=None,
        label_names=None,
    ),
    "labels 2**63": npz_change(train_labels=np.full(10, 2**63, np.uint64), num_classes=None),
    "labels scalar": npz_change(train_labels=np.array(3)),
    "labels fewer": npz_change(train_labels=_TL[:3]),
    "labels none": npz_change(train_labels=None),
    "images float": npz_change(train_images=_T / 255),
    "images words": npz_change(train_images=_T.astype(np.int64)),
    "images signed": npz_change(train_images=_T.astype(np.int8)),
    "images bool": npz_change(train_images=_T > 3),
    "images objects": npz_change(train_images=np.array([None] * 10, object)),
    "images text": npz_change(train_images=np.array(["a"] * 10)),
    "images flat": npz_change(train_images=_T.reshape(10, -1)),
    "images 5d": npz_change(train_images=_T[None]),
    "images scalar": npz_change(train_images=np.uint8(3)),
    "images channels first": npz_change(
        train_images=np.moveaxis(_T, -1, 1), test_images=np.moveaxis(base("test")[0], -1, 1)
    ),
    "images by columns": npz_change(train_images=np.asfortranarray(_T)),
    "images none": npz_change(train_images=_T[:0], train_labels=_TL[:0]),
    "images no height": npz_change(train_images=_T[:, :0]),
    "images no channel": npz_change(train_images=_T[..., :0]),
    "images record": npz_change(train_images=_T.view([("a", "u1")])),
    "images void": npz_change(train_images=_T.view("V3")),
    "num_classes 0": npz_change(num_classes=np.array(0), label_names=None),
    "num_classes half": npz_change(num_classes=np.array(5.0), label_names=None),
    "num_classes three": npz_change(num_classes=np.array([5, 5, 5]), label_names=None),
    "num_classes text": npz_change(num_classes=np.array("five"), label_names=None),
    "num_classes 4": npz_change(num_classes=np.array(4), label_names=None),
    "num_classes objects": npz_change(num_classes=np.array(None, object)),
    "names four": npz_change(label_names=np.array(NAMES[:4])),
    "names numbers": npz_change(label_names=np.arange(CLASSES)),
    "names 2d": npz_change(label_names=np.array(NAMES)[:, None]),
    "names twice": npz_change(label_names=np.array(["a"] * CLASSES)),
    "names lines": npz_change(label_names=np.array([f"a\n{i}" for i in range(CLASSES)])),
    "names objects": npz_change(label_names=np.array(NAMES, object)),
    "names empty": npz_change(label_names=np.array(["", "a", "b", "c", "d"])),
}
NPZ_MEMBERS_ONLY_IMPORTED = {
    "13 channels": npz_change(
        train_images=np.repeat(_T, 5, axis=-1)[..., :13],
        test_images=np.repeat(base("test")[0], 5, axis=-1)[..., :13],
    ),
    "unknown array": npz_change(classes=np.arange(3)),
    "a feature of one": npz_change(train_mean=np.array(0.5)),
    "a feature of objects": npz_change(train_note=np.array([None] * 10, object)),
    "a split without labels": npz_change(extra_images=_T),
    "val and validation": npz_change(
        val_images=_T, val_labels=_TL, validation_images=_T, validation_labels=_TL
    ),
}


def zip_change(change):
    """Write the arrays and let a function add to the archive."""

    def apply(folder, form):
        path = form_file(folder, form)
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a name that is there twice.
            change(archive)

    return apply


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(text, version=1, length=None):
    text = text.encode().ljust(117) + b"\n"
    width = "<H" if version == 1 else "<I"
    length = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(width, length) + text


def other_member(name, data, compression=zipfile.ZIP_STORED):
    """Write the set with one member in other bytes."""

    def apply(folder, form):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for key, array in arrays().items():
                content = data() if callable(data) else data
                archive.writestr(f"{key}.npy", content if key == name else npy(array), compression)
        form_file(folder, form).write_bytes(file.getvalue())

    return apply


ZIP_MEMBERS = {
    "twice": zip_change(lambda z: z.writestr("train_images.npy", npy(_T + 1))),
    "twice without suffix": zip_change(lambda z: z.writestr("train_images", npy(_T + 1))),
    "text in its place": other_member("train_images", b"hello"),
    "nothing in its place": other_member("train_labels", b""),
    "longer": other_member("train_images", npy(_T) + b"more"),
    "shorter": other_member("train_images", npy(_T)[:-9]),
    "half a header": other_member("train_images", npy(_T)[:20]),
    "a pickle": other_member("train_labels", npy(np.array([{}] * 10, object))),
    "calls": other_member("train_labels", npy_header("{'descr': exit(), 'shape': ()}")),
    "no shape": other_member("train_labels", npy_header("{'descr': '<i8'}")),
    "odd shape": other_member(
        "train_labels", npy_header("{'descr': '<i8', 'fortran_order': 0, 'shape': 'x'}")
    ),
    "negative": other_member(
        "train_labels",
        npy_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-2, -5), }") + bytes(80),
    ),
    "bzip2": other_member("none", b"", zipfile.ZIP_BZIP2),
    "lzma": other_member("none", b"", zipfile.ZIP_LZMA),
}


def declares(shape, descr="|u1"):
    return npy_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


@functools.cache
def large_npz():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, array in arrays().items():
            large = key == "train_images"
            zeros = np.zeros((_LARGE // 192, 8, 8, 3), np.uint8)
            archive.writestr(f"{key}.npy", npy(zeros if large else array))
    return file.getvalue()


NPZ_BOMBS = {
    "shape": other_member("train_images", declares((10**6, 100, 100, 3))),
    "shape beyond": other_member("train_images", declares((10**30, 10**30))),
    "no bytes each": other_member("label_names", declares((10**12,), "<U0")),
    "none of many": other_member("train_images", declares((0, 10**30))),
    "header": other_member("train_images", npy_header("{", 2, 1 << 31)),
    "header that is there": other_member(
        "train_images",
        lambda: npy_header("{", 2, 80 << 20) + bytes(80 << 20),
        zipfile.ZIP_DEFLATED,
    ),
    "num_classes": npz_change(num_classes=np.array(10**9), label_names=None),
    "num_classes 2**63": npz_change(num_classes=np.array(2**63, np.uint64), label_names=None),
    "labels of millions": npz_change(
        train_labels=_TL + 2_000_000, num_classes=None, label_names=None
    ),
    "300 MiB": lambda folder, form: form_file(folder, form).write_bytes(large_npz()),
}


def npz_form(kind):
    def write(folder):
        (folder / "set.npz").write_bytes(npz_bytes(arrays(), kind == "deflated"))
        return folder / "set.npz"

    types = NPZ_TYPES | NPZ_MEMBERS_ONLY_IMPORTED
    damages = (*BYTES, REPLACED, from_table("wrong types", types))
    damages += (from_table("odd members", ZIP_MEMBERS), from_table("huge sizes", NPZ_BOMBS))
    return Form(f"npz.{kind}", write, lambda folder: folder / "set.npz", damages)


def write_alone(folder):
    place = folder / "tiny" / "1.0.0"
    place.mkdir(parents=True)
    (place / "arrays.npz").write_bytes(npz_bytes(arrays()))
    return folder


ALONE = Form(
    "arrays.npz alone",
    write_alone,
    lambda folder: folder,
    (
        *BYTES,
        REPLACED,
        from_table("wrong types", NPZ_TYPES, another=True),
        from_table("odd members", ZIP_MEMBERS, another=True),
        from_table("huge sizes", NPZ_BOMBS),
    ),
    prepared=True,
)


# Folders of image files.


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_folders(folder):
    for split, name in (("train", "train"), ("test", "val")):
        images, labels = base(split, size=16)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / "photos" / name / NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            suffix, encode = (("png", png), ("jpg", jpeg))[index % 2]
            (place / f"{index}.{suffix}").write_bytes(encode(image))
    return folder / "photos"


def in_class(name, data=None, make=None, old=None):
    def apply(folder, form):
        place = folder / "photos" / "train" / NAMES[0] / name
        if old:
            place = folder / "photos" / "train" / NAMES[0] / old
            place.unlink()
        place.parent.mkdir(exist_ok=True)
        if make:
            make(place)
        else:
            place.write_bytes(data)

    return apply


def elsewhere(path, data=None):
    def apply(folder, form):
        place = folder / "photos" / path
        (place if data is None else place.parent).mkdir(parents=True, exist_ok=True)
        if data is not None:
            place.write_bytes(data)

    return apply


_PICTURE = png(np.zeros((4, 4, 3), np.uint8))
FOLDER_TYPES = {
    "16 bits": in_class("", png(np.full((4, 4), 40000, np.uint16)), old="0.png"),
    "text": in_class("", b"hello", old="0.png"),
    "nothing": in_class("", b"", old="0.png"),
    "signature": in_class("", _PICTURE[:8], old="0.png"),
    "no end": in_class("", _PICTURE[:-12], old="0.png"),
    "page": in_class("", b"<html>404</html>", old="5.jpg"),
}
FOLDER_MEMBERS = {
    "hidden folder": elsewhere("train/.ipynb_checkpoints/a.png", _PICTURE),
    "hidden empty folder": elsewhere("train/.git"),
    "hidden file": in_class(".0.png", _PICTURE),
    "double": in_class("._0.png", b"Mac"),
    "readme": in_class("README.txt", b"hello"),
    "thumbs": in_class("Thumbs.db", b"x"),
    "file beside classes": elsewhere("train/notes.png", _PICTURE),
    "empty class": elsewhere("train/class_9"),
    "class without images": elsewhere("train/class_9/a.txt", b"x"),
    "unknown class": elsewhere("val/class_9/a.png", _PICTURE),
    "two validations": elsewhere("validation/class_1/a.png", _PICTURE),
    "pipe": in_class("z.png", make=os.mkfifo),
    "device": in_class("z.png", make=lambda path: path.symlink_to("/dev/zero")),
    "to nowhere": in_class("z.png", make=lambda path: path.symlink_to("/nowhere")),
    "to itself": in_class("z.png", make=lambda path: path.symlink_to(path)),
    "folder": in_class("z.png", make=lambda path: path.mkdir()),
    "class to itself": lambda f, form: (f / "photos/train/class_8").symlink_to(f / "photos/train"),
}


def sparse(path):
    with path.open("wb") as file:
        file.truncate(10 << 30)


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


_SOF = jpeg(np.zeros((16, 16, 3), np.uint8))
_AT = _SOF.index(b"\xff\xc0") + 5
FOLDER_BOMBS = {
    "png 60000x60000": in_class("", png_header(60000, 60000), old="0.png"),
    "png 12000x12000": in_class("", png_header(12000, 12000), old="0.png"),
    "png 2**31": in_class("", png_header(2**31 - 1, 2**31 - 1), old="0.png"),
    "jpeg 65500x65500": in_class("", _SOF[:_AT] + b"\xff\xdc" * 2 + _SOF[_AT + 4 :], old="5.jpg"),
    "10 GiB": in_class("", make=sparse, old="0.png"),
}
FOLDERS = Form(
    "class folders",
    write_folders,
    lambda folder: folder / "photos",
    (
        *BYTES,
        REPLACED._replace(unseen=True),  # By another picture, perhaps.
        from_table("wrong types", FOLDER_TYPES),
        from_table("odd members", FOLDER_MEMBERS),
        from_table("huge sizes", FOLDER_BOMBS),
    ),
)


# Prepared sets.


@functools.cache
def prepared_files():
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        splits = {split: base(split) for split in ("train", "test")}
        place = write_tfds("tiny", array_source(splits, label_names=NAMES), folder, num_shards=2)
        return {path.name: path.read_bytes() for path in place.iterdir()}


def write_prepared(folder):
    place = folder / "tiny" / "1.0.0"
    place.mkdir(parents=True)
    for name, data in prepared_files().items():
        (place / name).write_bytes(data)
    return folder


def change_json(rng, folder, form):
    """Put another value somewhere in a description, which is sealed again."""
    place = folder / "tiny" / "1.0.0"
    path = rng.choice(sorted(place.glob("*.json")))
    content = json.loads(path.read_text())
    spots = []

    def walk(node):
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            spots.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(content)
    node, key = rng.choice(spots)
    new = rng.choice([None, 0, -1, 10**9, 2**70, 0.5, "", "x", "\n", [], {}, True, ["1"], {"a": 1}])
    note = f"{path.name}, {key!r} became {new!r}"
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = new
    path.write_text(json.dumps(content))
    (place / SEAL).unlink()
    write_seal(place)
    return note


def move_shards(rng, folder, form):
    place = folder / "tiny" / "1.0.0"
    shards = sorted(place.glob("*array_record*"))
    one, other = rng.sample(shards, 2)
    kind = rng.choice(("lost", "copied", "swapped", "more"))
    if kind == "lost":
        one.unlink()
    elif kind == "copied":
        shutil.copy(one, other)
    elif kind == "swapped":
        data = one.read_bytes()
        shutil.copy(other, one)
        other.write_bytes(data)
    else:
        (place / "notes.md").write_text("hello")
    return f"{kind}: {one.name}, {other.name}"


def sealed(name, data):
    def apply(folder, form):
        place = folder / "tiny" / "1.0.0"
        (place / name).write_bytes(data() if callable(data) else data)
        (place / SEAL).unlink()
        write_seal(place) if len((place / name).read_bytes()) < 1 << 24 else None

    return apply


def changed_classes(number):
    content = json.loads(prepared_files()["features.json"])
    label = content["featuresDict"]["features"]["label"]
    label["classLabel"]["numClasses"] = str(number)
    return json.dumps(content).encode()


PREPARED_BOMBS = {
    "classes": sealed("features.json", lambda: changed_classes(10**9)),
    "classes 2**62": sealed("features.json", lambda: changed_classes(2**62)),
    "description": sealed("dataset_info.json", lambda: b"[" * (20 << 20)),
    "nested": sealed("features.json", b"[" * 100_000),
}
PREPARED = Form(
    "prepared set",
    write_prepared,
    lambda folder: folder,
    (
        *BYTES,
        REPLACED,
        Damage("wrong types", change_json, another=True),
        Damage("odd members", move_shards, another=True),
        from_table("huge sizes", PREPARED_BOMBS),
    ),
    prepared=True,
)

FORMS = (
    cifar_form(False, "binary", "gz"),
    cifar_form(False, "python", "gz"),
    cifar_form(False, "python", "bz2"),
    cifar_form(True, "python", "xz"),
    cifar_form(True, "binary", "gz"),
    cifar_form(False, "python", "tar"),
    cifar_form(False, "python", "folder"),
    cifar_form(False, "binary", "folder"),
    idx_form(packed=True),
    idx_form(packed=False),
    mat_form("compressed"),
    mat_form("plain"),
    npz_form("stored"),
    npz_form("deflated"),
    FOLDERS,
    ALONE,
    PREPARED,
)
