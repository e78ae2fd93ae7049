"""Batches: read → clean → dedupe → cache → model → write, with a journal that survives being killed."""
