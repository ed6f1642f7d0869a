"""The codec in which a worker's gradients travel.

Error feedback: Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and other Gradient
Compression Schemes", arXiv:1901.09847, algorithm 2.
"""

from dataclasses import dataclass
from typing import Final

from leash.ps.wire.codecs import check_encoding

WITH_FEEDBACK: Final = ("int8", "topk")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The codec in which a worker's gradients travel, and the codec's settings.

    Attributes:
        codec: "f32", as they are; "f16" or "bf16", rounded to half the bytes, as the parameters
            are then too; "int8", rounded to a byte each, with a scale for each block; "topk", only
            those of largest magnitude. What int8 and topk leave out is added to the next gradient
            (error feedback: Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2).
        int8_block: how many values share a scale: a power of two from 64 to 65,536.
        topk_ratio: the share of a chunk's values that are sent, above 0 and at most 0.5.
        answer_codec: the codec of the parameters that a push is answered with over TCP, "f32",
            "bf16" or "f16"; None: the codec's own if it is one of these, otherwise "f32".
            In shared memory parameters lie as they are.

    Raises:
        ArgumentError: the codec is unknown, or a setting is outside these limits.
    """

    codec: str = "f32"
    int8_block: int = 256
    topk_ratio: float = 0.01
    answer_codec: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.codec, self.int8_block, self.topk_ratio, self.answer_codec)
