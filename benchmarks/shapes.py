"""Weight shapes of the networks that the benchmarks take as their workload."""


def resnet50_kernels() -> dict[str, tuple[int, ...]]:
    """Kernel shapes of ResNet-50 for ImageNet, in the order of the network.

    There are 54 with 25,502,912 weights.
    """
    kernels: dict[str, tuple[int, ...]] = {"stem": (7, 7, 3, 64)}
    incoming = 64
    stages = [(3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048)]
    for stage, (blocks, inner, outer) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}/block{block}"
            kernels[f"{name}/conv1"] = (1, 1, incoming, inner)
            kernels[f"{name}/conv2"] = (3, 3, inner, inner)
            kernels[f"{name}/conv3"] = (1, 1, inner, outer)
            if block == 1:
                kernels[f"{name}/shortcut"] = (1, 1, incoming, outer)
            incoming = outer
    kernels["classifier"] = (incoming, 1000)
    return kernels
