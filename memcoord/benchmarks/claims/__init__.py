"""``memcoord claims``: what the works this project builds on claim, and what is measured here."""
