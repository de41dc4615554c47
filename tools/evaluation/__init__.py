"""Pictures and scores of many prompts on many GPUs; `python dev.py evaluate` is its command."""
