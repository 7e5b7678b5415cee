"""Float weights to 8- and 4-bit blocks, and what that costs."""
