"""Baselines, studies, MTIL and the pretraining of nano: no product code imports them."""
