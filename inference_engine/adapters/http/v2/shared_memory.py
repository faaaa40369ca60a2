"""The system shared memory extension of v2: its endpoints, and the parameters that place a tensor in a region."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from inference_engine.adapters.http.decoding import decode, shown
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.v2.wire import InferInput, Parameters
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain import datatypes
from inference_engine.domain.errors import InvalidTensor, UnknownField, UnsupportedTask
from inference_engine.domain.tensors import Array

REGION = "shared_memory_region"
_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"
_ENCODER = msgspec.json.Encoder()
_MAX_BYTES = 2**48


class RegisterRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`byte_size` bytes from `offset` on of the shared memory object `key`."""

    key: str
    byte_size: Annotated[int, Meta(ge=1, le=_MAX_BYTES)]
    offset: Annotated[int, Meta(ge=0, le=_MAX_BYTES)] = 0


class RegionStatus(msgspec.Struct):
    name: str
    key: str
    offset: int
    byte_size: int


_REGISTER = msgspec.json.Decoder(RegisterRequest)


class SharedMemory:
    """The endpoints. There is no GPU memory to be shared: its list is empty, and registering it is refused."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def status(self, exchange: Exchange) -> None:
        found = self._regions.status(exchange.path_params.get("region", ""))
        listed = [RegionStatus(region.name, region.key, region.offset, region.size_bytes) for region in found]
        await exchange.respond(200, _ENCODER.encode(listed))

    async def register(self, exchange: Exchange) -> None:
        request = decode(_REGISTER, await exchange.body())
        self._regions.register(exchange.path_params["region"], request.key, request.offset, request.byte_size)
        await exchange.respond(200, b"{}")

    async def unregister(self, exchange: Exchange) -> None:
        self._regions.unregister(exchange.path_params.get("region", ""))
        await exchange.respond(200, b"{}")

    async def cuda_status(self, exchange: Exchange) -> None:
        await exchange.respond(200, b"[]")

    async def cuda_register(self, exchange: Exchange) -> None:
        await exchange.body()
        raise UnsupportedTask("CUDA shared memory is not served: register system shared memory, or send the tensor")

    async def cuda_unregister(self, exchange: Exchange) -> None:
        await exchange.respond(200, b"{}")


class Place(NamedTuple):
    """Where in a region a tensor lies, or may be put."""

    region: str
    size_bytes: int
    offset: int

    @classmethod
    def of(cls, parameters: Parameters, tensor: str) -> Place:
        """Raises `InvalidTensor` for values of a wrong type, `UnknownField` for parameters that do not go with them."""
        region, size, offset = parameters[REGION], parameters.get(_SIZE), parameters.get(_OFFSET, 0)
        if not isinstance(region, str):
            raise InvalidTensor(f"tensor {tensor!r}: {REGION} must be the name of a region", param=tensor)
        for name, value in ((_SIZE, size), (_OFFSET, offset)):
            if type(value) is not int or not 0 <= value <= _MAX_BYTES:
                raise InvalidTensor(f"tensor {tensor!r}: {name} must be a number of bytes", param=tensor)
        for name, value in parameters.items():
            if name not in (REGION, _SIZE, _OFFSET) and (name, value) != ("binary_data", False):
                raise UnknownField(
                    f"tensor {tensor!r}: the parameter {shown(name)} does not go with {REGION}: leave one out",
                    param=tensor,
                )
        return cls(region, int(size or 0), int(offset))


def read_input(regions: Regions, tensor: InferInput, parameters: Parameters) -> Array:
    """An input that lies in a region, copied: the client may change the region before it is computed.

    Raises:
        InvalidTensor: it does not lie within the region, or is not what shape and datatype need.
    """
    place = Place.of(parameters, tensor.name)
    if tensor.data is not msgspec.UNSET:
        raise InvalidTensor(f"input {tensor.name!r} has both data and {REGION}", param=tensor.name)
    raw = regions.read(place.region, place.offset, place.size_bytes, tensor.name)
    return datatypes.from_raw(tensor.name, tensor.datatype, tensor.shape, raw)


def write_output(regions: Regions, name: str, array: Array, place: Place) -> None:
    """Put an output into its region. Raises `InvalidTensor` where it does not fit.

    The answer tells nothing of it, as in Triton: its C++ client takes any parameter of an output for those of binary
    data.
    """
    regions.write(place.region, place.offset, place.size_bytes, datatypes.to_raw(array), name)
