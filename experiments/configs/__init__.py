"""Configs: one lab note an experiment; `common` holds the shared fields."""
