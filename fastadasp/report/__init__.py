"""Reports: what runs of `compare` and `ablate` found, on one page that a person can look at and listen to."""
