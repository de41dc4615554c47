"""From two npm icon packages to the shipped weights; run `python -m embedded_model.training --help`."""
