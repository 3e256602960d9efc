"""A finished run, opened again: its networks, its data, and what they say of each other."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import supjax
from experiments.configs.common import restored
from experiments.configs.rules import check_config_values, check_devices
from experiments.errors import RunError
from experiments.records.folder import PRETRAINED, RunFolder, superposed_name, ticket_name
from experiments.records.summary import read_summary
from experiments.run.build import build, open_dataset
from experiments.run.finish import image_flops, left_out
from experiments.run.seed_axis import SeedAxis
from experiments.run.sources import make_steps


class FinishedRun:
    """The tickets of a run with its model and data.

    Attributes:
      workdir: folder of the run.
      summary: as in its summary.json.
      dataset: its data set.
      tickets: of all cycles, in their order.
      pretrained: the network at the end of the normal phase.
      superposed: the result, made of them.
      members: what a superposition is made of: `pretrained` if the run says so, and `tickets` but
        for those that cycles which adapt left out.
      model: its network.
      batches: the training batches from which batch-norm statistics are estimated, normalised.
      images: of these batches.
      split: held-out examples that a run may look at often: `validation`, or `test` for a run
        that set no validation examples aside.
    """

    def __init__(self, workdir: Path, *, batches: int, data_dir: str = "") -> None:
        """Open a run.

        Args:
          workdir: folder of the run.
          batches: training batches from which batch-norm statistics are estimated.
          data_dir: TFDS's data directory; empty for the run's.

        Raises:
          RunError: one line, if there is no such run, it is unfinished or has no tickets.
        """
        self.workdir = workdir
        self.summary = _summary(workdir)
        count = self.summary["plan"]["num_cycles"]
        if not count:
            raise RunError(f"{workdir} has no tickets: it ran without cycles (sup_tickets)")
        self.pretrained, self.superposed, *self.tickets = (
            RunFolder(workdir).load_ticket(name)
            for name in (
                PRETRAINED,
                superposed_name(count),
                *(ticket_name(i + 1) for i in range(count)),
            )
        )
        config = restored(self.summary["config"])
        first = [self.pretrained] if config.sup_tickets.include_pretrained else []
        out = left_out(self.summary.get("cycles", []))
        self.members = [*first, *(t for i, t in enumerate(self.tickets, 1) if i not in out)]
        if data_dir:
            config.runtime.data_dir = data_dir
        check_config_values(config)
        self.dataset = open_dataset(config)
        parts = build(config, self.dataset)
        devices = check_devices(config, jax.process_count(), jax.local_device_count())
        steps = make_steps(parts, SeedAxis([config.seed]), devices, config.runtime)
        self._evaluate = steps.evaluate
        self.split = "validation" if steps.source.has_split("validation") else "test"
        self.model = parts.model
        self._batch_size = config.batch_size
        self.batches = list(steps.source.training_batches(batches))
        self.images = [batch.images for batch in self.batches]
        self._training = partial(parts.model.apply, train=True, mutable=["batch_stats"])
        self._logits = jax.jit(self._normalized_logits)

    def reestimated(self, ticket: supjax.Ticket, count: int | None = None) -> supjax.Ticket:
        """Return a network with batch-norm statistics from `count` training batches, or all."""
        if not jax.tree.leaves(ticket.batch_stats):
            return ticket
        return supjax.recompute_batch_stats(self._training, ticket, self.images[:count])

    def scores(self, networks: Iterable[supjax.Ticket]) -> tuple[np.ndarray, np.ndarray]:
        """Return loss and accuracy on `split` of networks with re-estimated statistics."""
        return self.stored_scores(map(self.reestimated, networks))

    def stored_scores(self, networks: Iterable[supjax.Ticket]) -> tuple[np.ndarray, np.ndarray]:
        """Return loss and accuracy on `split` of networks as they are."""
        rows = [self._evaluate((network,), self.split)[0] for network in networks]
        return np.array([row["loss"] for row in rows]), np.array([row["accuracy"] for row in rows])

    def repaired(self, result: supjax.Ticket) -> supjax.Ticket:
        """Return a superposition of `members` with their activations, by `supjax.repair`."""
        seen = supjax.linen_preactivations(self.model, train=False)
        return supjax.repair(seen, self.members, result, self.images)

    def predictions(
        self, networks: Sequence[supjax.Ticket], split: str = "test"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of networks on a split, and its labels.

        Args:
          networks: at least one.
          split: "test", or `self.split`.

        Returns:
          float32 `(networks, examples, classes)`, and integers `(examples,)`.
        """
        logits, labels = [], []
        for batch in self.dataset.eval_batches(split, self._batch_size):
            real = np.asarray(batch.weights) > 0
            logits.append([np.asarray(self._logits(n, batch.images))[real] for n in networks])
            labels.append(np.asarray(batch.labels)[real])
        return np.concatenate(logits, axis=1), np.concatenate(labels)

    def layer_flops(self) -> dict[str, int]:
        """Return the dense forward operations of one image by the path of the weight."""
        return image_flops(self.model, self.dataset.image_shape, self.superposed)

    def _normalized_logits(self, ticket: supjax.Ticket, images: jax.Array) -> jax.Array:
        variables = {"params": ticket.params, "batch_stats": ticket.batch_stats}
        return self.model.apply(variables, self.dataset.normalize(images), train=False)


def _summary(workdir: Path) -> dict[str, Any]:
    """Return the summary of a run, or raise a `RunError` that says what is missing."""
    try:
        return read_summary(workdir)
    except FileNotFoundError as error:
        if RunFolder(workdir).config_file.exists():
            what = "the run is not finished; the command that started it continues it"
        else:
            what = "no run in this folder; python -m experiments.main makes one"
        raise RunError(f"{workdir}: {what}") from error
    except ValueError as error:
        raise RunError(f"{workdir}: summary.json is damaged ({error})") from error
