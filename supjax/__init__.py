"""supjax: sparse training in JAX, and superposition of the tickets it yields.

The public surface and nothing else; every name is documented where it is defined.
"""

from supjax import adaptive, analysis, filters, superposition, topologies
from supjax.batch_stats import (
    average_batch_stats,
    nnx_apply_fn,
    read_momenta,
    recompute_batch_stats,
)
from supjax.densities import erk, init_masks, uniform
from supjax.filters import default_filter
from supjax.masked_update import mask_optimizer_state
from supjax.masks import (
    apply_masks,
    count_active,
    count_maskable,
    dense_masks,
    density,
    iou,
    nonzero_masks,
    summary,
)
from supjax.parallel import data_parallel, split_batch
from supjax.preactivations import linen_preactivations, nnx_preactivations
from supjax.prune_grow import prune_and_grow, prune_globally
from supjax.repair import repair
from supjax.schedules import (
    CyclePlan,
    constant_fraction,
    cosine_fraction,
    cubic_density_ramp,
    cyclic_schedule,
    every,
    sawtooth_schedule,
    staged_fraction,
    step_decay_schedule,
    sup_tickets_schedule,
)
from supjax.selection import global_top_k_masks, top_k_mask
from supjax.sparsify import (
    SparsifyState,
    check_sparse,
    sparse_params,
    sparsify,
    sparsify_state,
    take_ticket,
)
from supjax.sup_tickets import sup_tickets, superposed, with_cycles
from supjax.superposition import (
    Choice,
    make_superposition,
    superpose,
    superpose_scored,
    superpose_step,
)
from supjax.ticket_io import load_metadata, load_ticket, save_ticket
from supjax.topologies import make_topology
from supjax.training import (
    TrainState,
    create_train_state,
    make_eval_step,
    make_topology_step,
    make_train_step,
)
from supjax.types import (
    Axes,
    Superposition,
    SuperpositionState,
    Ticket,
    TopologyState,
    TopologyTransform,
)
from supjax.version import __version__

__all__ = [
    "Axes",
    "Choice",
    "CyclePlan",
    "SparsifyState",
    "Superposition",
    "SuperpositionState",
    "Ticket",
    "TopologyState",
    "TopologyTransform",
    "TrainState",
    "__version__",
    "adaptive",
    "analysis",
    "apply_masks",
    "average_batch_stats",
    "check_sparse",
    "constant_fraction",
    "cosine_fraction",
    "count_active",
    "count_maskable",
    "create_train_state",
    "cubic_density_ramp",
    "cyclic_schedule",
    "data_parallel",
    "default_filter",
    "dense_masks",
    "density",
    "erk",
    "every",
    "filters",
    "global_top_k_masks",
    "init_masks",
    "iou",
    "linen_preactivations",
    "load_metadata",
    "load_ticket",
    "make_eval_step",
    "make_superposition",
    "make_topology",
    "make_topology_step",
    "make_train_step",
    "mask_optimizer_state",
    "nnx_apply_fn",
    "nnx_preactivations",
    "nonzero_masks",
    "prune_and_grow",
    "prune_globally",
    "read_momenta",
    "recompute_batch_stats",
    "repair",
    "save_ticket",
    "sawtooth_schedule",
    "sparse_params",
    "sparsify",
    "sparsify_state",
    "split_batch",
    "staged_fraction",
    "step_decay_schedule",
    "summary",
    "sup_tickets",
    "sup_tickets_schedule",
    "superpose",
    "superpose_scored",
    "superpose_step",
    "superposed",
    "superposition",
    "take_ticket",
    "top_k_mask",
    "topologies",
    "uniform",
    "with_cycles",
]
