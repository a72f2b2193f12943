"""Speed of distilrt beside other engines on the same machine: `python -m distilrt.bench compare | startup | roofline`.

Rules of a comparison:

- Every engine runs the same checkpoint, token ids and thread count, NumPy arrays in and logits out, and only after its
  answers were found right.
- Each has a process of its own. It may spin while it has its turn, as it does by default, but must sleep in the turns
  of others; short workloads are repeated within a turn, so that none is timed cold.
- One loaded model serves all shapes. Batches are padded to their longest sequence, except for engines that take
  sequences as they are; tokens per second count real tokens only.
- A classifier reads one row of the last layer, and distilrt computes no more of it; every peer computes all rows.
  `distilrt-all-rows` does so too: its ratio compares kernels, distilrt's what a user gets.
- Peers of one dtype are compared with each other. Where time is short, only those far behind sit out.

Needs the extra `bench`; an engine that is not installed is named and left out.
"""
