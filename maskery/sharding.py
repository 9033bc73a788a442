"""A method whose parameters are shared out among the processes (FSDP2), and its tensors in files: one for each process.

The files are safetensors, written and read by `torch.distributed.checkpoint`, which knows where a part belongs: what N
processes wrote, any other number of them can read, and so can one alone.
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

if TYPE_CHECKING:  # what shares tensors out takes most of a second to import, and most runs share nothing
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def over(world: World, objective: Objective, precision: torch.dtype, compiled: bool) -> None:
    """Share the parameters of `objective` out, in place: every transformer block is gathered when its turn comes.

    What lies outside of blocks is gathered for the whole step. With bf16 on GPUs the blocks travel in bf16, gradients
    in float32; kept and stepped is float32. Compiled are single blocks: a graph cannot reach over what gathers them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh, travels = init_device_mesh(world.device.type, (world.size,)), MixedPrecisionPolicy()
    if precision == torch.bfloat16 and world.device.type == "cuda":  # autocast on CPUs takes no bf16 weights for norms
        travels = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in [m for m in objective.modules() if isinstance(m, Block)]:
        if compiled:
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh, mp_policy=travels)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "sample")  # a teacher may look while masks are drawn
    objective.to(world.device)


def is_sharded(module: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def gather(objective: nn.Module, into: nn.Module | None) -> None:
    """Copy all parameters into a whole network of the same kind. Every process has to call it, `into` may be None."""
    wanted = into.state_dict() if into is not None else {}
    for name, value in objective.state_dict().items():
        full = whole(value)
        if name in wanted:
            wanted[name].copy_(full)


def whole(value: Tensor) -> Tensor:
    """A tensor that may be shared out. Every process has to call it."""
    if type(value) in (Tensor, nn.Parameter):
        return value
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def file_of(rank: int) -> str:
    """The file that a process writes; the name is torch's."""
    return f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"


def write(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Write this process's parts, and wait until they are on the disk. Every process has to call it.

    OSError on every process when one of them could not.
    """
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _collectively(lambda: dcp.save(dict(tensors), storage_writer=writer, process_group=world.control))


def read(folder: Path, into: Mapping[str, Tensor], world: World | None = None) -> None:
    """Read into these tensors, whole ones or shared out ones, whatever wrote the files. ValueError: they do not fit."""
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    sizes = sizes_in(folder)
    for name, value in into.items():
        if sizes.get(name) != value.shape:
            found = f"is {[*sizes[name]]}" if name in sizes else "is missing"
            raise ValueError(f"{name} {found}, {[*value.shape]} is wanted")
    alone = world is None or world.size == 1
    group = None if world is None else world.control
    _collectively(lambda: dcp.load(dict(into), storage_reader=reader, process_group=group, no_dist=alone))


def read_whole(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors with a wanted name, whole, on the CPU."""
    whole = {name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in _known(folder).items() if wanted(name)}
    read(folder, whole)
    return whole


def sizes_in(folder: Path) -> dict[str, torch.Size]:
    """The names and sizes of all tensors, each as a whole."""
    return {name: m.size for name, m in _known(folder).items()}


def _known(folder: Path) -> "dict[str, TensorStorageMetadata]":
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: m for name, m in known.items() if isinstance(m, TensorStorageMetadata)}


def _collectively(what: Callable[[], Any]) -> None:
    """torch gathers what went wrong on all processes into something that is no `Exception`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is what one alone wants
            what()
    except CheckpointException as e:
        reasons: Iterable[tuple[int, Any]] = e.failures.items()
        raise OSError("; ".join(f"process {rank}: {error[0]}" for rank, error in reasons)) from None
