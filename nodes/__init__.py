"""What the canvas shows: one file per node, schema and wiring only."""
