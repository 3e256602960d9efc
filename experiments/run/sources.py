"""From a run's parts to its steps: the source that its data set needs, and the devices."""

import jax
from ml_collections import ConfigDict

from experiments.data.streaming import StreamedDataset
from experiments.errors import ConfigError
from experiments.run.build import RunParts
from experiments.run.resident import ResidentSource
from experiments.run.seed_axis import SeedAxis
from experiments.run.steps import Placement, Source, Steps
from experiments.run.streamed import StreamedSource


def make_steps(parts: RunParts, seeds: SeedAxis, devices: int, runtime: ConfigDict) -> Steps:
    """Return the steps of one or more seeds over the run's data, resident or streamed.

    XLA's CPU backend can run convolutions inside loops several times slower than outside, so the
    CPU takes one step a dispatch; elsewhere a dispatch holds many.

    Args:
      parts: the run's static parts.
      seeds: the seeds that step together.
      devices: devices of this process.
      runtime: the config's group of that name.

    Raises:
      ConfigError: for several seeds over a streamed data set.
    """
    placement = Placement(devices)
    dataset = parts.dataset
    source: Source
    if isinstance(dataset, StreamedDataset):
        if len(seeds.seeds) > 1:
            raise ConfigError(f"{dataset.name} is streamed: its seeds train one by one")
        source = StreamedSource(
            dataset,
            placement,
            batch_size=parts.batch_size,
            seed=seeds.seeds[0],
            workers=runtime.decode_workers or None,
        )
    else:
        fused = jax.default_backend() != "cpu"
        if runtime.loop != "auto":
            fused = runtime.loop == "fused"
        source = ResidentSource(
            dataset,
            placement,
            seeds,
            batch_size=parts.batch_size,
            augment=parts.augment,
            fused=fused,
        )
    return Steps(parts, source, placement, seeds)
