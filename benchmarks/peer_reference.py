"""The authors' PyTorch code, for `benchmarks.peers`: one of its networks on CIFAR's shapes.

It multiplies weights and momentum by float masks after every step.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.cifar_network import CLASSES, DENSITY, DROP

Call = Callable[[], Any]


class PeerNetwork:
    """A network with its masks and optimizer, at the density of our side.

    Args:
      peer: what `peer_path.load_reference` returns.
      name: our name of the network.
    """

    def __init__(self, peer: SimpleNamespace, name: str) -> None:
        self.torch, self.program = peer.torch, peer.program
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.model = self._model(name).to(self.device)
        self.optimizer = self.torch.optim.SGD(
            self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        self.masking = self.program.Masking(
            self.optimizer,
            prune_rate=DROP,
            prune_rate_decay=self.program.CosineDecay(DROP, 100_000),
            growth_mode="gradient",
            redistribution_mode="none",
            args=SimpleNamespace(
                fix=True,
                rm_first=False,
                method="DST",
                sparse_init="ERK",
                init_density=DENSITY,
                decay_schedule="cosine",
            ),
        )
        self._run(lambda: self.masking.add_module(self.model))

    def _model(self, name: str) -> Any:
        if name == "vgg19":
            return self.program.vgg.VGG(depth=19, dataset="cifar10", batchnorm=True)
        if name == "resnet50":
            return self.program.ResNet50(c=CLASSES)
        depth, initializer = name.removeprefix("resnet"), self.program.initializers.kaiming_normal
        make = self.program.cifar_resnet.Model.get_model_from_name
        return make(f"cifar_resnet_{depth}", initializer, CLASSES)

    def size(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def train_step(self, batch: int) -> Call:
        """One training step after the other, without the logging of loss and accuracy."""
        self.model.train()
        images = self.torch.randn(batch, 3, 32, 32, device=self.device)
        labels = self.torch.arange(batch, device=self.device) % CLASSES

        def call() -> None:
            self.optimizer.zero_grad()
            loss = self.torch.nn.functional.nll_loss(self.model(images), labels)
            loss.backward()
            self.masking.step()

        return lambda: self._run(call)

    def mask_update(self) -> Call:
        """Prune by magnitude, grow by gradient, mask weights and momentum."""
        self.train_step(2)()
        return lambda: self._run(self.masking.truncate_weights)

    def superposition(self, first: "PeerNetwork", second: "PeerNetwork") -> Call:
        """The average of two networks, pruned globally; this one becomes the result."""
        weights = zip(first.model.parameters(), second.model.parameters(), strict=True)
        active = [(a != 0) | (b != 0) for a, b in weights if a.ndim in (2, 4)]
        nonzero = sum(flags.sum().item() for flags in active)
        self.masking.sparse_init = "prune_global"
        self.masking.args.pruning_rate = (
            1 - DENSITY * sum(flags.numel() for flags in active) / nonzero
        )

        def superpose() -> None:
            average = self.program.CAA_average([first.model, second.model], range(2), 0.5)
            self.program.set_model_params(self.model, average[0])
            self.masking.init()

        return lambda: self._run(superpose)

    def superposition_of_files(
        self, first: "PeerNetwork", second: "PeerNetwork", folder: Path
    ) -> Call:
        """The same from checkpoints to a checkpoint; they hold the momentum as well."""
        members = (first, second)
        for member in members:
            member.train_step(2)()
            member.save(folder / f"{id(member)}.pth")
        superpose = self.superposition(first, second)

        def call() -> None:
            for member in members:
                loaded = self.torch.load(folder / f"{id(member)}.pth")
                member.model.load_state_dict(loaded["state_dict"])
            superpose()
            self.save(folder / "superposed.pth")

        return call

    def save(self, path: Path) -> None:
        """Write a checkpoint, as the program does."""
        state = {
            "epoch": 0,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self._run(lambda: self.program.save_checkpoint(state, filename=str(path)))

    def _run(self, function: Call) -> None:
        """Call without what it prints, and wait for the device."""
        with contextlib.redirect_stdout(io.StringIO()):
            function()
        if self.device == "cuda":
            self.torch.cuda.synchronize()
