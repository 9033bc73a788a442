"""Shard an objective's parameters over processes (FSDP2), and its tensors over files: one for each process.

The files are safetensors, written and read by `torch.distributed.checkpoint`, which knows where a part belongs: any
number of processes can read what N processes wrote, and so can one alone.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .distributed import World
from .nn.vit import Block
from .objective import Objective

if TYPE_CHECKING:  # takes most of a second to import, and most runs shard nothing
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def shard_parameters(objective: Objective, world: World, precision: torch.dtype, compiled: bool) -> None:
    """Shard the parameters of `objective` in place: every transformer block is gathered when it is needed.

    Parameters outside of blocks are gathered for the whole step. With bf16 on GPUs, blocks are gathered in bf16 and
    gradients reduced in float32; parameters and optimiser state stay float32. Blocks are compiled one by one, because a
    graph cannot contain the gathering.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh, policy = init_device_mesh(world.device.type, (world.size,)), MixedPrecisionPolicy()
    if precision == torch.bfloat16 and world.device.type == "cuda":  # autocast on CPUs takes no bf16 weights for norms
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in [m for m in objective.modules() if isinstance(m, Block)]:
        if compiled:
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "sample")  # masks may depend on a teacher's attention
    objective.to(world.device)


def is_sharded(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def copy_full_parameters(objective: nn.Module, into: nn.Module | None) -> None:
    """Copy all parameters into an unsharded network of the same kind. Every process calls it; `into` may be None."""
    targets = into.state_dict() if into is not None else {}
    for name, value in objective.state_dict().items():
        full = full_tensor(value)
        if name in targets:
            targets[name].copy_(full)


def full_tensor(value: Tensor) -> Tensor:
    """The full tensor of one that may be sharded. Every process has to call it."""
    if type(value) in (Tensor, nn.Parameter):
        return value
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def file_of(rank: int) -> str:
    """The file that a process writes, under torch's name for it."""
    return f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"


def write_shards(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Write this process's parts, and wait until they are on the disk. Every process has to call it.

    OSError on every process when one of them could not.
    """
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _collectively(lambda: dcp.save(dict(tensors), storage_writer=writer, process_group=world.control))


def read_shards(folder: Path, into: Mapping[str, Tensor], world: World | None = None) -> None:
    """Read into these tensors, sharded or not, however many processes wrote the files. ValueError: they do not fit."""
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    sizes = tensor_sizes(folder)
    for name, value in into.items():
        if sizes.get(name) != value.shape:
            actual = f"is {[*sizes[name]]}" if name in sizes else "is missing"
            raise ValueError(f"{name} {actual}, {[*value.shape]} is expected")
    alone = world is None or world.size == 1
    group = None if world is None else world.control
    _collectively(lambda: dcp.load(dict(into), storage_reader=reader, process_group=group, no_dist=alone))


def read_full(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the full tensors whose names are wanted, on the CPU."""
    tensors = {
        name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in _metadata(folder).items() if wanted(name)
    }
    read_shards(folder, tensors)
    return tensors


def tensor_sizes(folder: Path) -> dict[str, torch.Size]:
    """Names and full sizes of all tensors."""
    return {name: m.size for name, m in _metadata(folder).items()}


def _metadata(folder: Path) -> "dict[str, TensorStorageMetadata]":
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: m for name, m in metadata.items() if isinstance(m, TensorStorageMetadata)}


def _collectively(action: Callable[[], Any]) -> None:
    """Turn torch's collective error, which is no `Exception`, into an OSError with the reason of every process."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="torch.distributed is disabled"
            )  # as intended for a single process
            action()
    except CheckpointException as e:
        reasons: Iterable[tuple[int, Any]] = e.failures.items()
        raise OSError("; ".join(f"process {rank}: {error[0]}" for rank, error in reasons)) from None
