r"""Pretraining of the embedded backbone `nano`.

    python -m igsp_train.research.pretrain --images ../shared/data/pretrain_caltech --out nano.safetensors
    python -m igsp_train.research.pretrain.measure --weights nano.safetensors --zero-shot ../shared/data/caltech101_20

The first command with its defaults wrote the weights that ship, in 16 minutes on two cores that had other work as
well. The seed fixes pictures, captions and order; bfloat16 and the number of threads still move the last digits from
machine to machine.
"""
