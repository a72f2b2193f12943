"""Distillation: a student with the width of a BERT and half of its layers, trained to answer as the BERT does.

The method is that of DistilBERT's paper (Sanh et al. 2019, arXiv:1910.01108). `distilrt.distill.command` is the verb,
`distilrt.distill.run` what it does. Training is torch's and transformers' (extra `distill`); the frozen teacher runs on
this project's engine.
"""
