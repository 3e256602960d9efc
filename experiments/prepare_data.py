"""Prepare an image set in TFDS's format, from the network or from a local copy.

    python -m experiments.prepare_data --dataset=cifar10 --data_dir=~/tensorflow_datasets
    python -m experiments.prepare_data --dataset=cifar10 --from=cifar-10-python.tar.gz
    python -m experiments.prepare_data --dataset=imagenet2012 --from=ILSVRC2012

Interrupting it leaves nothing that a later run would take for the whole set.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags

from experiments.command_line import run_command
from experiments.data import importing
from experiments.data.catalog import KNOWN_SETS, default_data_dir
from experiments.data.checks import DataError
from experiments.errors import RunError, one_line
from experiments.paths import local_path
from experiments.saying import say

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TOLD = (ValueError, RuntimeError, OSError, ImportError)


def prepare(
    name: str,
    data_dir: Path,
    local_copy: Path | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Write one set in TFDS's format.

    Args:
      name: the set's name in TFDS; with a local copy any name.
      data_dir: TFDS's data directory.
      local_copy: what `importing.read_source` reads; None downloads.
      say: called when the set is there, with what is to be known of the local copy.

    Returns:
      The folder of the prepared set.

    Raises:
      ValueError, RuntimeError, OSError, ImportError: with one line that says what is wrong.
    """
    if name == "digits":
        raise ValueError("there is nothing to do, it comes with scikit-learn")
    if local_copy is not None and not _NAME.fullmatch(name):
        raise ValueError("with --from, a name is a letter, then letters, digits and _")
    with _one_line_errors():
        if local_copy is not None:
            known = KNOWN_SETS.get(name)
            source = importing.read_source(local_copy, known.num_classes if known else None)
            folder = importing.write_tfds(name, source, data_dir)
            for line in importing.describe_copy(source, importing.known_originals(name)):
                say(line)
            return folder
        return _download(name, data_dir)


def _download(name: str, data_dir: Path) -> Path:
    if name == "imagenet2012":
        raise ValueError(
            f"its licence asks for registration; get it ({KNOWN_SETS[name].download}), unpack it"
            " and give --from=FOLDER, a folder with train/<class>/ and val/<class>/"
        )
    try:
        if name in importing.DOWNLOADS:
            return importing.write_tfds(name, importing.DOWNLOADS[name], data_dir)
        return importing.prepare_with_tfds(name, data_dir)
    except importing.DownloadFailedError as error:
        raise RuntimeError(f"{error}; give --from=PATH with a local copy") from error
    except ImportError as error:
        raise ImportError(
            f"TFDS's builder of {name} needs the package {error.name}, which is missing: install it"
            " for this step (it is not needed afterwards), or give --from=PATH with a local copy"
        ) from error


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Let errors of one line through; what a library says in more becomes one."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DataError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, DataError):  # TFDS wraps what its readers raise.
            raise DataError(str(cause)) from error
        if isinstance(error, _TOLD) and one_line(error) == str(error):
            raise
        raise RuntimeError(one_line(error)) from error


def define_flags() -> None:
    """Define the flags of this command."""
    flags.DEFINE_string(
        "dataset", None, "The set's name in TFDS; any name with --from.", required=True
    )
    flags.DEFINE_string("data_dir", None, "TFDS's data directory; TFDS's own by default.")
    flags.DEFINE_string(
        "from",
        None,
        "Local copy: a CIFAR archive, an .npz of arrays, or a folder (train/<class>/<image>, IDX"
        " files, SVHN's .mat files, unpacked CIFAR).",
    )


def main() -> None:
    """Prepare the set that the flags name.

    Raises:
      RunError: of one line, for whatever the user can mend.
    """
    name, given = flags.FLAGS.dataset, flags.FLAGS["from"].value
    lines: list[str] = []
    try:
        data_dir = local_path(flags.FLAGS.data_dir or default_data_dir(), "--data_dir")
        local_copy = local_path(given, "--from") if given else None
        folder = prepare(name, data_dir, local_copy, lines.append)
    except _TOLD as error:
        shown = name if name and name.isprintable() else repr(name)
        raise RunError(f"cannot prepare {one_line(shown)}: {one_line(error)}") from error
    say("\n".join([*lines, f"{name} is prepared in {folder}"]))


if __name__ == "__main__":
    run_command(define_flags, main)
