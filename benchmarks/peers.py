"""Peers side by side with supjax: JaxPruner, and the authors' PyTorch code of Sup-tickets.

    SUPJAX_PEERS=FOLDER:FOLDER python -m benchmarks.peers [--toy] [--output FILE.json]

The variable names the folders that hold the peers' packages: a checkout of JaxPruner, a checkout
of the authors' code, and wherever PyTorch lies if it is not installed. Without it nothing is
measured.

With JaxPruner: a mask update of the 25.5 M kernels of ResNet-50, and optimizer steps without an
update, for every method that both have. With the reference, on CIFAR's shapes and with as many
threads as XLA has: training steps at 90 % sparsity, a mask update of VGG-19, and superposing two
tickets of ResNet-50, in memory and from files to a file (the reference's hold the optimizer's state
too and are not flushed to the disk, ours are). About 9 minutes on 2 CPU cores. Ratios are the
peer's time over ours, so above 1 supjax is faster; for optimizer steps what each side adds to the
plain step is listed as well.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peer_jaxpruner as pruning
from benchmarks.cifar_network import Network, superposition, superposition_of_files
from benchmarks.common import (
    Timing,
    milliseconds,
    print_table,
    ratio_spread,
    time_interleaved,
    write_json,
)
from benchmarks.peer_path import VARIABLE, add_peer_paths, load_jaxpruner, load_reference
from benchmarks.peer_reference import PeerNetwork
from benchmarks.shapes import random_network

OURS, PYTORCH = pruning.OURS, "pytorch"

Times = dict[str, dict[str, Timing]]
Timer = Callable[[dict[str, Callable[[], Any]]], dict[str, Timing]]


def against_jaxpruner(jaxpruner: Any, toy: bool, timer: Timer) -> tuple[Times, dict[str, float]]:
    """Times by case and contender, and the ratios."""
    params = random_network(toy, dense_parts=False)
    times = {}
    for method in pruning.METHODS:
        if method == "static":
            continue
        case = f"mask update, {method}"
        print("timing", case, file=sys.stderr)
        times[case] = timer(
            {
                pruning.PEER: pruning.peer_mask_update(jaxpruner, method, params),
                OURS: pruning.our_mask_update(method, params),
            }
        )
    ratios = _peer_over_ours(times, pruning.PEER)
    print("timing optimizer steps", file=sys.stderr)
    case = "optimizer step"
    taken = times[case] = timer(pruning.step_contenders(jaxpruner, params))
    plain = taken[pruning.PLAIN].median
    for method in pruning.METHODS:
        ours, theirs = (taken[f"{side} {method}"].median for side in (OURS, pruning.PEER))
        ratios[f"{case}, {method}: {pruning.PEER} / {OURS}"] = theirs / ours
        ratios[f"{case}, {method}: {pruning.PEER} / plain"] = theirs / plain
        ratios[f"{case}, {method}: {OURS} / plain"] = ours / plain
    return times, ratios


def against_reference(peer: Any, toy: bool, timer: Timer) -> tuple[Times, dict[str, float]]:
    """Times by case and contender, and the ratios."""
    trained = {"resnet20": 2} if toy else {"resnet32": 128, "vgg19": 128, "resnet50": 64}
    updated, superposed = ("resnet20", "resnet20") if toy else ("vgg19", "resnet50")
    times: Times = {}
    for name, batch in trained.items():
        case = f"training step, {name}, batch {batch}"
        print("timing", case, file=sys.stderr)
        ours, theirs = Network(name), PeerNetwork(peer, name)
        print(f"{name}: {ours.size():,} parameters, the reference code: {theirs.size():,}")
        times[case] = timer({PYTORCH: theirs.train_step(batch), OURS: ours.train_step(batch)})
    print("timing mask update and superposition", file=sys.stderr)
    times[f"mask update, {updated}"] = timer(
        {PYTORCH: PeerNetwork(peer, updated).mask_update(), OURS: Network(updated).mask_update()}
    )
    first, second, result = (PeerNetwork(peer, superposed) for _ in range(3))
    tickets = [Network(superposed, seed).state.ticket for seed in (0, 1)]
    case = f"superposition of two, {superposed}"
    times[case] = timer(
        {PYTORCH: result.superposition(first, second), OURS: superposition(tickets)}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs_of_files = result.superposition_of_files(first, second, folder)
        times[f"{case}, with files"] = timer(
            {PYTORCH: theirs_of_files, OURS: superposition_of_files(tickets, folder)}
        )
    return times, _peer_over_ours(times, PYTORCH)


def _peer_over_ours(times: Times, peer: str) -> dict[str, float]:
    return {
        f"{case}: {peer} / {OURS}": taken[peer].median / taken[OURS].median
        for case, taken in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--toy", action="store_true", help="small networks, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/peers.json"))
    flags = parser.parse_args(arguments)
    times: Times = {}
    ratios: dict[str, float] = {}
    if add_peer_paths():
        repetitions, budget = (3, 1.0) if flags.toy else (50, 8.0)

        def timer(functions: dict[str, Callable[[], Any]]) -> dict[str, Timing]:
            return time_interleaved(functions, repetitions, budget)

        if (jaxpruner := load_jaxpruner()) is not None:
            taken, found = against_jaxpruner(jaxpruner, flags.toy, timer)
            times, ratios = times | taken, ratios | found
        if (reference := load_reference()) is not None:
            taken, found = against_reference(reference, flags.toy, timer)
            times, ratios = times | taken, ratios | found
        print("Milliseconds, median (least to most)")
        print_table(
            ["", "", "median", "least to most"],
            [
                [case, name, *milliseconds(t)]
                for case, contenders in times.items()
                for name, t in contenders.items()
            ],
        )
        print_table(["ratio", ""], [[name, f"{ratio:.2f}"] for name, ratio in ratios.items()])
    else:
        print(f"no peers: set {VARIABLE} to the folders of their packages, separated by colons")
    spreads = {
        f"{case}: {peer} / {OURS}": ratio_spread(taken[peer], taken[OURS])
        for case, taken in times.items()
        for peer in (pruning.PEER, PYTORCH)
        if peer in taken
    }
    write_json(flags.output, {"seconds": times, "ratios": ratios, "spreads": spreads})


if __name__ == "__main__":
    main()
