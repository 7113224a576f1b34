"""A source's physical shape, and the hand-made pages by which a database without rows has it."""
