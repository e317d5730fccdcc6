"""An OpenAI-compatible HTTP server, and its page."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
