"""The limits of a codec's settings, for the command line and for `Encoding` alike."""

from typing import Final

from leash.ps.errors import ArgumentError

CODEC_NAMES: Final = ("f32", "bf16", "f16", "int8", "topk")
MIN_INT8_BLOCK: Final = 64  # values that share a scale, a power of two
MAX_INT8_BLOCK: Final = 65536
MAX_TOPK_RATIO: Final = 0.5  # beyond it the indices cost more than they save


def check_encoding(codec: str, int8_block: int, topk_ratio: float) -> None:
    """Raises ArgumentError for the first of these that no gradient can be written with."""
    if codec not in CODEC_NAMES:
        raise ArgumentError("codec", codec, f"take one of {', '.join(CODEC_NAMES)}")
    if not MIN_INT8_BLOCK <= int8_block <= MAX_INT8_BLOCK or int8_block & (int8_block - 1):
        raise ArgumentError(
            "int8_block", int8_block,
            f"give a power of two from {MIN_INT8_BLOCK} to {MAX_INT8_BLOCK}",
        )  # fmt: skip
    if not 0 < topk_ratio <= MAX_TOPK_RATIO:
        raise ArgumentError(
            "topk_ratio", topk_ratio, f"give a number above 0, and at most {MAX_TOPK_RATIO}"
        )
