r"""Pretraining of the embedded backbone `nano`.

    python -m igsp_train.pretrain --images ../shared/data/pretrain_caltech --out nano.safetensors
    python -m igsp_train.pretrain.measure --weights nano.safetensors --zero-shot ../shared/data/caltech101_20

The weights that ship came from two runs on a busy machine, the first shortened by its time limit to 623 steps:

    python -m igsp_train.pretrain --images DIR --out first.safetensors --steps 900
    python -m igsp_train.pretrain --images DIR --out nano.safetensors --start-from first.safetensors --steps 300 \
        --learning-rate 3e-4 --text-learning-rate 8e-4 --batch 16 64 32
"""
