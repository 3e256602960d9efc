"""What the pictures of a run have in common."""

WIDTH, DPI = 8.0, 150
"""Inches, and pixels an inch: 1200 pixels wide, and legible down to 1000."""

BLACK, BLUE, SKY, ORANGE, GREEN = "#000000", "#0072B2", "#56B4E9", "#E69F00", "#009E73"
RED, PINK = "#D55E00", "#CC79A7"
"""From the palette of Okabe and Ito, which colour-blind people can tell apart."""
