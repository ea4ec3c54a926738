"""The seams to the packet path: `Backend` and `Wire`, and what meets them."""
