"""The style of figures, here and in bench. The colours suit all eyes (Okabe and Ito 2008)."""

from typing import Any, Final

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#222222", "#888888",
)  # fmt: skip
GRID: Final = "#e4e4e4"
STYLE: Final[Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.markersize": 4,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "leash", "savefig.dpi": 150,
}  # fmt: skip

INK: Final = "#24292f"
MUTED: Final = "#656d76"
ABSENT: Final = "#d0d4d9"
# Names are never formulas.
REPORT_STYLE: Final[Any] = {
    **STYLE, "text.parse_math": False, "text.color": INK, "axes.labelcolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED, "axes.edgecolor": "#b4bac1", "xtick.major.size": 3,
    "ytick.major.size": 0, "axes.labelsize": 8.5, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.left": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "legend.fontsize": 8.5,
}  # fmt: skip

STATE_COLORS: Final = {"computing": BLUE, "exchanging": SKY, "held back": ORANGE, "gone": ABSENT}
# Runs side by side take these colours in turn, then again with another line.
RUN_COLORS: Final = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINE_STYLES: Final[tuple[Any, ...]] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))

# Colour in a figure ▸ its CSS variable, which has another value on a dark page.
PAGE_VARIABLES: Final = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", "#b4bac1": "--axis", ABSENT: "--absent",
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", RED: "--red", PURPLE: "--purple",
    SKY: "--sky", BLACK: "--ink", GREY: "--grey",
}  # fmt: skip
