"""The HTTP server: several wire formats, each a file, over the same engines. Needs the extra `serve`.

`distilrt.server.app.create_app` makes an ASGI application of engines; `distilrt serve` runs it.
"""
