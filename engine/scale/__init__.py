"""Many machines, by Ray: `ray_serve` answers over HTTP, `ray_data` works through datasets. Needs the extra `ray`."""
