"""Runs of many people side by side: a file for each run, and a page that ranks only what may be compared."""
