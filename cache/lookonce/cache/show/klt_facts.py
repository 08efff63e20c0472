"""What a KLT code keeps of a token, for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass

from lookonce.shared.printing import bytes_text
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.precision import TargetShape
from lookonce.storage_schemas.precision.klt.view_code import ViewCode


@dataclass(frozen=True, kw_only=True)
class KltFacts:
    """The code of a cache whose targets are transform coded."""

    values: int
    """Values of a token, blocks times channels."""
    components: int
    """Components of a token that have bits."""
    token_bits: int
    """Bits of a token's components together."""
    token_bytes: int
    """Bytes of a token's record."""
    coarse_functions: int
    """Spatial functions of a view's coarse part: products of as many cosines along each axis as its square root."""
    coarse_components: int
    """Components of the coarse part that have bits at one function at least."""
    coarse_bits: int
    """Bits of the coarse part of a view."""
    coarse_bytes: int
    """Bytes of a view's coarse record."""
    bits_per_value: float
    """Stored bits of a view's patch tokens and coarse part over their values."""
    object: str
    """Path of the object of the encoding, relative to the cache."""
    object_bytes: int
    """Its bytes."""

    def text(self) -> str:
        """One line for people."""
        along = round(self.coarse_functions**0.5)
        cosines = f"{along} x {along} cosines" if along > 1 else "mean over patches"
        return (
            f"tokens keep {self.components:,} of {self.values:,} components, {self.token_bits:,} bits in "
            f"{self.token_bytes:,} bytes; coarse part of a view ({cosines}) keeps {self.coarse_components:,} of "
            f"{self.values:,} components, {self.coarse_bits:,} bits in {self.coarse_bytes:,} bytes; "
            f"{self.bits_per_value:.3g} bits per value; bases: {self.object}, {bytes_text(self.object_bytes)}"
        )


def klt_facts(encoding: Encoding, shape: TargetShape) -> KltFacts | None:
    """Facts of the code of an encoding; None if its precision is not a KLT.

    Args:
        encoding: of the cache.
        shape: of a view's targets.
    """
    if not encoding.codes_views:
        return None
    code = ViewCode.from_parameters(encoding.parameters)
    token_bytes, coarse_bytes = code.record_bytes.tolist()
    values = code.layers * code.channels
    return KltFacts(
        values=values,
        components=int((code.token_bits > 0).sum()),
        token_bits=int(code.token_bits.sum(dtype=int)),
        token_bytes=token_bytes,
        coarse_functions=code.functions,
        coarse_components=int((code.coarse_bits > 0).any(axis=0).sum()),
        coarse_bits=int(code.coarse_bits.sum(dtype=int)),
        coarse_bytes=coarse_bytes,
        bits_per_value=8 * (token_bytes * shape.patches + coarse_bytes) / (values * shape.patches),
        object=encoding.object_path,
        object_bytes=len(encoding.object_content()),
    )
