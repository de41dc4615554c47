"""Search for the settings that suit a model best (section 2.4 and appendix D)."""
