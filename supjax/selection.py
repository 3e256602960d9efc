"""Exact masks of the k largest scores; see the module's helper for how ties are resolved."""
