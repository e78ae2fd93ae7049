"""Alembic's folder: `env.py` connects it with the store, `versions` has the revisions."""
