"""Bundles, wired: what is decided, fetched and packed for some machines, and what becomes of it on one."""
