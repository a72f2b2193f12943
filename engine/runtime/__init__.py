"""The engine that serves requests: queues, batches, worker threads."""
