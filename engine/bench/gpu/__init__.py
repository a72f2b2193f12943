"""The GPU suite and the GPU probe: what `benches/gpu_suite.py` and `benches/gpu_probe.py` run.

`suite` is the flow, `timing` has clocks and ceilings, `runs` times distilrt, `ops` each kernel and `peers` the others,
`probe` measures the device itself; what is compared with the reference on the device is in tests/gpu. They need torch,
triton, numpy, safetensors, tokenizers and transformers, and no native extension. Under Triton's interpreter all of it
runs on the CPU at a tiny scale, which shows that it works and nothing else.
"""
