"""Discrete-event simulations of pure decisions that the product makes."""
