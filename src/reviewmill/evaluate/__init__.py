"""How good the labels are: measuring, error sets, comparing. Built on labelled files and the same pipeline as a run."""
