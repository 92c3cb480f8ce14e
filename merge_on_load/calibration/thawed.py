"""Payloads that can be learned: one module for each codec whose numbers are not fixed.

Each gives the difference that it stands for, float32[rows, width], and, in the end, its payload.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from merge_on_load.calibration.stepped import Stepped, like_stored
from merge_on_load.codecs import Codec, Coding, Payload, make_codec
from merge_on_load.codecs.int_steps import IntStepsCodec
from merge_on_load.codecs.lowrank import WIDE_BITS, LowrankCodec, coded_signs
from merge_on_load.codecs.onebit import OnebitCodec
from merge_on_load.codecs.sparse import SparseCodec
from merge_on_load.codecs.topk import TopkCodec, largest


class Thawed(nn.Module):
    """What learns. Parameters are `latent` (what is coded) or `scale`."""

    def forward(self) -> torch.Tensor:
        """The difference from the base: float32[rows, width]."""
        raise NotImplementedError

    def payload(self) -> Payload:
        """As the codec's own `encode` gives it."""
        raise NotImplementedError


def thaw(coding: Coding, difference: torch.Tensor) -> Thawed | None:
    """One that begins at what the codec makes of difference, float32[rows, width], on its
    device. None for codecs that have nothing to learn.
    """
    codec: Codec = make_codec(coding.codec, coding.settings)
    if isinstance(codec, LowrankCodec):
        return _Lowrank(codec, difference)
    if isinstance(codec, SparseCodec):
        places = codec.places(*difference.shape)
        return _Scattered(codec, places, difference, scaled_by=codec.keep)
    if isinstance(codec, TopkCodec):
        array = difference.cpu()
        places = largest(array.numpy(), -(-array.shape[1] // codec.keep))
        rest = codec.encode("", torch.zeros(array.shape), array)
        return _Scattered(codec, places, difference, rest=rest)
    if isinstance(codec, IntStepsCodec):
        return _IntSteps(codec, difference)
    if isinstance(codec, OnebitCodec):
        return _Onebit(codec, difference)
    return None


class _IntSteps(Thawed):
    def __init__(self, codec: IntStepsCodec, difference: torch.Tensor) -> None:
        super().__init__()
        self.values = Stepped(difference, codec.group_size, codec.bits)

    def forward(self) -> torch.Tensor:
        values: torch.Tensor = self.values()
        return values

    def payload(self) -> Payload:
        packed, scale = self.values.packed()
        return {"packed": packed, "scale": scale}


class _Scattered(Thawed):
    """Steps at some columns of each row, which stay. places: int32[rows, count]."""

    def __init__(
        self,
        codec: SparseCodec | TopkCodec,
        places: npt.NDArray[np.int32],
        difference: torch.Tensor,
        *,
        scaled_by: int = 1,
        rest: Payload | None = None,
    ) -> None:
        """rest: what the payload has beside the values."""
        super().__init__()
        self._shape, self._rest = difference.shape, rest or {}
        self._kept = codec.kept(*difference.shape)
        self.places: torch.Tensor
        self.register_buffer("places", torch.from_numpy(places).long().to(difference.device))
        kept = self._kept.gathered(torch.gather(difference, 1, self.places) * scaled_by)
        self.values = Stepped(kept, self._kept.group_size, codec.bits)

    def forward(self) -> torch.Tensor:
        values = self._kept.scattered(self.values())
        whole = torch.zeros(self._shape, device=values.device)
        return whole.scatter(1, self.places, values)

    def payload(self) -> Payload:
        packed, scale = self.values.packed()
        return {**self._rest, "packed": packed, "scale": scale}


class _Onebit(Thawed):
    """Signs stay: BitDelta learns scales alone."""

    def __init__(self, codec: OnebitCodec, difference: torch.Tensor) -> None:
        super().__init__()
        device = difference.device
        zeros = torch.zeros(difference.shape)
        self._payload = codec.encode("", zeros, difference.cpu())
        self.signs: torch.Tensor
        self.register_buffer("signs", torch.where(difference >= 0, 1.0, -1.0))
        self.scale = nn.Parameter(self._payload["scale"].to(device))
        columns = self._payload.get("column_scale")
        self.column_scale = None if columns is None else nn.Parameter(columns.to(device))

    def forward(self) -> torch.Tensor:
        size = self.scale.unsqueeze(-1)
        if self.column_scale is not None:
            size = size * self.column_scale
        return self.signs * size

    def payload(self) -> Payload:
        found = {**self._payload, "scale": self.scale.detach().cpu()}
        if self.column_scale is not None:
            found["column_scale"] = self.column_scale.detach().cpu()
        return found


class _Wide(nn.Module):
    """Values in bfloat16."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.latent = nn.Parameter(values.clone())

    def forward(self) -> torch.Tensor:
        return like_stored(self.latent)

    def packed(self) -> tuple[torch.Tensor, None]:
        return self.latent.detach().cpu().bfloat16(), None


class _Lowrank(Thawed):
    def __init__(self, codec: LowrankCodec, difference: torch.Tensor) -> None:
        super().__init__()
        device, array = difference.device, difference.cpu().numpy()
        left, right = (torch.from_numpy(one).to(device) for one in codec.factors(array))
        self._bands = [bits for bits, _ in codec.bands()]
        self.left, self.right = (
            nn.ModuleList(
                _Wide(side[ranks]) if bits == WIDE_BITS else Stepped(side[ranks], group, bits)
                for bits, ranks in codec.bands()
            )
            for side, group in ((left.T.contiguous(), codec.group_size), (right, codec.group_size))
        )
        self._signs: Payload = {}
        self.signs: torch.Tensor
        self.scale: nn.Parameter | None = None
        if codec.has_residual:
            with torch.no_grad():
                rest = difference - self._product()
            self._signs = coded_signs(rest.cpu().numpy())
            self.register_buffer("signs", torch.where(rest >= 0, 1.0, -1.0))
            self.scale = nn.Parameter(rest.abs().mean(dim=1, keepdim=True))

    def forward(self) -> torch.Tensor:
        product = self._product()
        return product if self.scale is None else product + self.signs * like_stored(self.scale)

    def payload(self) -> Payload:
        found: dict[str, torch.Tensor] = {}
        for side, modules in (("left", self.left), ("right", self.right)):
            for bits, module in zip(self._bands, modules, strict=True):
                assert isinstance(module, _Wide | Stepped)
                packed, scale = module.packed()
                found[f"{side}_{bits}"] = packed
                if scale is not None:
                    found[f"{side}_scale_{bits}"] = scale
        if self.scale is not None:
            scale = self.scale.detach()[:, 0].cpu().bfloat16()
            found |= {"signs": self._signs["signs"], "sign_scale": scale}
        return found

    def _product(self) -> torch.Tensor:
        left, right = (
            torch.cat([module() for module in modules]) for modules in (self.left, self.right)
        )
        return left.T @ right
