"""Structures in, designs out: the model that users hold, and what it calls."""
