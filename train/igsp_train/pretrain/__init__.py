"""Pretraining of the embedded backbone `nano`; `python -m igsp_train.pretrain --help` says how to run it."""
