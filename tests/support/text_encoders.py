"""How many layers the stand-ins' text encoders have, in the words of ComfyUI's model options.

Three is the fewest that SDXL's can have: it reads the last but one. A file of its own, so that the server can read it
without what makes the stand-ins.
"""

LIGHT = {
    "clip_l_model_config": {"num_hidden_layers": 3},
    "clip_g_model_config": {"num_hidden_layers": 3},
    "t5xxl_model_config": {"num_layers": 1, "d_ff": 64, "num_heads": 2},
}
