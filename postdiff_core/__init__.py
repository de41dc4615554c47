"""What happens during a run; knows torch and comfy, never the nodes."""
