"""Bundles: one file with everything that some machines need, for places without a network."""
