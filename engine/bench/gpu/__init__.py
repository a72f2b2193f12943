"""The first hour on a GPU: what `benches/gpu_hour.py` runs.

`hour` is the order and the time limits, `steps` what each step does, `timing` has clocks and ceilings, `runs` times
distilrt, `ops` each kernel and `peers` the others, `probe` measures the device itself; tests/gpu compares with the
reference on the device. They need torch, triton, numpy, safetensors, tokenizers and transformers, and no native
extension. Under Triton's interpreter all of it runs on the CPU at a tiny scale, which shows that it works and nothing
else.
"""
