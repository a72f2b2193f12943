"""Speed of distilrt beside other engines and servers on the same machine: `distilrt bench`.

A `Spec` says what is measured: an engine in a dtype and a form, or a server's URL. A `Session` is its process.
`Samples` are what it computes, texts or token ids. Sessions take turns (`turns.py`), and what they showed becomes rows
of `Findings`.

Rules of a comparison:

- Every engine runs the same checkpoint, token ids and thread count, NumPy arrays in and logits out, and only after its
  answers were found right.
- Each has a process of its own. It may spin while it has its turn, as it does by default, but must sleep in the turns
  of others; short workloads are repeated within a turn, so that none is timed cold.
- A peer runs in every form that a careful user of it would choose (`peers.py`), and a claim is against the best form
  of the best peer. Tokens per second count real tokens only.
- A classifier reads one row of the last layer, and distilrt computes no more of it; every peer computes all rows. The
  form `all-rows` does so too: its ratio compares kernels, that of `first-rows` what a user gets.
- Peers of one dtype are compared with each other. Where time is short, only those far behind sit out.

Needs the extra `bench`, and `bench-peers` for other engines; one that is not installed is named and left out.
"""
