"""A text-to-image model small enough to ship: weights, concept list, loader; `training` is the recipe that made it."""
