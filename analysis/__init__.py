"""Readers of a finished search: the final evaluation and its report."""
