"""What a ``.ckpt`` or ``.pt`` file would import when unpickled, found without unpickling it and without torch.

This gives a clear message in milliseconds; safety comes from the restricted unpickler
(``torch.load(weights_only=True)``) that reads the file afterwards.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bayes_merger.errors import CheckpointError, and_more, one_line

ZIP_START = b"PK\x03\x04"
PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))

_LARGEST_PICKLE = 64_000_000  # bytes; a real data.pkl has well under one million, so this is not a checkpoint
_MOST_REMEMBERED = 300_000  # objects, each of 100 bytes while it is read; real checkpoints have 100,000 at most
_MOST_OPERATIONS = 1_000_000  # two seconds; real checkpoints have 300,000 at most
_REMEMBERING = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage keys; then raw bytes

_STORAGES = tuple(
    f"torch.{kind}Storage"
    for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
)
_ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "_codecs.encode",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch.Size",
        "torch.device",
        *_STORAGES,
        *(
            f"torch.{dtype}"
            for dtype in (
                "float16",
                "float32",
                "float64",
                "bfloat16",
                "float8_e4m3fn",
                "float8_e5m2",
                "int8",
                "int16",
                "int32",
                "int64",
                "uint8",
                "uint16",
                "uint32",
                "uint64",
                "bool",
            )
        ),
    }
)


class Inert:
    """An object of a pickle that nobody needs: made of anything, and nothing itself."""

    def __new__(cls, *_: object) -> Inert:
        """Whatever it is made of."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Forget it."""


class InertTable:
    """What is filled like a table, and becomes a plain one: the unpickler puts items into no other."""

    def __new__(cls, *_: object) -> Any:
        """An empty table."""
        return {}


class InertModule(dict[str, object]):
    """A container of torch's with parameters in it, as a table of them."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Take over the parameters."""
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        if isinstance(parameters, dict):
            self.update(parameters)


INERT: Mapping[str, type] = {
    **dict.fromkeys((
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        "numpy.dtype", "numpy.ndarray", "pathlib.PosixPath", "pathlib.WindowsPath", "argparse.Namespace",
        *(f"{module}.{name}" for module in ("__builtin__", "builtins")
          for name in ("set", "frozenset", "complex", "slice", "dict", "list", "tuple", "int", "float", "str", "bool",
                       "long", "unicode", "bytes")),  # what protocol 2 calls some of these
        "collections.Counter", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "typing.Any",
        *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata",
                                           "base.Metadata", "nodes.AnyNode")),
    ), Inert),
    **dict.fromkeys((
        "collections.defaultdict",
        "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    ), InertTable),
    "torch.nn.modules.container.ParameterDict": InertModule,
}  # fmt: skip
"""What trainers leave beside the tensors, as in Stable Diffusion's own files -> what stands for it: it is never
imported. Most are those of https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/master/modules/safe.py
"""


# What zipfile and pickletools raise on bytes that are not what they should be.
_DAMAGE = (
    ValueError, EOFError, IndexError, OSError, OverflowError, MemoryError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile,
)  # fmt: skip


def check_pickle(path: Path) -> None:
    """Refuse a pickled checkpoint that would import anything but tensors.

    Raises:
        CheckpointError: foreign objects, or not a checkpoint; the text does not name the file.
    """
    found: set[str] = set()
    damage: Exception | None = None
    try:
        for name in imports_of(path):
            found.add(name)
    except _DAMAGE as error:  # foreign objects found before the damage matter more
        damage = error
    foreign = sorted(found - _ALLOWED - INERT.keys())
    if foreign:
        names = and_more([one_line(name) for name in foreign])
        raise CheckpointError(
            f"carries foreign objects ({names}): convert it to safetensors with a tool you trust, "
            "on a machine you can spare"
        )
    if damage is not None:
        reason = one_line(damage)
        raise CheckpointError(f"not a readable checkpoint ({reason}): download or export it again") from damage


def imports_of(path: Path) -> Iterator[str]:
    """Every ``module.name`` that unpickling the file would import."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) == ZIP_START:
            yield from _imports(io.BytesIO(_data_pickle(path)), size)
            return
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            yield from _imports(file, size)


def _data_pickle(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == "data.pkl"]
        if not pickles and any(entry.filename.endswith(".safetensors") for entry in archive.infolist()):
            raise CheckpointError("an archive; unpack it, and give the model in it")
        if any(entry.filename.endswith("/constants.pkl") for entry in archive.infolist()):
            raise CheckpointError("a program for TorchScript, not a model's tensors alone; give a .safetensors file")
        if len(pickles) != 1:
            raise ValueError(f"a zip file with {len(pickles)} data.pkl in it")
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise ValueError(f"data.pkl of {pickles[0].file_size} bytes")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("a compressed zip file")
        return archive.read(pickles[0])


def _imports(file: BinaryIO, size: int) -> Iterator[str]:
    """The globals of one pickle; leaves ``file`` positioned after its end.

    Raises:
        ValueError: it would take far more memory to load than the file is large.
    """
    texts: list[str] = []  # those pushed last, which STACK_GLOBAL takes its two names from
    memo: dict[int, str] = {}
    latest, number, remembered = "", 0, 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if count > _MOST_OPERATIONS:
            raise ValueError(f"a pickle of more than {_MOST_OPERATIONS} operations")
        if (opcode.arg is not None and "INT" in name) or name in ("LONG1", "LONG4"):
            number = int(argument or 0)
        elif name == "BINPERSID" and number > size:  # the last part of a storage's description is its length
            raise ValueError(f"a storage of {number} numbers in a file of {size} bytes")
        elif name in _REMEMBERING and (remembered := remembered + 1) > _MOST_REMEMBERED:
            raise ValueError(f"more than {_MOST_REMEMBERED} objects in a pickle")
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:]) if len(texts) >= 2 else "a hidden name"
        elif name in ("EXT1", "EXT2", "EXT4"):
            yield "an extension code"
        elif "UNICODE" in name or "STRING" in name:
            latest = str(argument)
            texts = [*texts[-1:], latest]
        elif name == "MEMOIZE":
            memo[len(memo)] = latest
        elif name in _REMEMBERING and argument is not None:
            memo[int(argument)] = latest
        elif name in ("GET", "BINGET", "LONG_BINGET") and argument is not None:
            texts = [*texts[-1:], memo.get(int(argument), "?")]
