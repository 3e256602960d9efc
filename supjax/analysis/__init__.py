"""What tickets are and do, as pure functions: how far apart, how calibrated, how expensive."""

from supjax.analysis.calibration import (
    ReliabilityBins,
    brier,
    ece,
    ensemble_log_probabilities,
    losses,
    nll,
    reliability_bins,
)
from supjax.analysis.diagnosis import Diagnosis, advice, diagnose
from supjax.analysis.distance import disagreement, kl_divergence, pairwise
from supjax.analysis.exploration import exploration_rate
from supjax.analysis.flops import forward_flops, total_flops, train_flops
from supjax.analysis.path import interpolate, walk
from supjax.analysis.plane import Plane, loss_plane, plane_coordinates, plane_ticket
from supjax.analysis.tracing import ACTIVATIONS, layer_flops
from supjax.paired import Paired, paired_difference

__all__ = [
    "ACTIVATIONS",
    "Diagnosis",
    "Paired",
    "Plane",
    "ReliabilityBins",
    "advice",
    "brier",
    "diagnose",
    "disagreement",
    "ece",
    "ensemble_log_probabilities",
    "exploration_rate",
    "forward_flops",
    "interpolate",
    "kl_divergence",
    "layer_flops",
    "loss_plane",
    "losses",
    "nll",
    "paired_difference",
    "pairwise",
    "plane_coordinates",
    "plane_ticket",
    "reliability_bins",
    "total_flops",
    "train_flops",
    "walk",
]
